"""A job as it was accepted, for ever: the documents that the artifact store keeps, one model for each kind of job."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, TypeAdapter

from clr.config import RangeTestConfig, TrainingConfig
from clr.landscape_config import LandscapeSettings, num_pairs
from clr.strict_model import StrictModel
from clr.study_config import StudyConfig
from worker.evaluate_config import EvaluateConfig
from worker.jobs import DEFAULT_TENANT, JobKind, Priority
from worker.sealed_json import unsealed

Json = dict[str, Any]

NO_PROGRESS: Json = {
    "fraction": 0.0,
    "cycle": None,
    "cycles": None,
    "epoch": None,
    "epochs": None,
    "step": 0,
    "steps": None,
    "eta_seconds": None,
    "samples_per_second": None,
}
"""The members of every job's progress; None stands where its kind has no such thing, or doesn't know it yet."""


class SpecOfAnyKind(StrictModel):
    """What all specs have; each kind adds its ``kind`` and its ``config``."""

    id: str
    name: str | None
    dataset_id: str
    metadata: dict[str, str]
    created_at: str = Field(description="RFC 3339, UTC.")
    tenant: str = Field(DEFAULT_TENANT, description="Whose job it is.")
    priority: Priority = Field(Priority.NORMAL, description="Which jobs are taken before it.")
    parent_id: str | None = Field(None, description="The job that this one belongs to.")
    max_seconds: float | None = Field(None, description="Running time after which it fails, all attempts together.")
    idempotency_key_sha256: str | None = Field(None, description="Hash of the Idempotency-Key that it was submitted with.")
    body_sha256: str = Field("", description="Hash of the request's body.")

    @property
    def waits_for_runs(self) -> bool:
        """Whether no worker may take the job before ``JobStore.wake`` has queued it."""
        return False

    def record_fields(self) -> dict[str, str]:
        """The fields of the live record that never change, and those of a job that has not begun."""
        documents = {"name": self.name, "metadata": self.metadata, "progress": self.initial_progress()}
        fields = {
            "id": self.id,
            **{name: orjson.dumps(document).decode() for name, document in documents.items()},
            "config": orjson.dumps(self.model_dump(mode="json")["config"]).decode(),
            "created_at": self.created_at,
            "tenant": self.tenant,
            "priority": self.priority.value,
        }
        return fields | {name: value for name, value in self.origins().items() if value is not None}

    def origins(self) -> dict[str, str | None]:
        """The jobs that this one comes from."""
        return {"parent_id": self.parent_id}

    def initial_progress(self) -> Json:
        """The progress of a job that has not begun."""
        return NO_PROGRESS

    def progress_at(self, step: int) -> Json:
        """The progress of a job of which no more is known than its completed steps."""
        progress = self.initial_progress()
        return progress | {"step": step, "fraction": min(1.0, step / progress["steps"]) if progress["steps"] else 0.0}


def with_max_lr(config: TrainingConfig, max_lr: float) -> TrainingConfig:
    """The config with a number for the highest rate.

    Raises:
        pydantic.ValidationError: The schedule cannot take it: it is not above min_lr.
    """
    document = config.model_dump()
    document["schedule"]["max_lr"] = max_lr
    return TrainingConfig.model_validate(document)


class TrainSpec(SpecOfAnyKind):
    """A training job. Its length is None where only its worker can find it: under a budget of minutes."""

    kind: Literal[JobKind.TRAIN] = JobKind.TRAIN
    config: TrainingConfig
    max_lr_from: str | None = Field(None, description="The range test from which max_lr was taken.")
    num_steps: int | None
    num_cycles: int
    epochs: float | None
    steps_per_epoch: int
    landscape: LandscapeSettings | None = Field(None, description="What is measured around the snapshots after the last cycle.")

    def origins(self) -> dict[str, str | None]:
        """The jobs that this one comes from."""
        return super().origins() | {"max_lr_from": self.max_lr_from}

    def initial_progress(self) -> Json:
        """The progress of a job that has not begun."""
        length = {"cycle": 0, "cycles": self.num_cycles, "epoch": 0.0, "epochs": self.epochs, "steps": self.num_steps}
        return NO_PROGRESS | length

    def progress_at(self, step: int) -> Json:
        """The progress of a job of which no more is known than its completed steps."""
        return super().progress_at(step) | {"epoch": step / self.steps_per_epoch}

    def with_max_lr(self, max_lr: float) -> "TrainSpec":
        """The spec of the same run with the rate that it has found."""
        return self.model_copy(update={"config": with_max_lr(self.config, max_lr)})


class RangeTestSpec(SpecOfAnyKind):
    """A learning-rate range test; its steps are those of all its sweeps and probes, as far as they can be planned."""

    kind: Literal[JobKind.RANGE_TEST] = JobKind.RANGE_TEST
    config: RangeTestConfig
    num_steps: int

    def initial_progress(self) -> Json:
        """The progress of a job that has not begun."""
        return NO_PROGRESS | {"steps": self.num_steps}


class StudySpec(SpecOfAnyKind):
    """A study: its runs are train jobs of its own, whose specs follow from this one (``worker.studies``)."""

    kind: Literal[JobKind.STUDY] = JobKind.STUDY
    config: StudyConfig
    max_lr_from: str | None = Field(None, description="The range test from which max_lr was taken.")
    num_steps: int = Field(description="Optimizer steps of all its runs together.")
    steps_per_epoch: int

    def origins(self) -> dict[str, str | None]:
        """The jobs that this one comes from."""
        return super().origins() | {"max_lr_from": self.max_lr_from}

    @property
    def waits_for_runs(self) -> bool:
        """Its runs come first."""
        return True

    def initial_progress(self) -> Json:
        """The progress of a study none of whose runs has begun."""
        return NO_PROGRESS | {"steps": self.num_steps}


class EvaluateSpec(SpecOfAnyKind):
    """An evaluation of a train job; its steps are the parts of the measurement."""

    kind: Literal[JobKind.EVALUATE] = JobKind.EVALUATE
    config: EvaluateConfig
    cycles: tuple[int, ...] = Field(description="The snapshots that the train job had when this one was submitted.")

    def initial_progress(self) -> Json:
        """The progress of an evaluation that has not begun: each snapshot twice, each line, the rescaling check."""
        return NO_PROGRESS | {"steps": 2 * len(self.cycles) + num_pairs(len(self.cycles), self.config.landscape) + 1}


JobSpec = Annotated[TrainSpec | RangeTestSpec | StudySpec | EvaluateSpec, Field(discriminator="kind")]
"""A job of any kind."""

_SPECS: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)


def read_spec(document: bytes | str) -> JobSpec:
    """Reads a stored spec, with its checksum or without.

    Raises:
        pydantic.ValidationError: It is none.
        SealBrokenError: It is damaged.
    """
    content = document.encode() if isinstance(document, str) else document
    return spec_of(unsealed(content))


def spec_of(document: Json) -> JobSpec:
    """The spec that a stored document is.

    Raises:
        pydantic.ValidationError: It is none.
    """
    return _SPECS.validate_json(orjson.dumps(document))
