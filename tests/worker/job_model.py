"""A job in plain Python: what the job store must agree with, and what the artifact store would have of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from worker.amendments import Amendment, AmendmentKind
from worker.job_specs import TrainSpec
from worker.jobs import TERMINAL, Action, JobRecord, JobStatus

LEGAL = {
    JobStatus.QUEUED: {JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED},
    JobStatus.RUNNING: {JobStatus.QUEUED, JobStatus.PAUSED, *TERMINAL},
    JobStatus.PAUSED: {JobStatus.QUEUED, JobStatus.CANCELLED},
    JobStatus.SUCCEEDED: {JobStatus.QUEUED},  # by an extension alone
    JobStatus.FAILED: set[JobStatus](),
    JobStatus.CANCELLED: set[JobStatus](),
}
"""I2: what may follow what."""


@dataclass
class Job:
    spec: TrainSpec
    status: JobStatus = JobStatus.QUEUED
    owner: str | None = None
    is_lease_live: bool = False
    epochs: list[int] = field(default_factory=list)
    highest_epoch: int = 0
    crashes: int = 0
    checkpoint_step: int = -1
    snapshots: set[int] = field(default_factory=set)
    requested: Action | None = None
    stop_reason: str | None = None
    is_resumed: bool = False
    extensions: int = 0
    changes: list[JobStatus] = field(default_factory=lambda: [JobStatus.QUEUED])

    def is_ours(self, epoch: int) -> bool:
        return self.status == JobStatus.RUNNING and self.epochs[-1:] == [epoch]

    def was_latest(self, epoch: int) -> bool:
        return self.epochs[-1:] == [epoch]

    @property
    def is_extensible(self) -> bool:
        if self.status == JobStatus.SUCCEEDED:
            return self.stop_reason is None
        return self.status == JobStatus.RUNNING and self.requested in (None, Action.PAUSE)


def manifest(cycle: int) -> dict[str, object]:
    return {"id": f"snap_{cycle}", "cycle": cycle, "step": cycle + 1, "metrics": {"validation": {"loss": 1.0}}}


def result(record: JobRecord) -> dict[str, object]:
    """What the artifact store has of a job that has ended."""
    return {
        "status": record.status,
        "stop_reason": record.stop_reason,
        "error": {"category": "user"} if record.status == JobStatus.FAILED else None,
        "finished_at": record.finished_at,
        "extensions": record.extensions,
    }


def arrival_of(job: Job, amendments: Sequence[Amendment]) -> int:
    """When a job joined the queue for the last time that its user decided on, in ms since 1970."""
    created = round(datetime.fromisoformat(job.spec.created_at).timestamp() * 1000)
    return max([created, *(each.at for each in amendments if each.kind != AmendmentKind.PAUSED)])
