"""What the checks of all kinds of jobs have in common: what they bring, and the parts that several of them need."""

from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, TypeVar

from clr.batch_sizes import MIN_BATCHES, largest_fitting
from clr.config import SetupConfig, TrainingConfig
from clr.datasets import Dataset
from clr.splits import split_sizes
from service.dependencies import Services
from service.errors import invalid_field
from service.schemas import DryRun
from service.validation import shown
from worker.ids import new_id
from worker.job_requests import JobLabels
from worker.job_specs import JobSpec
from worker.jobs import Priority, key_sha256, now_rfc3339

Json = dict[str, Any]
R = TypeVar("R", bound=SetupConfig)


class SubmissionFields(TypedDict):
    """The fields of a spec that all kinds have in common."""

    id: str
    created_at: str
    idempotency_key_sha256: str | None
    body_sha256: str
    tenant: str
    priority: Priority
    max_seconds: float | None


@dataclass(frozen=True)
class Submission:
    """How a request arrived, and whose it is."""

    key: str | None
    body_sha256: str
    tenant: str
    priority: Priority
    max_seconds: float | None

    def fields(self) -> SubmissionFields:
        """The fields of a new job's spec that all kinds have: a new id, the time, key and body, and its place among others."""
        return {
            "id": new_id("job"),
            "created_at": now_rfc3339(),
            "idempotency_key_sha256": key_sha256(self.key) if self.key is not None else None,
            "body_sha256": self.body_sha256,
            "tenant": self.tenant,
            "priority": self.priority,
            "max_seconds": self.max_seconds,
        }


class CheckedJob(Protocol):
    """A request that can be carried out."""

    def spec(self, submission: Submission) -> JobSpec:
        """The spec of a new job."""

    def dry_run(self) -> DryRun:
        """What the job would be."""


def dataset_of(services: Services, dataset_id: str) -> Dataset:
    """The dataset that a request names; a ``Problem`` where there is none."""
    dataset = services.datasets.load(dataset_id)
    if dataset is None:
        raise invalid_field(
            f"there is no dataset {shown(dataset_id)}", pointer="#/dataset_id", hint="GET /v1/datasets lists them; POST makes one"
        )
    return dataset


def with_fitting_batches(request: R, dataset: Dataset) -> tuple[R, tuple[str, ...]]:
    """The request as it is where it gives a batch size or its rows fill enough batches; else with a smaller one, and a note on that."""
    if "batch_size" in request.model_fields_set:
        return request, ()
    shares = TrainingConfig(validation_fraction=request.validation_fraction, test_fraction=request.test_fraction)
    rows = split_sizes(dataset, shares).train
    fitting = largest_fitting(rows)
    if fitting >= request.batch_size:
        return request, ()
    note = (
        f"batch_size {fitting}: none was given, and the default of {request.batch_size} would make fewer than {MIN_BATCHES} batches "
        f"of the {rows} training rows"
    )
    return request.model_copy(update={"batch_size": fitting}), (note,)


def notes_on_precision(config: SetupConfig) -> list[str]:
    """What is decided only when a worker takes the job."""
    if config.precision != "auto":
        return []
    return ["precision auto depends on the worker's device: bf16 where that gains, else fp32"]


def allowed_seconds(services: Services, request: JobLabels) -> float | None:
    """The running time that a request asks for; a ``Problem`` where it is more than the service allows."""
    most = services.settings.max_job_seconds
    if most is not None and request.max_seconds is not None and request.max_seconds > most:
        raise invalid_field(
            f"must be at most {most:g}, the longest running time here, got {request.max_seconds:g}",
            pointer="#/max_seconds",
            hint="leave it out, or ask for less",
        )
    return request.max_seconds
