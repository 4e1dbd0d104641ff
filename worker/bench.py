"""What a worker lends to every job that it runs, and the words for what becomes of one. This module doesn't import torch."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from worker.artifacts import ArtifactStore
from worker.job_store import JobStore
from worker.sandbox import kernel_kills
from worker.trainer_process import WarmTrainers


class Outcome(StrEnum):
    """What became of a job's message."""

    REFUSED = "refused"
    """The job was not to be had: the message was a duplicate, or late."""
    FINISHED = "finished"
    """The job has ended."""
    RELEASED = "released"
    """The worker is stopping, or the job is: it waits for another one, or to be resumed."""
    REQUEUED = "requeued"
    """The trainer crashed; the job waits for its next attempt, unless that was the last."""
    FENCED = "fenced"
    """Another worker has the job."""
    ABANDONED = "abandoned"
    """A store was away too long; the lease ends by itself."""


@dataclass(frozen=True)
class Bench:
    """What a supervisor works with: the same for all jobs of a worker."""

    worker_id: str
    store: JobStore
    artifacts: ArtifactStore
    trainers: WarmTrainers
    publish: Callable[[str], object]
    is_draining: Callable[[], bool]
    lease_seconds: float
    beat_seconds: float
    checkpoint_seconds: float
    drain_seconds: float
    max_crashes: int
    kernel_kills: Callable[[], int] = kernel_kills
    stall_seconds: float = 600.0
    max_job_seconds: float | None = None

    @property
    def lease_ms(self) -> int:
        """The lease in the job store's unit."""
        return int(self.lease_seconds * 1000)
