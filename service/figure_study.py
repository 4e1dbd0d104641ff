"""Figures of a study: each arm's training loss, and its measures with their intervals."""

from collections.abc import Sequence
from typing import Any

from service.figure_documents import FigureUnavailable, JobDocuments
from service.figure_style import MUTED, PALETTE, axis, figure, line, log_axis, markers, numbered, on_panel, side_by_side

Json = dict[str, Any]

MEASURES = {
    "error": ("test error (%)", 100.0, ".2f"),
    "nll": ("test NLL (nats)", 1.0, ".4f"),
    "ece": ("test ECE", 1.0, ".4f"),
    "rmse": ("test RMSE (target's unit)", 1.0, ".4g"),
    "mae": ("test MAE (target's unit)", 1.0, ".4g"),
}

DASHES = ("solid", "dash", "dot")


def study_figure(documents: JobDocuments) -> Json:
    """Each arm's measures on the test rows: mean over the seeds, 95 % interval, and the seeds themselves."""
    arms = _arms(documents)
    names = [_name(arm) for arm in arms]
    measures = [name for name in MEASURES if any(arm["metrics"].get(name) for arm in arms)]
    if not measures:
        raise FigureUnavailable(f"no run of {documents.job['id']} has succeeded: see the failures in its result")
    domains = side_by_side(len(measures), gap=0.04)
    data: list[Json] = []
    layout: Json = {}
    for number, (measure, domain) in enumerate(zip(measures, domains, strict=True), start=1):
        for arm, colour in zip(arms, PALETTE * len(arms), strict=False):
            data += _estimate_traces(arm, measure, colour, number=number)
        bounds = {"minallowed": 0} | ({"maxallowed": 100} if measure == "error" else {})  # no interval reaches where no value can be
        layout[numbered("xaxis", number)] = axis(MEASURES[measure][0], domain=domain, anchor=numbered("y", number), nticks=5, **bounds)
        shared = {"type": "category", "categoryorder": "array", "categoryarray": names[::-1], "ticks": "", "griddash": "dot"}
        own = {} if number == 1 else {"showticklabels": False}
        layout[numbered("yaxis", number)] = axis("", anchor=numbered("x", number), range=[-0.6, len(names) - 0.4], **shared, **own)
    result = documents.result or {}
    seeds = len(result["seeds"])
    budgets = f"{result['epochs']:g} epochs for each arm{_exceptions(arms, result['epochs'])}"
    subtitle = f"{documents.label}: {budgets}, {seeds} seed{'s' if seeds > 1 else ''}; mean, 95 % interval, seeds"
    return figure(
        data, "Snapshot ensemble and its controls at one budget", subtitle, height=150 + 34 * len(arms), showlegend=False, **layout
    )


def loss_evolution_figure(documents: JobDocuments) -> Json:
    """The training loss of each arm by step: mean over the seeds, with a band of one standard deviation."""
    groups: dict[str, list[Json]] = {}
    for arm in _arms(documents):
        if arm["loss"]["rows"]:
            groups.setdefault(str(arm["loss"]["rows"]), []).append(arm)  # arms that are read off the same runs have one curve
    if not groups:
        raise FigureUnavailable(f"no run of {documents.job['id']} has left a training curve")
    data: list[Json] = []
    losses: list[float | None] = []
    for index, arms in enumerate(groups.values()):
        columns = _columns(arms[0]["loss"])
        name = ", ".join(_name(arm) for arm in arms)
        data += _loss_traces(columns, name, PALETTE[index % len(PALETTE)], dash=DASHES[index // 4 % len(DASHES)])
        losses += columns["train_loss"]
    layout = {"xaxis": axis("epoch", rangemode="tozero"), "yaxis": log_axis("training loss", losses)}
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    subtitle = f"{documents.label}: mean over the seeds, band of one standard deviation"
    return figure(data, "Evolution of the training loss", subtitle, height=520, legend=legend, **layout)


def _arms(documents: JobDocuments) -> list[Json]:
    arms: list[Json] = documents.part("arms", "only studies compare arms")
    return arms


def _name(arm: Json) -> str:
    return str(arm["arm"]).replace("_", " ")


def _exceptions(arms: Sequence[Json], epochs: float) -> str:
    """The arms that used another budget, with what they used."""
    found = [f"{_name(arm)}: {arm['budget_epochs']:g}" for arm in arms if (arm["budget_epochs"] or epochs) != epochs]
    return f" ({', '.join(found)})" if found else ""


def _columns(table: Json) -> dict[str, list[Any]]:
    return {name: [row[index] for row in table["rows"]] for index, name in enumerate(table["columns"])}


def _estimate_traces(arm: Json, measure: str, colour: str, *, number: int) -> list[Json]:
    estimate = arm["metrics"].get(measure)
    if estimate is None:
        return []
    title, factor, digits = MEASURES[measure]
    axes = on_panel(number)
    name = _name(arm)
    seeds = [factor * value for value in estimate["per_seed"] if value is not None]
    each = markers(
        seeds,
        [name] * len(seeds),
        name,
        MUTED,
        f"<b>{name}</b>, one seed<br>{title} %{{x:{digits}}}",
        marker={"symbol": "line-ns-open", "size": 9, "opacity": 0.7},
        **axes,
    )
    mean, low, high = (None if estimate[key] is None else factor * estimate[key] for key in ("mean", "low", "high"))
    assert mean is not None, "an estimate has a mean"
    hover = f"<b>{name}</b><br>{title} {mean:{digits}}"
    mark = markers([mean], [name], name, colour, hover, marker={"size": 10}, **axes)
    if low is not None and high is not None:
        mark["hovertemplate"] = f"{hover}<br>95 % interval {low:{digits}} to {high:{digits}}<extra></extra>"
        mark["error_x"] = {"type": "data", "array": [high - mean], "arrayminus": [mean - low], "color": colour, "thickness": 2, "width": 5}
    return [each, mark]


def _loss_traces(columns: dict[str, list[Any]], name: str, colour: str, *, dash: str) -> list[Json]:
    epochs, losses, spreads = columns["epoch"], columns["train_loss"], columns["train_loss_sd"]
    hover = f"<b>{name}</b><br>epoch %{{x:.2f}}<br>training loss %{{y:.4f}}"
    mean = line(epochs, losses, name, colour, hover, line={"width": 2, "dash": dash}, legendgroup=name)
    if any(spread is None or loss is None for loss, spread in zip(losses, spreads, strict=True)):
        return [mean]
    return [_band(epochs, losses, spreads, colour, name), mean]


def _band(x: Sequence[float], means: Sequence[float], spreads: Sequence[float], colour: str, name: str) -> Json:
    """Mean plus and minus one standard deviation; below a tenth of the mean it would leave a logarithmic axis."""
    upper = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    lower = [max(mean - spread, mean / 10) for mean, spread in zip(means, spreads, strict=True)]
    outline = {"type": "scatter", "x": [*x, *reversed(x)], "y": [*upper, *reversed(lower)], "name": name, "legendgroup": name}
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    style = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.15)", "line": {"width": 0}, "mode": "lines"}
    return outline | style | {"hoverinfo": "skip", "showlegend": False}
