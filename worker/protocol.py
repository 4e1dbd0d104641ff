"""What a supervisor and its trainer process say to each other: one JSON document per line.

Down the trainer's stdin go one ``TrainerJob`` and then any ``StopRequest``; the end of stdin means that the worker is gone. Up its stdout
come the messages. A trainer is told to checkpoint and leave by SIGTERM, so that whoever stops the machine's processes says the same.
This module doesn't import torch.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from worker.job_specs import JobSpec
from worker.jobs import Phase

EXIT_DRAINED = 75
"""Exit status of a trainer that was told to leave and did so (``EX_TEMPFAIL``: try again elsewhere)."""

EXIT_FAILED = 1
"""Exit status of a trainer that sent ``Failed``."""

Json = dict[str, Any]

Row = Sequence[int | float | None]
"""One row of the history: step, epoch, cycle, learning_rate, train_loss."""


class Line(BaseModel):
    """Any document of the protocol; ``encode`` gives its line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> bytes:
        """The document as one line of JSON with its newline."""
        return self.model_dump_json().encode() + b"\n"


class TrainerJob(Line):
    """What to do. Paths are absolute; the trainer reads them and writes only below its own working directory."""

    type: Literal["job"] = "job"
    spec: JobSpec
    dataset_path: str
    checkpoint_path: str | None
    older_checkpoints: tuple[str, ...] = ()  # for where the first is of no use here, the newest first
    checkpoint_seconds: float
    files: Mapping[str, str] = {}  # further files by names of the kind's own, verified (see worker.job_inputs)
    documents: Mapping[str, Json] = {}  # what the kind needs to know of other jobs, by names of its own
    seconds_drained: float = 0.0  # running time of earlier attempts that were drained or paused, whether they left a checkpoint or not


class StopRequest(Line):
    """End the run early and keep what there is."""

    type: Literal["stop"] = "stop"
    when: Literal["now", "cycle_end"]


class StagedFile(BaseModel):
    """A finished file in the trainer's working directory, whose bytes the supervisor moves to the artifact store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str


Metrics = dict[str, float]


class Ready(Line):
    """The trainer is warm: torch is imported and has trained a toy run on the device."""

    type: Literal["ready"] = "ready"


class Started(Line):
    """The data are loaded and the work is laid out; it begins."""

    type: Literal["started"] = "started"
    config: Json  # the kind's configuration, resolved as far as it is known
    step: int = 0  # completed steps: those of the checkpoint, if there is one
    rows: Sequence[Row] = ()  # the history so far
    plan: Sequence[Json] = ()  # the checkpoint's changes of plan: the members of Replanned but for its type
    passed_over: Sequence[str] = ()  # why checkpoints that are intact could not be used
    differences: Sequence[str] = ()  # how this environment differs from the checkpoint's; not empty: the bits may differ


class FirstStep(Line):
    """The first step of this process is done, whatever a step is to the job's kind."""

    type: Literal["first_step"] = "first_step"
    at: float  # seconds since the Unix epoch
    phase: Phase = Phase.TRAINING  # what the steps are for


class PhaseEntered(Line):
    """What the trainer does from now on."""

    type: Literal["phase"] = "phase"
    phase: Phase


class Progress(Line):
    """How far the job is, in steps of its kind's own; at most four a second. None stands for what its kind doesn't have."""

    type: Literal["progress"] = "progress"
    step: int
    steps: int | None  # None while the length of the run is still to be measured
    eta_seconds: float | None = None
    epoch: float | None = None
    epochs: float | None = None
    cycle: int | None = None
    cycles: int | None = None
    learning_rate: float | None = None
    train_loss: float | None = None
    phase_fraction: float | None = None  # how far the phase is, where it takes no steps of the job
    samples_per_second: float | None = None


class HistoryRows(Line):
    """Rows that the history has gained."""

    type: Literal["rows"] = "rows"
    rows: Sequence[Row]


class RolledBack(Line):
    """The run had diverged and repeats a cycle with lower rates."""

    type: Literal["rolled_back"] = "rolled_back"
    message: str
    rows: Sequence[Row]  # the history up to the start of the cycle


class RateFound(Line):
    """The range test before a run has an answer. An attempt that takes over is handed a spec with the number, and doesn't repeat it."""

    type: Literal["rate_found"] = "rate_found"
    max_lr: float
    epochs: float  # what the search cost, in passes over the training rows
    result: Json  # worker.range_test_job.range_test_document
    config: Json  # the run's, with the number


class Replanned(Line):
    """The plan of the run has changed; later progress tells the new length."""

    type: Literal["replanned"] = "replanned"
    step: int  # completed steps when it was decided
    subject: Literal["cycles", "length"]
    steps: int
    cycles: int
    cycle_ends: Sequence[int]  # exclusive, the past ones included
    peaks: Sequence[float] | None  # shares of max_lr at which the cycles start; None: as the schedule says
    reason: str
    evidence: Mapping[str, float | None]


class SnapshotStaged(Line):
    """A snapshot lies ready. ``ensemble_*`` tell of the mean over the members up to this one, or over the last ``ensemble_members``."""

    type: Literal["snapshot"] = "snapshot"
    cycle: int
    step: int
    epoch: float
    learning_rate: float
    next_learning_rate: float | None
    is_minimum: bool
    validation: Metrics
    test: Metrics
    ensemble_members: int
    ensemble_reason: str = ""  # why so many; empty: all of them
    ensemble_validation: Metrics
    ensemble_test: Metrics
    weights: StagedFile
    outputs: StagedFile


class CheckpointStaged(Line):
    """A checkpoint lies ready; it follows every snapshot of a cycle that it has completed."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    file: StagedFile


class ResultStaged(Line):
    """A part of the result that the job is for: its members join those of earlier parts at the top of the result document."""

    type: Literal["result"] = "result"
    document: Json


class Finished(Line):
    """The run is over and everything was staged. One that was stopped and has staged nothing was in fact cancelled."""

    type: Literal["finished"] = "finished"
    stop_reason: Literal["stopped"] | None


class Failed(Line):
    """The run cannot go on, and another attempt would fail alike."""

    type: Literal["failed"] = "failed"
    category: Literal["user", "data", "diverged", "out_of_memory", "disk_full", "time_limit", "internal"]
    message: str
    suggestion: str


Message = Annotated[
    Ready
    | Started
    | FirstStep
    | PhaseEntered
    | Progress
    | HistoryRows
    | RolledBack
    | RateFound
    | Replanned
    | SnapshotStaged
    | CheckpointStaged
    | ResultStaged
    | Finished
    | Failed,
    Field(discriminator="type"),
]

_MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


def decode_message(line: bytes) -> Message:
    """Reads one line of a trainer's stdout.

    Raises:
        pydantic.ValidationError: The line is no message.
    """
    return _MESSAGES.validate_json(line)
