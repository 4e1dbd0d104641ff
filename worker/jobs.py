"""What a job is: its states, the request that makes it, the spec that the artifact store keeps, the live record."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from clr.config import StrictModel, TrainingConfig

IDEMPOTENCY_SECONDS = 86_400
"""How long a repeated submission is recognised."""


class JobStatus(StrEnum):
    """Where a job stands; six words that never grow (detail is the phase's)."""

    QUEUED = "queued"
    """Waits for a worker, for the first time or again."""
    RUNNING = "running"
    """A worker holds its lease."""
    PAUSED = "paused"
    """Holds a checkpoint and no worker until someone resumes it."""
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


class JobKind(StrEnum):
    """What a job computes."""

    TRAIN = "train"
    """A snapshot ensemble, by one training run."""


class Phase(StrEnum):
    """What a job that is not terminal is doing; clients ignore words they don't know."""

    WAITING_FOR_WORKER = "waiting_for_worker"
    """No worker has taken it yet."""
    PREPARING_DATA = "preparing_data"
    """A worker loads the data and, after an interruption, the checkpoint."""
    TRAINING = "training"
    """Optimizer steps are being taken."""
    SAVING_SNAPSHOT = "saving_snapshot"
    """A cycle has ended and its snapshot is being stored."""
    EVALUATING = "evaluating"
    """Metrics of a snapshot or of the ensemble are being computed."""
    STOPPING = "stopping"
    """A cancel or stop is being carried out."""
    FINALIZING = "finalizing"
    """Everything is computed; the result is being stored."""


class Action(StrEnum):
    """What someone may ask of a job that runs; a later one in this list replaces an earlier one that was requested before."""

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
    INTERNAL = "internal"
    """A defect of this program."""


def allowed_actions(status: JobStatus) -> tuple[str, ...]:
    """The verbs that a job in this state accepts."""
    match status:
        case JobStatus.QUEUED:
            return ("cancel",)
        case JobStatus.RUNNING | JobStatus.PAUSED:
            return ("cancel", "stop")
        case JobStatus.SUCCEEDED | JobStatus.FAILED | JobStatus.CANCELLED:
            return ("delete",)


Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16, description="Up to 16 pairs of text of your own: keys up to 64, values up to 512 characters."),
]
Name = Annotated[str, Field(min_length=1, max_length=200, description="A name for people.")]


class TrainJobRequest(TrainingConfig):
    """A training job as it is asked for: a training configuration, its data and labels for people."""

    kind: Literal["train"] = Field("train", description="What the job computes.")
    name: Name | None = None
    dataset_id: str = Field(max_length=64, description="The dataset to train on: ds_….")
    metadata: Metadata = Field(default_factory=dict)

    def training_config(self) -> TrainingConfig:
        """The part that decides the result."""
        return TrainingConfig(**{name: getattr(self, name) for name in TrainingConfig.model_fields})


class JobSpec(StrictModel):
    """A job as it was accepted, for ever: the document that the artifact store keeps."""

    id: str
    kind: JobKind = JobKind.TRAIN
    name: str | None
    dataset_id: str
    metadata: dict[str, str]
    config: TrainingConfig
    created_at: str = Field(description="RFC 3339, UTC.")
    num_steps: int
    num_cycles: int
    epochs: float
    steps_per_epoch: int
    idempotency_key_sha256: str | None = Field(None, description="Hash of the Idempotency-Key that it was submitted with.")
    body_sha256: str = Field("", description="Hash of the request's body.")

    def record_fields(self) -> dict[str, str]:
        """The fields of the live record that never change, and those of a job that has not begun."""
        documents = {"name": self.name, "metadata": self.metadata, "progress": self.initial_progress()}
        return {
            "id": self.id,
            **{name: orjson.dumps(document).decode() for name, document in documents.items()},
            "config": self.config.model_dump_json(),
            "created_at": self.created_at,
        }

    def initial_progress(self) -> dict[str, Any]:
        """The progress of a job that has not begun."""
        return {
            "fraction": 0.0,
            "cycle": 0,
            "cycles": self.num_cycles,
            "epoch": 0.0,
            "epochs": self.epochs,
            "step": 0,
            "steps": self.num_steps,
            "eta_seconds": None,
            "samples_per_second": None,
        }


@dataclass(frozen=True)
class JobRecord:
    """A job as it is now.

    Attributes:
        phase: None once the job is terminal.
        epoch: The fencing token of the latest claim; grows with every claim, 0 before the first.
        attempt: Claims so far.
        crashes: Attempts lost in a row without progress.
        position: Place in the queue, 1 is next; None unless queued.
        best: The best snapshot so far: cycle and metrics.
        error: category, message, suggestion.
        requested_action: The cancel or stop that the worker has still to carry out.
        started_at: First claim. RFC 3339 UTC, as all times.
        training_started_at: First optimizer step.
        config: The training configuration, resolved as far as it is known.
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
    requested_action: Action | None = None
    transitions: list[dict[str, Any]] = field(default_factory=list)


def key_sha256(idempotency_key: str) -> str:
    """The form in which Idempotency-Keys are kept: of one length, and in no file as it was sent."""
    return hashlib.sha256(idempotency_key.encode()).hexdigest()


def rfc3339(unix_ms: int) -> str:
    """A moment as text, with milliseconds, in UTC: ``2026-11-23T14:31:00.000Z``."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_rfc3339() -> str:
    """This moment as text, by this machine's clock."""
    return rfc3339(int(datetime.now(UTC).timestamp() * 1000))
