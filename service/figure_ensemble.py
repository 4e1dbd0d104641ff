"""The figure of an ensemble: what averaging more or fewer of a run's snapshots gives."""

from collections.abc import Sequence
from html import escape
from typing import Any

from service.figure_documents import FigureUnavailable, JobDocuments
from service.figure_style import INK, JOB_COLOURS, MUTED, TERTIARY, axis, figure, line, markers, numbered, on_panel, side_by_side, wrapped

Json = dict[str, Any]


def ensemble_size_figure(documents: JobDocuments, against: JobDocuments | None) -> Json:
    """Error and likelihood of the mean prediction against its number of members, on the test rows (1704.00109, figure 4)."""
    jobs = [documents, *([against] if against else [])]
    curves = [_sizes(job) for job in jobs]
    measures = _measures(curves[0])
    if _measures(curves[-1]) != measures:
        raise FigureUnavailable("the two jobs are measured differently: compare two classifications or two regressions")
    data: list[Json] = []
    layout: Json = {}
    is_cut = False
    for number, (measure, domain) in enumerate(zip(measures, side_by_side(len(measures)), strict=True), start=1):
        for job, sizes, colour in zip(jobs, curves, JOB_COLOURS, strict=False):
            prefix = f"{job.label}: " if against else ""
            data += _size_curves(sizes, measure, colour, prefix=prefix, job_id=job.job["id"], number=number)
            data += _chosen(job, sizes, measure, number=number)
        members = max(len(sizes["alone"]) for sizes in curves)
        layout[numbered("xaxis", number)] = axis(
            "m, number of members averaged", domain=domain, anchor=numbered("y", number), dtick=max(1, members // 8)
        )
        shown = _shown_range(curves, measure)
        is_cut = is_cut or shown is not None
        range_option = {} if shown is None else {"range": shown}
        layout[numbered("yaxis", number)] = axis(MEASURES[measure][0], anchor=numbered("x", number), **range_option)
    subtitle = "mean prediction of the last m snapshots" if "last" in curves[0] else "so far; the curve of the last m comes with the end"
    cut = "; weak early snapshots are above the picture" if is_cut else ""
    return figure(data, "Error against ensemble size", f"{documents.label}: {subtitle}, test rows{cut}", **layout)


TALLEST = 2.0
"""Values beyond this multiple of the worst mean of the last m leave the picture."""

MEASURES = {
    "accuracy": ("test error (%)", "%{y:.2f} %"),
    "nll": ("test negative log-likelihood (nats)", "%{y:.4f} nats"),
    "rmse": ("test RMSE (target's unit)", "%{y:.4g}"),
    "mae": ("test MAE (target's unit)", "%{y:.4g}"),
}


def _shown_range(curves: Sequence[dict[str, list[Json]]], measure: str) -> list[float] | None:
    """Where to cut the axis so that snapshots that learned little do not flatten the curves of the last m; None: nowhere."""
    values = [value for sizes in curves for part in sizes for value in _values(sizes[part], measure) if value is not None]
    last = [value for sizes in curves if "last" in sizes for value in _values(sizes["last"], measure) if value is not None]
    if not last or max(values) <= TALLEST * max(last):
        return None
    shown = [value for value in values if value <= TALLEST * max(last)]
    margin = 0.06 * (max(shown) - min(shown)) or 0.06 * max(shown)
    return [min(shown) - margin, max(shown) + margin]


def _sizes(documents: JobDocuments) -> dict[str, list[Json]]:
    """Metrics on the test rows: ``alone`` of each snapshot, ``first`` of the ensemble as it grew, ``last`` once the job has ended."""
    if not documents.snapshots:
        if documents.job["terminal"]:
            raise FigureUnavailable(f"{documents.job['id']} is {documents.job['status']}: it ended before its first snapshot")
        raise FigureUnavailable(f"{documents.job['id']} has no snapshot yet: wait for its first cycle to end")
    found: dict[str, list[Json]] = {"alone": [snapshot["metrics"]["test"] for snapshot in documents.snapshots]}
    if stored := (documents.result or {}).get("ensemble_sizes"):
        return {**found, **stored["test"]}
    growing = enumerate((snapshot["ensemble"] for snapshot in documents.snapshots), start=1)
    return found | {"first": [ensemble["test"] for count, ensemble in growing if ensemble["members"] == count]}


def _measures(sizes: dict[str, list[Json]]) -> list[str]:
    return [name for name in MEASURES if name in sizes["alone"][0]]


def _size_curves(sizes: dict[str, list[Json]], measure: str, colour: str, *, prefix: str, job_id: str, number: int) -> list[Json]:
    axes = on_panel(number) | {"showlegend": number == 1}
    hover = f"<br>{MEASURES[measure][1]}"
    quiet = colour if prefix else TERTIARY
    alone = markers(
        _count(sizes["alone"]),
        _values(sizes["alone"], measure),
        f"{prefix}m-th snapshot alone",
        colour if prefix else MUTED,
        "snapshot number %{x} alone" + hover,
        marker={"symbol": "circle-open", "size": 8, "line": {"width": 1.5}},
        legendgroup=f"alone of {job_id}",
        **axes,
    )
    first = line(
        _count(sizes["first"]),
        _values(sizes["first"], measure),
        f"{prefix}mean of the first m",
        quiet,
        "first %{x} averaged" + hover,
        mode="lines+markers",
        line={"dash": "dot", "width": 1.5},
        marker={"size": 5},
        legendgroup=f"first of {job_id}",
        **axes,
    )
    if "last" not in sizes:
        return [alone, first]
    last = line(
        _count(sizes["last"]),
        _values(sizes["last"], measure),
        f"{prefix}mean of the last m",
        colour,
        "last %{x} averaged" + hover,
        mode="lines+markers",
        line={"width": 2.5},
        marker={"size": 8},
        legendgroup=f"last of {job_id}",
        **axes,
    )
    return [alone, first, last]


def _chosen(documents: JobDocuments, sizes: dict[str, list[Json]], measure: str, *, number: int) -> list[Json]:
    """A ring around the ensemble that the job has chosen on its validation rows; nothing where it takes all members."""
    ensemble = documents.snapshots[-1]["ensemble"]
    count = ensemble["members"]
    if "last" not in sizes or count == len(sizes["last"]):
        return []
    axes = on_panel(number) | {"showlegend": number == 1, "legendgroup": f"chosen by {documents.job['id']}"}
    ring = {"symbol": "circle-open", "size": 16, "line": {"width": 2, "color": INK}}
    reason = "<br>".join(map(escape, wrapped(ensemble.get("reason") or "as many as are best on validation", 60)))
    values = _values(sizes["last"], measure)
    hover = f"<b>the last {count} are averaged</b><br>{reason}"
    return [markers([count], [values[count - 1]], "chosen on validation", INK, hover, marker=ring, **axes)]


def _count(entries: Sequence[Json]) -> list[int]:
    return list(range(1, len(entries) + 1))


def _values(entries: Sequence[Json], measure: str) -> list[float | None]:
    """The measure of each; of the accuracy its complement, in per cent."""
    values = [entry.get(measure) for entry in entries]
    return [100 * (1 - value) if measure == "accuracy" and value is not None else value for value in values]
