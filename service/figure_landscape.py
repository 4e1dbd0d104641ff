"""Figures of the minima of a run: the loss between them, and how alike their predictions are. Two runs can be shown side by side."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from service.figure_documents import JobDocuments
from service.figure_style import INTENSITY, axis, figure, line, log_axis, numbered, on_panel, panel_title, shades, side_by_side

Json = dict[str, Any]

MAX_LINES = 10
"""All pairs of five snapshots; more lines than this hide each other."""

LOG_RATIO = 30.0
"""Losses that span more than this factor are shown on a logarithmic axis: a barrier would flatten all else."""


def interpolation_figure(documents: JobDocuments, against: JobDocuments | None) -> Json:
    """The loss along the straight lines from each snapshot to the last one (1704.00109, figure 5)."""
    jobs = [documents, *([against] if against else [])]
    reports = [_landscape(job) for job in jobs]
    domains = side_by_side(len(jobs), gap=0.06)
    losses = [point["loss"] for report in reports for each in report["basins"]["lines"] for point in each["points"]]
    data: list[Json] = []
    layout: Json = {"annotations": []}
    title = f"loss on {reports[0]['num_rows']:,} training rows"
    scale = _loss_axis(title, losses)
    for number, (job, report, domain) in enumerate(zip(jobs, reports, domains, strict=True), start=1):
        data += _lines(report, number=number, is_first=number == 1)
        layout[numbered("xaxis", number)] = axis("position λ on the line", domain=domain, anchor=numbered("y", number), range=[-0.02, 1.02])
        own = {"anchor": numbered("x", number)} if number == 1 else {"anchor": numbered("x", number), "matches": "y", "title": {"text": ""}}
        layout[numbered("yaxis", number)] = scale | own
        layout["annotations"].append(panel_title(f"{job.label}: {_basins(report)}", domain))
    legend = {
        "orientation": "v",
        "x": 1.01,
        "xanchor": "left",
        "y": 1,
        "yanchor": "top",
        "title": {"text": "snapshot at λ = 0<br>→ at λ = 1", "font": {"size": 12}},
    }
    is_shortened = any(len(report["basins"]["lines"]) > MAX_LINES for report in reports)
    chosen = ", to the last snapshot" if is_shortened else ""
    subtitle = f"straight lines in weight space{chosen}, with batch-norm statistics of each point; a high bump parts two basins"
    return figure(data, "Loss between the snapshots", subtitle, legend=legend, **layout)


def correlation_figure(documents: JobDocuments, against: JobDocuments | None) -> Json:
    """The correlation of the snapshots' predictions (1704.00109, figure 6)."""
    jobs = [documents, *([against] if against else [])]
    found = [_diversity(job) for job in jobs]
    domains = side_by_side(len(jobs), gap=0.1) if against else [[0.0, 0.6]]
    low = min(_off_diagonal(each["correlation"] for each in found), default=0.0)
    data: list[Json] = []
    layout: Json = {"annotations": [], "coloraxis": _colour_axis(low, x=domains[-1][1] + 0.02)}
    for number, (job, diversity, domain) in enumerate(zip(jobs, found, domains, strict=True), start=1):
        data.append(_matrix(diversity, number=number))
        ticks = {"tickmode": "linear", "dtick": 1, "showgrid": False, "ticks": "", "constrain": "domain"}
        layout[numbered("xaxis", number)] = axis("snapshot", domain=domain, anchor=numbered("y", number), **ticks)
        layout[numbered("yaxis", number)] = axis(
            "snapshot" if number == 1 else "",
            anchor=numbered("x", number),
            autorange="reversed",
            scaleanchor=numbered("x", number),
            **ticks,
        )
        layout["annotations"].append(panel_title(job.label, domain))
    subtitle = (
        f"Pearson's correlation of the predicted values, {found[0]['num_rows']:,} held-out rows; the less alike, the more averaging gains"
    )
    return figure(data, "How alike the snapshots predict", subtitle, height=520, **layout)


