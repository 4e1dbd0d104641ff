"""What figures are drawn from: the documents that the API gives of a job, and nothing else."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class FigureUnavailable(Exception):
    """The job has not what the figure shows; the message says what is missing and how to get it."""


class ForeignFigureError(FigureUnavailable):
    """Jobs of this kind never have the figure."""


@dataclass(frozen=True)
class JobDocuments:
    """A job as the API describes it.

    Attributes:
        job: ``GET /v1/jobs/{id}``.
        metrics: ``GET /v1/jobs/{id}/metrics``.
        snapshots: The data of ``GET /v1/jobs/{id}/snapshots``.
        result: ``GET /v1/jobs/{id}/result``; None before the job has ended.
    """

    job: Json
    metrics: Json
    snapshots: list[Json]
    result: Json | None

    @property
    def label(self) -> str:
        """What people call the job; the end of its id where it has no name, since those of one hour begin alike."""
        return str(self.job["name"] or f"job …{self.job['id'][-6:]}")

    def part(self, name: str, remedy: str) -> Any:
        """A part of the result.

        Raises:
            FigureUnavailable: The job goes on, or its result lacks the part; ``remedy`` says how to get it.
        """
        if self.result is None:
            status = self.job["status"]
            if self.job["terminal"]:
                raise FigureUnavailable(f"{self.job['id']} is {status} and has left no result")
            raise FigureUnavailable(f"{self.job['id']} is {status}: this comes with its end")
        if (found := self.result.get(name)) is None:
            raise FigureUnavailable(f"the result of {self.job['id']} has no {name}: {remedy}")
        return found
