"""The figure of a learning-rate range test: every loss against the rate it was taken at, and what follows."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from clr.config import RangeTestConfig
from clr.rate_curve import smooth_centred
from service.figure_documents import JobDocuments
from service.figure_style import INK, PALETTE, TERTIARY, axis, figure, line, log_axis, markers

Json = dict[str, Any]

SUGGESTIONS = {"steepest": "steepest", "minimum_tenth": "minimum/10", "valley": "valley"}


def range_test_figure(test: Json, documents: JobDocuments) -> Json:
    """Losses, smoothed curves, the range and the suggestions.

    Args:
        test: The result of the test: ``sweeps``, ``suggestions``, ``min_lr``, ``max_lr``, ``reason``.
        documents: Of the job that ran it.
    """
    sweeps = test["sweeps"]
    data: list[Json] = []
    bottom, top = _loss_range(sweeps)
    beta = documents.job["config"].get("smoothing", RangeTestConfig.model_fields["smoothing"].default)
    for number, (sweep, colour) in enumerate(zip(sweeps, PALETTE * len(sweeps), strict=False), start=1):
        data += _sweep_traces(sweep, colour, number=number, top=top, beta=beta)
    rates = [rate for sweep in sweeps for rate in sweep["learning_rate"] if rate > 0]
    shapes, annotations = _marks(test)
    layout = {
        "xaxis": log_axis("learning rate", rates),
        "yaxis": axis("mini-batch loss", range=[bottom, top]),
        "shapes": shapes,
        "annotations": annotations,
    }
    return figure(data, "Learning-rate range test", f"{documents.label}: {test['reason']}", height=520, **layout)


def _sweep_traces(sweep: Json, colour: str, *, number: int, top: float, beta: float) -> list[Json]:
    """Each loss as a point, and their mean without lag, as the suggestions are read from it (``clr.rate_curve``)."""
    name = f"repeat {number} (seed {sweep['seed']})"
    ended = {"not_finite": ", ended at a loss that is no finite number", "diverged": ", ended as it diverged"}
    where = f"{name}{ended.get(sweep['stop_reason'] or '', '')}<br>learning rate %{{x:.3g}}<br>"
    rates = sweep["learning_rate"]
    raw = markers(
        rates,
        sweep["loss"],
        name,
        colour,
        where + "loss %{y:.4f}",
        marker={"size": 5, "opacity": 0.45},
        legendgroup=name,
        showlegend=False,
    )
    finite = [(rate, min(loss, top)) for rate, loss in zip(rates, sweep["loss"], strict=True) if loss is not None]
    curve = smooth_centred([loss for _, loss in finite], beta)
    smoothed = line([rate for rate, _ in finite], curve, name, colour, where + "smoothed loss %{y:.4f}", legendgroup=name)
    return [raw, smoothed]


def _loss_range(sweeps: Sequence[Json]) -> tuple[float, float]:
    """Shows the descent: an explosion at the end leaves the picture instead of flattening it."""
    found = [loss for sweep in sweeps for loss in sweep["loss"] if loss is not None]
    starts = [loss for sweep in sweeps for loss in sweep["loss"][: max(5, len(sweep["loss"]) // 10)] if loss is not None]
    if not found or not starts:
        return 0.0, 1.0
    low, level = min(found), median(starts)
    top = max(level + 0.6 * (level - low), *starts)
    return low - 0.06 * (top - low), top + 0.14 * (top - low)


def _marks(test: Json) -> tuple[list[Json], list[Json]]:
    """The range as a shaded band, the suggestions as lines with their names, each a little lower than the one to its left."""
    shapes: list[Json] = []
    annotations: list[Json] = []
    low, high = test["min_lr"], test["max_lr"]
    if low is not None and high is not None:
        band = {"type": "rect", "xref": "x", "yref": "paper", "x0": low, "x1": high, "y0": 0, "y1": 1, "layer": "below"}
        shapes.append(band | {"fillcolor": TERTIARY, "opacity": 0.13, "line": {"width": 0}})
        middle = (math.log10(low) + math.log10(high)) / 2
        annotations.append(_label(middle, f"min_lr {low:.2g} to max_lr {high:.2g}", TERTIARY, y=0.01) | {"yanchor": "bottom"})
    found = sorted((rate, SUGGESTIONS[name]) for name, rate in test["suggestions"].items() if name in SUGGESTIONS)
    for place, (rate, name) in enumerate(found):
        mark = {"type": "line", "xref": "x", "yref": "paper", "x0": rate, "x1": rate, "y0": 0, "y1": 1}
        shapes.append(mark | {"line": {"color": INK, "width": 1, "dash": "dash"}})
        annotations.append(_label(math.log10(rate), f"{name}: {rate:.2g}", INK, y=0.99 - 0.06 * place) | {"xanchor": "left", "xshift": 4})
    return shapes, annotations


def _label(x: float, text: str, colour: str, *, y: float) -> Json:
    place = {"x": x, "xref": "x", "y": y, "yref": "paper", "yanchor": "top", "showarrow": False, "bgcolor": "rgba(255,255,255,0.75)"}
    return {"text": text, "font": {"size": 12, "color": colour}} | place
