"""The figure of a training: its learning rate with its loss, snapshots and changes of plan marked."""

from collections.abc import Sequence
from html import escape
from statistics import fmean
from typing import Any

from service.figure_documents import FigureUnavailable, JobDocuments
from service.figure_style import INK, JOB_COLOURS, MUTED, axis, figure, line, log_axis, markers, on_panel, wrapped

Json = dict[str, Any]

SMOOTHING_SHARE = 80
"""A loss is averaged with one row in so many to either side."""

RATE_DOMAIN, LOSS_DOMAIN = [0.62, 1.0], [0.0, 0.55]


def schedule_figure(documents: JobDocuments, against: JobDocuments | None) -> Json:
    """Learning rate and training loss by step, snapshots marked (1704.00109, figure 2)."""
    data: list[Json] = []
    losses: list[float | None] = []
    jobs = [documents, *([against] if against else [])]
    for job, colour in zip(jobs, JOB_COLOURS, strict=False):
        data += _curves(job, colour, is_compared=against is not None)
        losses += job.metrics["columns"]["train_loss"]
    last = max(max(job.metrics["columns"]["step"]) for job in jobs)
    layout = {
        "xaxis": axis("optimizer step", domain=[0, 1], range=[-0.01 * last, 1.015 * last], anchor="y", tickformat=","),
        "xaxis2": axis("", domain=[0, 1], matches="x", anchor="y2", showticklabels=False),
        "yaxis": log_axis("training loss", losses, domain=LOSS_DOMAIN, anchor="x"),
        "yaxis2": axis("learning rate", domain=RATE_DOMAIN, anchor="x2", rangemode="tozero"),
        "shapes": _cycle_ends(documents),
        "hovermode": "closest",
    }
    return figure(data, "Learning rate and training loss", _described(jobs), height=560, **layout)


def _curves(documents: JobDocuments, colour: str, *, is_compared: bool) -> list[Json]:
    columns = documents.metrics["columns"]
    if not columns["step"]:
        if documents.job["terminal"]:
            raise FigureUnavailable(f"{documents.job['id']} is {documents.job['status']}: it ended before its first step")
        raise FigureUnavailable(f"{documents.job['id']} has not taken a step yet: wait for its first progress")
    where = "step %{x:,} · epoch %{customdata:.2f}<br>"
    shared = {"customdata": columns["epoch"]}
    rate = line(columns["step"], columns["learning_rate"], "", colour, where + "learning rate %{y:.4g}", **shared, **on_panel(2))
    each = line(columns["step"], columns["train_loss"], "", colour, "", **shared, line={"width": 1}, opacity=0.3, hoverinfo="skip")
    smooth = line(
        columns["step"],
        _smoothed(columns["cycle"], columns["train_loss"]),
        documents.label if is_compared else "training loss, smoothed",
        colour,
        where + "training loss %{y:.4f} (smoothed)",
        **shared,
    )
    hidden = {"showlegend": False}
    marks = _plan_marks(documents, colour) + _snapshot_marks(documents, colour, is_compared=is_compared)
    return [rate | hidden, each | hidden, smooth, *marks]


def _plan_marks(documents: JobDocuments, colour: str) -> list[Json]:
    """A mark on the rate where the run has changed its plan, with the reason."""
    changes = (documents.result or {}).get("plan") or []
    if not changes:
        return []
    columns = documents.metrics["columns"]
    steps = [change["step"] for change in changes]
    rates = [_latest(columns["step"], columns["learning_rate"], step) for step in steps]
    reasons = ["<br>".join(map(escape, wrapped(change["reason"], 70))) for change in changes]
    style = {"symbol": "diamond-open", "size": 9, "line": {"width": 1.5}}
    hover = "<b>change of plan</b> after step %{x:,}<br>%{customdata}"
    return [markers(steps, rates, "change of plan", colour, hover, customdata=reasons, marker=style, **on_panel(2))]


def _smoothed(cycles: Sequence[int], losses: Sequence[float | None]) -> list[float | None]:
    """The mean of the rows around each; rows of other cycles stay out of it, so that a restart is not blurred."""
    reach = len(losses) // SMOOTHING_SHARE
    found: list[float | None] = []
    for index, cycle in enumerate(cycles):
        window = range(max(0, index - reach), min(len(losses), index + reach + 1))
        near = [loss for at in window if cycles[at] == cycle and (loss := losses[at]) is not None]
        found.append(fmean(near) if near and losses[index] is not None else None)
    return found


def _snapshot_marks(documents: JobDocuments, colour: str, *, is_compared: bool) -> list[Json]:
    """A mark on each curve where a snapshot was taken; hollow where it is no minimum of the rate."""
    if not documents.snapshots:
        return []
    columns = documents.metrics["columns"]
    found = documents.snapshots
    steps = [snapshot["step"] for snapshot in found]
    symbols = ["circle" if snapshot["is_minimum"] else "circle-open" for snapshot in found]
    texts = [_snapshot_text(snapshot) for snapshot in found]
    smooth = _smoothed(columns["cycle"], columns["train_loss"])
    losses = [_latest(columns["step"], smooth, step) for step in steps]
    edge = INK if not is_compared else colour
    style = {
        "symbol": symbols,
        "size": 8,
        "line": {"width": 1.5, "color": edge},
        "color": [colour if s == "circle" else edge for s in symbols],
    }
    name = f"snapshots of {documents.label}" if is_compared else "snapshot (hollow: not at a minimum of the rate)"
    shared = {"customdata": texts, "marker": style, "legendgroup": f"snapshots of {documents.job['id']}", "cliponaxis": False}
    hover = "%{customdata}"
    on_loss = markers(steps, losses, name, colour, hover, **shared)
    on_rate = markers(
        steps, [snapshot["learning_rate"] for snapshot in found], name, colour, hover, **shared, **on_panel(2), showlegend=False
    )
    return [on_loss, on_rate]


def _snapshot_text(snapshot: Json) -> str:
    test = snapshot["metrics"]["test"]
    score = f"test error {100 * (1 - test['accuracy']):.2f} %" if "accuracy" in test else f"test RMSE {test['rmse']:.4g}"
    where = f"<b>snapshot {snapshot['cycle'] + 1}</b> at step {snapshot['step']:,}"
    return f"{where}<br>learning rate {snapshot['learning_rate']:.3g}<br>{score}"


def _latest(steps: Sequence[int], values: Sequence[float | None], step: int) -> float | None:
    """The value of the last row up to ``step``."""
    before = [value for at, value in zip(steps, values, strict=True) if at <= step]
    return before[-1] if before else None


def _cycle_ends(documents: JobDocuments) -> list[Json]:
    """Dotted lines through both panels at the snapshots."""
    style = {"color": MUTED, "width": 1, "dash": "dot"}
    return [
        {"type": "line", "xref": "x", "yref": "paper", "x0": snapshot["step"], "x1": snapshot["step"], "y0": 0, "y1": 1}
        | {"line": style, "layer": "below", "opacity": 0.6}
        for snapshot in documents.snapshots
    ]


def _described(jobs: Sequence[JobDocuments]) -> str:
    return " against ".join(f"{job.label} ({_network(job)}, {_rates(job)})" for job in jobs)


def _network(documents: JobDocuments) -> str:
    return str(documents.job["config"]["model"]["architecture"])


def _rates(documents: JobDocuments) -> str:
    return str(documents.job["config"]["schedule"]["type"]).replace("_", " ")
