"""The bodies of ``POST /v1/jobs``, one model for each kind of job."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from clr.config import RangeTestConfig, TrainingConfig
from clr.landscape_config import LandscapeSettings
from clr.strict_model import StrictModel
from clr.study_config import StudyConfig
from worker.evaluate_config import EvaluateConfig
from worker.jobs import Priority

Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16, description="Up to 16 pairs of text of your own: keys up to 64, values up to 512 characters."),
]
Name = Annotated[str, Field(min_length=1, max_length=200, description="A name for people.")]


class JobLabels(StrictModel):
    """What every request may say for people and about its turn; its kind says the rest."""

    name: Name | None = None
    metadata: Metadata = Field(default_factory=dict)
    max_seconds: float | None = Field(
        None,
        gt=0,
        le=10**9,
        description="Longest running time in seconds, all attempts together; then the job fails as time_limit, and its snapshots stay "
        "usable. A study's runs have as much each. Null: as long as the service allows.",
    )
    priority: Priority = Field(
        Priority.NORMAL,
        description="Jobs of a higher one are taken first; within one, tenants take turns. A study's runs have the study's.",
    )


def _settings_of(value: Any) -> Any:
    """What ``true`` and ``false`` stand for."""
    return {True: LandscapeSettings(), False: None}[value] if isinstance(value, bool) else value


class TrainJobRequest(TrainingConfig, JobLabels):
    """A training job as it is asked for: a training configuration, its data and labels for people."""

    kind: Literal["train"] = Field("train", description="What the job computes.")
    dataset_id: str = Field(max_length=64, description="The dataset to train on: ds_….")
    landscape: Annotated[
        LandscapeSettings | None, BeforeValidator(_settings_of, json_schema_input_type=bool | LandscapeSettings | None)
    ] = Field(
        None,
        description="Whether the landscape around the snapshots is measured after the last cycle, as a job of kind evaluate does it: "
        "true, or an object with its settings.",
    )

    def training_config(self) -> TrainingConfig:
        """The part that decides the result."""
        return TrainingConfig(**{name: getattr(self, name) for name in TrainingConfig.model_fields})


class RangeTestJobRequest(RangeTestConfig, JobLabels):
    """A learning-rate range test as it is asked for: its configuration, its data and labels for people."""

    kind: Literal["range_test"] = Field(description="What the job computes.")
    dataset_id: str = Field(max_length=64, description="The dataset to train on: ds_….")

    def range_test_config(self) -> RangeTestConfig:
        """The part that decides the result."""
        return RangeTestConfig(**{name: getattr(self, name) for name in RangeTestConfig.model_fields})


class StudyJobRequest(StudyConfig, JobLabels):
    """A study as it is asked for: its configuration, its data and labels for people."""

    kind: Literal["study"] = Field(description="What the job computes.")
    dataset_id: str = Field(max_length=64, description="The dataset to train on: ds_….")

    def study_config(self) -> StudyConfig:
        """The part that decides the result."""
        return StudyConfig(**{name: getattr(self, name) for name in StudyConfig.model_fields})


class EvaluateJobRequest(EvaluateConfig, JobLabels):
    """An evaluation as it is asked for: the train job whose minima are measured, how, and labels for people."""

    kind: Literal["evaluate"] = Field(description="What the job computes.")

    def evaluate_config(self) -> EvaluateConfig:
        """The part that decides the result."""
        return EvaluateConfig(job_id=self.job_id, landscape=self.landscape)


JobRequest = TrainJobRequest | RangeTestJobRequest | StudyJobRequest | EvaluateJobRequest

REQUESTS: dict[str, type[JobRequest]] = {
    "train": TrainJobRequest,
    "range_test": RangeTestJobRequest,
    "study": StudyJobRequest,
    "evaluate": EvaluateJobRequest,
}
"""By ``kind``; a body without it is a training job's."""
