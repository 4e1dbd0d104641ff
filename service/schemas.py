"""What the API gives, as documents: separate from what it takes and from what is stored, so that nothing is sent that isn't listed here."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]


class Document(BaseModel):
    """A response."""

    model_config = ConfigDict(extra="forbid")


class ProblemError(Document):
    """One wrong place."""

    pointer: str | None = Field(None, description="JSON pointer into the body.")
    parameter: str | None = Field(None, description="Query parameter or header.")
    detail: str
    hint: str | None = None
    did_you_mean: list[str] = []


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="/problems/{code}, a page that explains it.")
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str
    retryable: bool = Field(description="Whether the same request can succeed later, see Retry-After.")
    errors: list[ProblemError] = []
    error: str = Field("", description="The detail in one text, as the Open Inference Protocol wants it: below /v2 alone.")


class Dataset(Document):
    """Data to train on. ``summary`` has rows, shapes, classes with their counts, or the range of the target."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str | None
    status: Literal["processing", "ready", "invalid"]
    task: str
    rows: int
    test_rows: int
    sha256: str
    size_bytes: int
    source: Json
    summary: Json
    created_at: str
    metadata: dict[str, str]
    links: dict[str, str]


class DatasetPreview(Document):
    """The first rows as they will be trained on."""

    object: Literal["dataset_preview"] = "dataset_preview"
    dataset_id: str
    inputs: list[Any]
    targets: list[Any] = Field(description="Class names, or the values of a regression.")
    columns: list[str]


class SchedulePreview(Document):
    """The exact curve of a schedule."""

    object: Literal["schedule_preview"] = "schedule_preview"
    num_steps: int
    step: list[int]
    learning_rate: list[float]
    cycle_ends: list[int] = Field(description="Exclusive: a snapshot is taken after step end - 1.")
    warnings: list[str] = Field(description="What is allowed but probably not meant.")


class Queue(Document):
    """A job's place among those that wait."""

    position: int | None = Field(description="1 is next, if no other comes before it; null where its own runs come first.")
    reason: str


class Job(Document):
    """A job as it is now."""

    object: Literal["job"] = "job"
    id: str
    kind: str
    name: str | None
    priority: str
    status: str
    phase: str | None = Field(description="Detail of the status; may get new values.")
    terminal: bool
    progress: Json
    queue: Queue | None
    snapshot_count: int
    ensemble_id: str | None = Field(description="Null for jobs without snapshots: of another kind than train.")
    best: Json | None
    error: Json | None
    stop_reason: str | None
    requested_action: str | None
    allowed_actions: list[str]
    dataset_id: str
    parent_id: str | None = Field(description="The job that this one was made for.")
    max_lr_from: str | None = Field(description="The range test from which max_lr was taken.")
    attempt: int
    created_at: str
    started_at: str | None
    training_started_at: str | None
    finished_at: str | None
    transitions: list[Json]
    config: Json
    metadata: dict[str, str]
    links: dict[str, str]


class DryRun(Document):
    """What a job would be."""

    object: Literal["dry_run"] = "dry_run"
    valid: Literal[True] = True
    config: Json = Field(description='As the job would keep it; "auto" stays where the worker\'s device decides.')
    warnings: list[str] = Field(description="What is allowed but probably not meant.")
    notes: list[str] = Field(description="What is decided only when a worker takes the job.")
    estimate: Json
    schedule: Json | None = Field(description="The learning rate of a training job over its steps.")


class Metrics(Document):
    """The training curve by columns, with the snapshots' places."""

    object: Literal["metrics"] = "metrics"
    job_id: str
    columns: dict[str, list[float | int | None]]
    snapshots: list[Json]
    total_rows: int


class Result(BaseModel):
    """What a job came to, from the artifact store; what its kind is for stands beside these."""

    model_config = ConfigDict(extra="allow")

    object: Literal["result"] = "result"
    job_id: str
    kind: str
    status: str
    stop_reason: str | None
    error: Json | None
    finished_at: str
    snapshots: list[Json]
    ensemble: list[Json]
    history: Json
    config: Json


class Figure(Document):
    """A figure as Plotly draws it: ``plotly.graph_objects.Figure(document)`` in Python, ``Plotly.newPlot`` in a browser."""

    data: list[Json]
    layout: Json


class FigureEntry(Document):
    """A figure that a job of this kind can have."""

    object: Literal["figure"] = "figure"
    name: str
    shows: str
    available: bool
    reason: str | None = Field(description="Why it is not available, and what to do.")
    links: dict[str, str]


class Event(BaseModel):
    """Something that happened to a job; the type's own fields stand beside these."""

    model_config = ConfigDict(extra="allow")

    seq: int
    type: str
    at: str


class Snapshot(Document):
    """One member: the weights at the end of a cycle."""

    object: Literal["snapshot"] = "snapshot"
    id: str
    job_id: str
    cycle: int
    epoch: float
    step: int
    learning_rate: float
    next_learning_rate: float | None
    is_minimum: bool
    metrics: Json
    ensemble: Json | None
    size_bytes: int
    sha256: str
    format: Literal["safetensors"]
    created_at: str
    links: dict[str, str]


class Ensemble(Document):
    """Snapshots that answer together. ``versions`` has the metrics with each number of members."""

    object: Literal["ensemble"] = "ensemble"
    id: str
    name: str | None
    job_id: str | None
    version: int = Field(description="Grows by one with every snapshot; 0 before the first.")
    members: list[str]
    left_out: list[str] = Field(description="Snapshots of the job that its latest version does without, by id.")
    left_out_reason: str | None = Field(description="Why they are left out; null where none is.")
    versions: list[Json]
    task: str | None
    input_shape: list[int] | None
    class_names: list[str] | None
    columns: list[str] | None
    created_at: str
    metadata: dict[str, str]
    links: dict[str, str]


class Prediction(Document):
    """The answer to a prediction."""

    object: Literal["prediction"] = "prediction"
    ensemble_id: str
    ensemble_version: int
    members_used: int
    predictions: list[Json] = Field(
        description="Per row: label, probability, probabilities (by class, or the top_k by label), uncertainty {entropy, "
        "mutual_information, agreement}, members on request; for a regression value, std, members on request."
    )
    timing_ms: dict[str, float]


class Page(Document):
    """A part of a list."""

    object: Literal["list"] = "list"
    has_more: bool
    first_id: str | None
    last_id: str | None


class DatasetPage(Page):
    """Datasets."""

    data: list[Dataset]


class JobPage(Page):
    """Jobs."""

    data: list[Job]


class SnapshotPage(Page):
    """Snapshots of a job, in cycle order."""

    data: list[Snapshot]


class Alias(Document):
    """A name that stands for an ensemble. ``earlier`` has what it stood for before, the latest first."""

    object: Literal["alias"] = "alias"
    name: str
    ensemble_id: str
    version: int = Field(description="Counts the changes of this name, from 1.")
    changed_at: str
    earlier: list[Json]
    links: dict[str, str]


class AliasPage(Page):
    """Aliases, by name."""

    data: list[Alias]


class EventPage(Page):
    """Events of a job, in order; ``last_id`` is the number to go on after."""

    data: list[Event]


class FigurePage(Page):
    """The figures of a job."""

    data: list[FigureEntry]
