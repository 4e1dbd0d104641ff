"""What the result of a study has besides."""

from typing import Literal

from pydantic import Field

from service.schemas import Document, Json


class EstimateOutput(Document):
    """One measure on the test rows."""

    mean: float
    sd: float | None = Field(description="Over the seeds; null below two.")
    low: float | None = Field(description="Lower end of the 95 % interval of Student's t for the mean, clipped to possible values.")
    high: float | None
    per_seed: list[float | None] = Field(description="In the order of the seeds; null where a run failed.")


class EquivalentOutput(Document):
    """How many independently trained networks an ensemble is worth (2002.06470), by calibrated likelihood."""

    networks: float
    bound: Literal["below", "above"] | None = Field(description="Not null: only this bound of networks is known.")
    interval: list[Json] | None = Field(description="The same for the ends of the likelihood's interval, lower end first.")
    text: str


class ArmOutput(Document):
    """One row of a study's table."""

    arm: str
    members: Literal["last", "all", "chosen"] = Field(description="Which snapshots of its runs it averages.")
    num_members: list[int | None] = Field(description="How many, by seed; null where a run failed.")
    budget_epochs: float | None = Field(description="What one ensemble of it has cost, range tests included; the mean over the seeds.")
    metrics: dict[str, EstimateOutput | None] = Field(
        description="error, nll, ece, brier, calibrated_nll, temperature; rmse and mae of a regression. Null: the task has none."
    )
    difference_to_cosine: dict[str, EstimateOutput | None] | None = Field(description="Seed by seed; null for the arm itself.")
    deep_ensemble_equivalent: EquivalentOutput | None = Field(description="Null for single runs.")
    failures: list[dict[str, str]] = Field(description="run and reason of those without a result.")
    loss: Json = Field(description="columns and rows of the training loss by step: mean and standard deviation over the seeds.")


class StudyOutput(Document):
    """What the result of a study has besides: its table, and what a reader of it has to know."""

    arms: list[ArmOutput]
    deep_ensembles: Json | None = Field(description="Calibrated likelihood of 1, 2, … independent networks: networks, calibrated_nll.")
    auto: Json | None = Field(description="Whether the arm auto is within one standard error of the best single run: is_within, text.")
    notes: list[str]
    seeds: list[int]
    epochs: float
    cycles: int
    num_runs: int
    runs: list[dict[str, str]] = Field(description="key, job_id and status of each run.")
