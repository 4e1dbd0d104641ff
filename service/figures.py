"""The figures of a job: pure functions from what the API says of it to what Plotly draws.

Each name stands here once, with its kinds of job and its function; whether a figure can be drawn is found out by drawing it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.figure_documents import FigureUnavailable, ForeignFigureError, JobDocuments
from service.figure_ensemble import ensemble_size_figure
from service.figure_landscape import correlation_figure, interpolation_figure
from service.figure_range_test import range_test_figure
from service.figure_study import loss_evolution_figure, study_figure
from service.figure_training import schedule_figure

__all__ = ["FIGURES", "FigureKind", "FigureUnavailable", "ForeignFigureError", "JobDocuments", "draw", "figures_of"]

Json = dict[str, Any]
Draw = Callable[[JobDocuments, JobDocuments | None], Json]


@dataclass(frozen=True)
class FigureKind:
    """One figure.

    Attributes:
        name: In paths and file names.
        shows: What is to be seen, in one sentence.
        kinds: The kinds of job that can have it.
        compares: Whether a second job can be shown beside the first.
        draw: Makes the figure, or raises ``FigureUnavailable``.
    """

    name: str
    shows: str
    kinds: tuple[str, ...]
    compares: bool
    draw: Draw


def _range_test(documents: JobDocuments, _: JobDocuments | None) -> Json:
    """A range test's own curve, or the one by which a training has found its rate."""
    if documents.job["kind"] == "range_test":
        documents.part("sweeps", "it has ended before its first sweep")
        assert documents.result is not None, "part has looked"
        return range_test_figure(documents.result, documents)
    found = documents.part("learning_rate", 'its rate was not measured; "max_lr": "auto" measures it')
    if "result" not in found:
        raise FigureUnavailable(f"{documents.job['id']} has its rate from {found['from_job']}: that job has the figure")
    return range_test_figure(found["result"], documents)


FIGURES = {
    kind.name: kind
    for kind in (
        FigureKind("schedule", "Learning rate and training loss by step, snapshots marked.", ("train",), True, schedule_figure),
        FigureKind("ensemble_size", "Error and likelihood against the number of members averaged.", ("train",), True, ensemble_size_figure),
        FigureKind(
            "interpolation", "Loss along the straight lines between the snapshots.", ("train", "evaluate"), True, interpolation_figure
        ),
        FigureKind("correlation", "How alike the snapshots predict.", ("train", "evaluate"), True, correlation_figure),
        FigureKind(
            "range_test", "Every mini-batch loss against its rate, with range and suggestions.", ("range_test", "train"), False, _range_test
        ),
        FigureKind("study", "Each arm's measures with their intervals.", ("study",), False, lambda study, _: study_figure(study)),
        FigureKind(
            "loss_evolution", "Each arm's training loss by epoch.", ("study",), False, lambda study, _: loss_evolution_figure(study)
        ),
    )
}


def figures_of(kind: str) -> list[FigureKind]:
    """The figures that a job of this kind can have."""
    return [each for each in FIGURES.values() if kind in each.kinds]


def draw(name: str, documents: JobDocuments, against: JobDocuments | None = None) -> Json:
    """One figure of a job, as the document that Plotly draws.

    Raises:
        FigureUnavailable: The job has not what it shows; ForeignFigureError where its kind never has it.
    """
    figure_kind = FIGURES[name]
    for job in (documents, *([against] if against else [])):
        if job.job["kind"] not in figure_kind.kinds:
            raise ForeignFigureError(
                f"{job.job['id']} is a {job.job['kind']} job: {name} belongs to jobs of kind {' or '.join(figure_kind.kinds)}"
            )
    if against is not None and not figure_kind.compares:
        raise ForeignFigureError(f"{name} shows one job: leave out against")
    return figure_kind.draw(documents, against)