def _landscape(documents: JobDocuments) -> Json:
    remedy = (
        f'submit {{"kind": "evaluate", "job_id": "{documents.job["id"]}"}} and ask for that job\'s figure, or train with "landscape": true'
    )
    report: Json = documents.part("landscape", remedy)
    return report


def _diversity(documents: JobDocuments) -> Json:
    """A train job has it at the top of its result, an evaluation in its report."""
    if documents.result and documents.result.get("landscape") and not documents.result.get("diversity"):
        found: Json = documents.result["landscape"]["diversity"]
        return found
    own: Json = documents.part("diversity", "only jobs with snapshots have one")
    return own


def _lines(report: Json, *, number: int, is_first: bool) -> list[Json]:
    """All that were measured, up to ``MAX_LINES``; else those that end at the last snapshot."""
    lines = report["basins"]["lines"]
    last = len(report["snapshots"]) - 1
    chosen = lines if len(lines) <= MAX_LINES else [each for each in lines if each["second"] == last]
    traces = []
    for each, colour in zip(chosen, shades(max(1, len(chosen))), strict=True):
        first, second = each["first"] + 1, each["second"] + 1
        barrier = "not finite" if each["barrier"] is None else f"{each['barrier']:.3g}"
        shared = "one basin" if each["is_one_basin"] else "two basins"
        texts = ["" if point["error"] is None else f"<br>error {100 * point['error']:.2f} %" for point in each["points"]]
        hover = f"<b>{first} → {second}</b> at λ = %{{x:.2f}}<br>loss %{{y:.4f}}%{{customdata}}<br>barrier {barrier}, {shared}"
        traces.append(
            line(
                each["lambdas"],
                [point["loss"] for point in each["points"]],
                f"{first} → {second}",
                colour,
                hover,
                customdata=texts,
                mode="lines+markers",
                marker={"size": 5},
                **on_panel(number),
                legendgroup=f"{first} → {second}",
                showlegend=is_first,
            )
        )
    return traces


def _loss_axis(title: str, losses: Sequence[float | None]) -> Json:
    positive = [loss for loss in losses if loss is not None and loss > 0]
    if positive and max(positive) > LOG_RATIO * min(positive):
        return log_axis(title, positive)
    return axis(title)


def _basins(report: Json) -> str:
    snapshots, basins = len(report["snapshots"]), len(report["basins"]["basins"])
    return f"{snapshots} snapshot{'s' if snapshots > 1 else ''} in {basins} basin{'s' if basins > 1 else ''}"


def _matrix(diversity: Json, *, number: int) -> Json:
    correlation, disagreement = diversity["correlation"], diversity["disagreement"]
    names = [index + 1 for index in diversity.get("members") or range(len(correlation))]
    hover = "snapshots %{y} and %{x}<br>correlation %{z:.4f}"
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": correlation,
        "coloraxis": "coloraxis",
        **on_panel(number),
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
    }
    if len(names) <= 12:
        trace["texttemplate"] = "%{z:.3f}" if len(names) <= 8 else "%{z:.2f}"
    if disagreement is not None:
        trace["customdata"] = [[100 * value for value in row] for row in disagreement]
        hover += "<br>different classes on %{customdata:.2f} % of the rows"
    return trace | {"hovertemplate": hover + "<extra></extra>"}


def _colour_axis(low: float, *, x: float) -> Json:
    """From the least of all correlations, rounded down, to 1."""
    bottom = math.floor(10 * low) / 10 if low < 0.9 else math.floor(100 * low) / 100
    bar = {"title": {"text": "correlation", "font": {"size": 12}}, "thickness": 12, "outlinewidth": 0, "x": x, "len": 0.9}
    return {"cmin": min(bottom, 0.99), "cmax": 1.0, "colorscale": [list(stop) for stop in INTENSITY], "colorbar": bar}


def _off_diagonal(matrices: Iterable[Sequence[Sequence[float | None]]]) -> list[float]:
    return [
        value
        for matrix in matrices
        for row, values in enumerate(matrix)
        for column, value in enumerate(values)
        if row != column and value is not None
    ]
