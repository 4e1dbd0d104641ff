"""The answer of a learning-rate range test in a terminal."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import typer

from service.cli_output import print_table
from service.cli_refusals import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.client_core import Json

OTHERS = {"curve_max_lr": "upper end of the curve", "steepest": "steepest", "minimum_tenth": "minimum/10", "valley": "valley"}
"""Answers that are rules of thumb, and how they are called."""

DISAGREEMENT = 0.3
"""Decades between the upper ends of the sweeps from which on they disagree: a factor of two."""

CUT = 1.5
"""The curve is drawn up to so many times its first loss: one explosion at the end would flatten all that comes before it."""

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Characters of the drawn curve."""


def print_range(result: "Json") -> None:
    """Prints the curve of the first sweep, the range, how sure it is and why, and how to train with it."""
    from clr.config import RangeTestConfig

    sweeps = result["sweeps"]
    beta = result.get("config", {}).get("smoothing", RangeTestConfig.model_fields["smoothing"].default)
    for line in curve_lines(sweeps[0], beta=beta, num_sweeps=len(sweeps)):
        typer.echo(line)
    if result["max_lr"] is None:
        typer.echo(f"no rate can be recommended: {in_words(result['reason'])}")
        return
    spread = result["spread_decades"]
    rows = [
        ["max_lr", f"{result['max_lr']:.3g}", _factor(spread["max_lr"]) if "max_lr" in spread else "", "use this"],
        [
            "min_lr",
            f"{result['min_lr']:.3g}",
            _factor(spread["min_lr"]) if "min_lr" in spread else "",
            "below it hardly anything is learnt",
        ],
    ]
    typer.echo()
    print_table(rows, "answer", ">rate", ">spread (factor)", "")
    others = {title: result.get(name) or result["suggestions"].get(name) for name, title in OTHERS.items()}
    typer.echo(f"other rules of thumb: {', '.join(f'{title} {rate:.3g}' for title, rate in others.items() if rate is not None)}\n")
    for clause in result["reason"].split("; "):
        if not clause.startswith(("the upper ends of", "one sweep")):
            typer.echo(in_words(clause))
    typer.echo(agreement(len(sweeps) - result["num_without_descent"], spread.get("curve_max_lr", 0.0)))
    typer.echo(f"train with it: --max-lr {result['job_id']}, or --max-lr {result['max_lr']:.3g}")


def agreement(num_sweeps: int, decades: float) -> str:
    """How far the sweeps agree on the upper end of the range."""
    if num_sweeps < 2:
        return "one sweep decides on the upper end: more --repeats tell how sure it is"
    if decades < DISAGREEMENT:
        return f"the sweeps agree on the upper end within a factor of {_factor(decades)}"
    return f"the sweeps disagree on the upper end, by a factor of {_factor(decades)}: more --repeats or a larger --batch-size may settle it"


def curve_lines(sweep: "Json", *, beta: float, num_sweeps: int = 1) -> list[str]:
    """The smoothed loss over the rates as bars, above the rates at its ends; nothing where no loss was finite."""
    from clr.rate_curve import smooth_centred

    losses = [loss for loss in sweep["loss"] if loss is not None]
    if not losses:
        return []
    top = CUT * losses[0]
    smoothed = smooth_centred([min(loss, top) for loss in losses], beta)  # as the figure has it
    columns = _binned(smoothed, WIDTH)
    low, high = min(columns), max(columns)
    bars = "".join(BARS[math.floor((loss - low) / (high - low or 1) * (len(BARS) - 1))] for loss in columns)
    first, last = f"{sweep['learning_rate'][0]:.2g}", f"{sweep['learning_rate'][len(losses) - 1]:.2g}"
    which = f"sweep 1 of {num_sweeps}: " if num_sweeps > 1 else ""
    cut = f", cut off above {top:.3g}" if max(losses) > top else ""
    title = f"{which}smoothed loss over the rate, {min(smoothed):.3g} to {max(smoothed):.3g}{cut}"
    return [title, bars, f"{first} {last:>{max(0, len(bars) - len(first) - 1)}}"]


def _factor(decades: float) -> str:
    """A spread in decades as the factor that it is."""
    return f"{10**decades:.2g}"


def _binned(values: "Sequence[float]", count: int) -> list[float]:
    """The means of at most ``count`` stretches of equal length."""
    bins = min(count, len(values))
    edges = [index * len(values) // bins for index in range(bins + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
