"""What the checks of all kinds of jobs have in common: what they bring, and the parts that several of them need."""

from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from clr.config import SetupConfig
from clr.datasets import Dataset
from service.dependencies import Services
from service.errors import invalid_field
from service.schemas import DryRun
from service.validation import shown
from worker.ids import new_id
from worker.job_specs import JobSpec
from worker.jobs import key_sha256, now_rfc3339

Json = dict[str, Any]


class SubmissionFields(TypedDict):
    """The fields of a spec that no request gives."""

    id: str
    created_at: str
    idempotency_key_sha256: str | None
    body_sha256: str


@dataclass(frozen=True)
class Submission:
    """How a request arrived."""

    key: str | None
    body_sha256: str

    def fields(self) -> SubmissionFields:
        """The fields of a new job's spec that its request doesn't give: a new id, the time, and what the key and body were."""
        return {
            "id": new_id("job"),
            "created_at": now_rfc3339(),
            "idempotency_key_sha256": key_sha256(self.key) if self.key is not None else None,
            "body_sha256": self.body_sha256,
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


def notes_on_precision(config: SetupConfig) -> list[str]:
    """What is decided only when a worker takes the job."""
    if config.precision != "auto":
        return []
    return ["precision auto depends on the worker's device: bf16 on a GPU that computes in it, fp32 elsewhere"]
