"""What the API takes, as strict documents: unknown fields and parameters are refused.

A job's body is ``worker.job_requests.JobRequest``; the body of a prediction is read by hand (``service.prediction_bodies``).
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clr.config import ScheduleConfig, StrictModel
from service.api_keys import ID_PATTERN
from service.validation import shown, similar
from worker.ids import is_id, parse_snapshot_id
from worker.job_requests import Metadata, Name
from worker.jobs import JobKind, JobStatus

EVENT_TYPES = ("state", "progress", "learning_rate", "plan", "snapshot", "warning", "end")

MAX_PREVIEW_STEPS = 1_000_000
"""Longest curve that a preview computes whole."""


class BuiltinSource(StrictModel):
    """Data that the service brings along."""

    type: Literal["builtin"]
    name: str = Field(max_length=64, description="digits or fashion-mnist.")


class BuiltinDatasetRequest(StrictModel):
    """Makes a dataset of a built-in one."""

    source: BuiltinSource
    name: Name | None = None
    metadata: Metadata = Field(default_factory=dict)


class UploadFields(StrictModel):
    """The text fields of an upload."""

    name: Name | None = None
    task: Literal["classification", "regression"] | None = Field(None, description="What to predict; default: what the target suggests.")
    target: str | None = Field(None, min_length=1, max_length=200, description="The column of a CSV file to predict.")
    metadata: Metadata = Field(default_factory=dict, description="A JSON object, as text.")


class SchedulePreviewRequest(StrictModel):
    """A schedule to lay out over a run that does not exist yet."""

    schedule: ScheduleConfig
    steps_per_epoch: Annotated[int, Field(strict=True, ge=1, le=10_000_000, description="Optimizer steps in one pass over the data.")]
    epochs: Annotated[float, Field(strict=True, gt=0, le=100_000)] | None = Field(
        None, description="Length of the run; null: what the schedule itself says."
    )
    max_points: Annotated[int, Field(strict=True, ge=2, le=MAX_PREVIEW_STEPS)] = Field(
        MAX_PREVIEW_STEPS, description="Evenly spaced points of a longer curve; the first and last step of each cycle come on top."
    )


class StopRequest(StrictModel):
    """When a job ends that is to keep what it has."""

    when: Literal["now", "cycle_end"] = Field("now", description="now: at the next optimizer step. cycle_end: after the current cycle.")


class ExtendRequest(StrictModel):
    """More cycles for a training."""

    cycles: Annotated[int, Field(strict=True, ge=1, le=1000, description="Cycles to append, as long as those that there are.")]


class EnsembleRequest(StrictModel):
    """An ensemble of chosen snapshots."""

    members: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        min_length=1, max_length=1000, description="Snapshot ids; all must have the same task, classes and input shape."
    )
    name: Name | None = None
    metadata: Metadata = Field(default_factory=dict)


class AliasRequest(StrictModel):
    """Where an alias points from now on."""

    ensemble_id: str = Field(max_length=64, description="An ensemble that can answer: ens_….")


class NoFields(StrictModel):
    """The body of an action without options: none, or an empty object."""


def _job_id(text: str) -> str:
    if not is_id("job", text):
        raise ValueError(f"must be the id of a job, job_ and 26 characters, got {shown(text)}")
    return text


def _dataset_id(text: str) -> str:
    if not is_id("ds", text):
        raise ValueError(f"must be the id of a dataset, ds_ and 26 characters, got {shown(text)}")
    return text


def _snapshot_id(text: str) -> str:
    if parse_snapshot_id(text) is None:
        raise ValueError(f"must be the id of a snapshot, snap_…_ and the number of its cycle, got {shown(text)}")
    return text


def _event_types(text: str) -> str:
    for name in text.split(","):
        if name not in EVENT_TYPES:
            hint = f": did you mean {similar(name, EVENT_TYPES)[0]}?" if similar(name, EVENT_TYPES) else ""
            raise ValueError(f"must be some of {', '.join(EVENT_TYPES)}, separated by commas, got {shown(name)}{hint}")
    return text


class PageQuery(StrictModel):
    """Which part of a list."""

    limit: int = Field(20, ge=1, le=100, description="Most objects of the page.")
    order: Literal["desc", "asc"] = Field("desc", description="desc: the newest first.")


class DatasetQuery(PageQuery):
    """Which datasets."""

    after: Annotated[str, AfterValidator(_dataset_id)] | None = Field(None, description="Datasets that come after this id in the order.")


class SnapshotQuery(StrictModel):
    """Which snapshots of a job."""

    after: Annotated[str, AfterValidator(_snapshot_id)] | None = Field(None, description="Snapshots of later cycles than this one's.")
    limit: int = Field(1000, ge=1, le=1000, description="Most snapshots of the page.")


class JobQuery(PageQuery):
    """Which jobs."""

    after: Annotated[str, AfterValidator(_job_id)] | None = Field(None, description="Jobs that come after this id in the list's order.")
    before: Annotated[str, AfterValidator(_job_id)] | None = Field(None, description="Jobs that come before this id in the list's order.")
    status: JobStatus | None = Field(None, description="Only jobs in this state.")
    kind: JobKind | None = Field(None, description="Only jobs of this kind.")


class ApiKeyQuery(StrictModel):
    """Which API keys."""

    after: Annotated[str, Field(pattern=f"^{ID_PATTERN.pattern}$")] | None = Field(None, description="Keys that are older than this one.")
    limit: int = Field(20, ge=1, le=100, description="Most keys of the page.")


class FigureQuery(StrictModel):
    """What a figure shows besides its job."""

    against: Annotated[str, AfterValidator(_job_id)] | None = Field(
        None, description="Another job to show beside it, as the control of a snapshot ensemble: job_…."
    )


class SubmitQuery(StrictModel):
    """How to submit."""

    dry_run: bool = Field(False, description="Check everything and create nothing.")


class EventQuery(StrictModel):
    """Which events."""

    after: int = Field(0, ge=0, le=2**53, description="Events with a larger sequence number. Last-Event-ID goes before it.")
    limit: int = Field(100, ge=1, le=1000, description="Most events of a JSON page; a stream has no end before the job's.")
    types: Annotated[str, AfterValidator(_event_types)] | None = Field(
        None, description=f"Only these types, separated by commas: some of {', '.join(EVENT_TYPES)}."
    )


class MetricsQuery(StrictModel):
    """Which part of the training curve, and how fine."""

    max_points: int = Field(1000, ge=2, le=100_000, description="Most rows; every bucket keeps its smallest and largest values.")
    from_step: int = Field(0, ge=0, le=2**53, description="Rows of this step and later ones.")


class PredictQuery(StrictModel):
    """What a prediction's answer holds."""

    members: bool = Field(False, description="Also what each member says.")
    top_k: int | None = Field(None, ge=1, le=10_000, description="Only the k likeliest classes of each row, by label.")
    version: int | None = Field(None, ge=1, le=10_000, description="The ensemble as it was with this many snapshots; default the latest.")
    mode: Literal["full"] = Field("full", description="full: every member answers for every row.")
