"""What a job is while it lives: its kinds, states and phases, and the live record."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

IDEMPOTENCY_SECONDS = 86_400
"""How long a repeated submission is recognised."""


class JobStatus(StrEnum):
    """Where a job stands; six words that never grow (detail is the phase's)."""

    QUEUED = "queued"
    """Waits for a worker, for the first time or again."""
    RUNNING = "running"
    """A worker holds its lease."""
    PAUSED = "paused"
    """Holds no worker until someone resumes it; what it had done is in its checkpoint."""
    SUCCEEDED = "succeeded"
    """Ended with everything it was asked for, or with what there was when someone stopped it (stop_reason)."""
    FAILED = "failed"
    """Ended without it; error says why and what to do."""
    CANCELLED = "cancelled"
    """Ended because someone asked; snapshots taken so far stay usable."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job never runs again."""
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
TerminalStatus = Literal[JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]


DEFAULT_TENANT = "default"
"""Whose jobs are those of a service that asks for no keys, and of specs from before there were tenants."""


class Priority(StrEnum):
    """Which jobs are taken first; those of a lower priority wait as long as there is one of a higher one."""

    LOW = "low"
    """When nothing else waits."""
    NORMAL = "normal"
    """The default."""
    HIGH = "high"
    """Before all others."""


class JobKind(StrEnum):
    """What a job computes."""

    TRAIN = "train"
    """A snapshot ensemble, by one training run."""
    RANGE_TEST = "range_test"
    """A range of learning rates, by short runs over rising rates."""
    STUDY = "study"
    """A comparison of snapshot ensembles with their controls, by train jobs of its own."""
    EVALUATE = "evaluate"
    """The surroundings of a train job's minima, by measuring its snapshots."""


class Phase(StrEnum):
    """What a job that is not terminal is doing; clients ignore words they don't know."""

    WAITING_FOR_WORKER = "waiting_for_worker"
    """No worker has taken it yet."""
    PAUSED = "paused"
    """It rests."""
    WAITING_FOR_RUNS = "waiting_for_runs"
    """The train jobs that it compares have not all ended; no worker can take it before."""
    PREPARING_DATA = "preparing_data"
    """A worker loads the data and, after an interruption, the checkpoint."""
    FINDING_LEARNING_RATE = "finding_learning_rate"
    """A range test chooses the highest rate of the training that follows."""
    TRAINING = "training"
    """Optimizer steps are being taken."""
    MEASURING = "measuring"
    """What a job of another kind than train is for: rates, minima or results are being measured."""
    SAVING_SNAPSHOT = "saving_snapshot"
    """A cycle has ended and its snapshot is being stored."""
    EVALUATING = "evaluating"
    """Metrics of a snapshot or of the ensemble are being computed."""
    STOPPING = "stopping"
    """A cancel, stop or pause is being carried out."""
    FINALIZING = "finalizing"
    """Everything is computed; the result is being stored."""


class Action(StrEnum):
    """What someone may ask of a job that runs; a later one in this list replaces an earlier one that was requested before."""

    PAUSE = "pause"
    """Checkpoint, and give the device back until someone resumes the job."""
    STOP_CYCLE_END = "stop_cycle_end"
    """End after the current cycle's snapshot and keep what there is."""
    STOP_NOW = "stop_now"
    """End at the next optimizer step and keep what there is."""
    CANCEL = "cancel"
    """End at once."""


class ErrorCategory(StrEnum):
    """Why a job failed, in the one word that decides what to do about it."""

    USER = "user"
    """The request cannot be carried out as it was given."""
    DATA = "data"
    """The dataset cannot be used."""
    OUT_OF_MEMORY = "out_of_memory"
    """The machine or the device had too little memory."""
    DIVERGED = "diverged"
    """The loss stopped being a finite number."""
    WORKER_LOST = "worker_lost"
    """Its worker or trainer died too often without progress."""
    DISK_FULL = "disk_full"
    """The artifact store had no room."""
    TIME_LIMIT = "time_limit"
    """It has run for longer than it may; snapshots taken so far stay usable."""
    INTERNAL = "internal"
    """A defect of this program."""


@dataclass(frozen=True)
class JobRecord:
    """A job as it is now.

    Attributes:
        phase: None once the job is terminal.
        tenant: Whose it is; never changes.
        priority: Which jobs are taken before it.
        parent_id: The job that this one belongs to.
        max_lr_from: The range test from which its max_lr was taken.
        epoch: The fencing token of the latest claim; grows with every claim, 0 before the first.
        attempt: Claims so far.
        crashes: Attempts lost in a row without progress.
        position: Place in the queue, 1 is next; None unless queued for a worker.
        best: The best snapshot so far: cycle and metrics.
        error: category, message, suggestion.
        extensions: How many times it has got more cycles.
        requested_action: The cancel, stop or pause that the worker has still to carry out.
        started_at: First claim. RFC 3339 UTC, as all times.
        training_started_at: First optimizer step, or the first of what its kind does in place of training.
        config: The configuration of its kind, resolved as far as it is known.
        transitions: Changes of status, oldest first: to, at, reason, actor.
    """

    id: str
    kind: JobKind
    name: str | None
    status: JobStatus
    phase: Phase | None
    dataset_id: str
    metadata: dict[str, str]
    config: dict[str, Any]
    progress: dict[str, Any]
    created_at: str
    tenant: str = DEFAULT_TENANT
    priority: Priority = Priority.NORMAL
    parent_id: str | None = None
    max_lr_from: str | None = None
    started_at: str | None = None
    training_started_at: str | None = None
    finished_at: str | None = None
    epoch: int = 0
    attempt: int = 0
    crashes: int = 0
    owner: str | None = None
    position: int | None = None
    snapshot_count: int = 0
    best: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    stop_reason: str | None = None
    extensions: int = 0
    requested_action: Action | None = None
    transitions: list[dict[str, Any]] = field(default_factory=list)


def allowed_actions(record: JobRecord) -> tuple[str, ...]:
    """The verbs that a job accepts as it is now."""
    match record.status:
        case JobStatus.QUEUED:
            return ("cancel", "pause")
        case JobStatus.RUNNING:
            return ("cancel", "stop", "pause", "extend") if is_extensible(record) else ("cancel", "stop", "pause")
        case JobStatus.PAUSED:  # a study whose runs have not ended has nothing yet that a stop would keep
            return ("cancel", "resume") if record.kind is JobKind.STUDY else ("cancel", "stop", "resume")
        case JobStatus.SUCCEEDED:
            return ("delete", "extend") if is_extensible(record) else ("delete",)
        case JobStatus.FAILED | JobStatus.CANCELLED:
            return ("delete",)


def is_extensible(record: JobRecord) -> bool:
    """Whether the job is one that can have more cycles: a training of a fixed number of them, that nobody has stopped."""
    if record.kind is not JobKind.TRAIN or record.parent_id is not None or record.stop_reason is not None:
        return False
    schedule = record.config.get("schedule", {})
    is_fixed = schedule.get("type") == "warm_restarts" and isinstance(schedule.get("cycles"), int) and record.config.get("budget") is None
    return is_fixed and record.requested_action in (None, Action.PAUSE)


def key_sha256(idempotency_key: str) -> str:
    """The form in which Idempotency-Keys are kept: of one length, and in no file as it was sent."""
    return hashlib.sha256(idempotency_key.encode()).hexdigest()


def rfc3339(unix_ms: int) -> str:
    """A moment as text, with milliseconds, in UTC: ``2026-11-23T14:31:00.000Z``."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_rfc3339() -> str:
    """This moment as text, by this machine's clock."""
    return rfc3339(int(datetime.now(UTC).timestamp() * 1000))
