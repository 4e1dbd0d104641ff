"""What a supervisor and its trainer process say to each other: one JSON document per line.

Down the trainer's stdin go one ``TrainerJob`` and then any ``StopRequest``; the end of stdin means that the worker is gone. Up its stdout
come the messages. A trainer is told to checkpoint and leave by SIGTERM, so that whoever stops the machine's processes says the same.
This module doesn't import torch.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from clr.config import TrainingConfig

EXIT_DRAINED = 75
"""Exit status of a trainer that was told to leave and did so (``EX_TEMPFAIL``: try again elsewhere)."""

EXIT_FAILED = 1
"""Exit status of a trainer that sent ``Failed``."""

Row = Sequence[int | float | None]
"""One row of the history: step, epoch, cycle, learning_rate, train_loss."""


class Line(BaseModel):
    """Any document of the protocol; ``encode`` gives its line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> bytes:
        """The document as one line of JSON with its newline."""
        return self.model_dump_json().encode() + b"\n"


class TrainerJob(Line):
    """What to train. Paths are absolute; the trainer reads them and writes only below its own working directory."""

    type: Literal["job"] = "job"
    config: TrainingConfig
    dataset_path: str
    checkpoint_path: str | None
    checkpoint_seconds: float


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
    """The data are loaded and the run is laid out; training begins."""

    type: Literal["started"] = "started"
    config: TrainingConfig  # as resolved: no "auto" is left
    step: int  # completed steps: 0, or those of the checkpoint
    rows: Sequence[Row]  # the history so far
    differences: list[str]  # how this environment differs from the checkpoint's; not empty: the bits may differ


class FirstStep(Line):
    """The first optimizer step of this process is done."""

    type: Literal["first_step"] = "first_step"
    at: float  # seconds since the Unix epoch


class PhaseEntered(Line):
    """What the trainer does from now on."""

    type: Literal["phase"] = "phase"
    phase: Literal["training", "evaluating", "saving_snapshot"]


class Progress(Line):
    """How far the run is; at most four a second."""

    type: Literal["progress"] = "progress"
    step: int
    steps: int
    epoch: float
    epochs: float
    cycle: int
    cycles: int
    learning_rate: float
    train_loss: float
    samples_per_second: float
    eta_seconds: float


class HistoryRows(Line):
    """Rows that the history has gained."""

    type: Literal["rows"] = "rows"
    rows: Sequence[Row]


class RolledBack(Line):
    """The run had diverged and repeats a cycle with lower rates."""

    type: Literal["rolled_back"] = "rolled_back"
    message: str
    rows: Sequence[Row]  # the history up to the start of the cycle


class SnapshotStaged(Line):
    """A snapshot lies ready. ``ensemble_*`` are the metrics of the mean over all members up to this one."""

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
    ensemble_validation: Metrics
    ensemble_test: Metrics
    weights: StagedFile
    outputs: StagedFile


class CheckpointStaged(Line):
    """A checkpoint lies ready; it follows every snapshot of a cycle that it has completed."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    file: StagedFile


class Finished(Line):
    """The run is over and everything was staged."""

    type: Literal["finished"] = "finished"
    stop_reason: Literal["stopped"] | None


class Failed(Line):
    """The run cannot go on, and another attempt would fail alike."""

    type: Literal["failed"] = "failed"
    category: Literal["user", "data", "diverged", "out_of_memory", "disk_full", "internal"]
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
    | SnapshotStaged
    | CheckpointStaged
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
