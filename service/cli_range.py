"""The answer of a learning-rate range test in a terminal."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import typer

from service.cli_output import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.client_core import Json

ANSWERS = ("max_lr", "min_lr", "curve_max_lr", "steepest", "minimum_tenth", "valley")
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Characters of the drawn curve."""


def print_range(result: "Json") -> None:
    """Prints the smoothed curve of the first sweep, the suggested rates with their spread, and the reason."""
    for line in curve_lines(result["sweeps"][0]):
        typer.echo(line)
    rates = {name: result.get(name) or result["suggestions"].get(name) for name in ANSWERS}
    if result["max_lr"] is not None:
        typer.echo()
        spread = result["spread_decades"]
        rows = [[name, f"{rates[name]:.3g}", f"{spread[name]:.2f}" if name in spread else ""] for name in ANSWERS]
        print_table(rows, "answer", ">rate", ">spread (decades)")
        typer.echo(f"\nagreement on max_lr: {'one measurement, so no spread' if result['level'] == 'single' else result['level']}")
    typer.echo(result["reason"])
    if result["max_lr"] is not None:
        typer.echo(f"train with it: --max-lr {result['max_lr']:.3g}")


def curve_lines(sweep: "Json") -> list[str]:
    """The smoothed loss over the rates as bars, above the rates at its ends; nothing where no loss was finite."""
    smoothed, rates = sweep["smoothed"], sweep["learning_rate"]
    if not smoothed:
        return []
    # One explosion at the end would flatten all that comes before it.
    columns = _binned([min(loss, 1.5 * smoothed[0]) for loss in smoothed], WIDTH)
    low, high = min(columns), max(columns)
    bars = "".join(BARS[math.floor((loss - low) / (high - low or 1) * (len(BARS) - 1))] for loss in columns)
    first, last = f"{rates[0]:.2g}", f"{rates[len(smoothed) - 1]:.2g}"
    title = f"smoothed loss, {min(smoothed):.4g} to {max(smoothed):.4g}, over the learning rate"
    return [title, bars, f"{first}{last:>{len(bars) - len(first)}}"]


def _binned(values: "Sequence[float]", count: int) -> list[float]:
    """The means of at most ``count`` stretches of equal length."""
    bins = min(count, len(values))
    edges = [index * len(values) // bins for index in range(bins + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
