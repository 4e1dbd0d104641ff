"""What the results of jobs have besides, by their kind."""

from typing import Literal

from pydantic import Field

from service.schemas import Document


class SweepOutput(Document):
    """One sweep of a range test: rates, and the loss at each before its own update; null where it was no finite number."""

    seed: int
    learning_rate: list[float]
    loss: list[float | None]
    batch_loss: list[list[float | None]] = Field(description="At each rate, the loss of every mini-batch before its own update.")
    smoothed: list[float] = Field(description="Bias-corrected moving average of the finite losses.")
    stop_reason: Literal["not_finite", "diverged"] | None = Field(description="Why it ended before its last rate.")


class ProbeOutput(Document):
    """A rate that was tried by short trainings, and the loss on the validation rows; null where one diverged."""

    learning_rate: float
    validation_loss: float | None


class RangeTestOutput(Document):
    """What the result of a range test has besides: its curves and its answer, or the reason why there is none."""

    sweeps: list[SweepOutput]
    probes: list[ProbeOutput] = Field(description="Lowest rate first; empty where the curve alone decides.")
    suggestions: dict[str, float] = Field(description="steepest, minimum_tenth, valley; empty if there is no descent.")
    min_lr: float | None
    max_lr: float | None = Field(description="Null: no suggestion, see reason.")
    curve_max_lr: float | None = Field(description="The upper end that the curve alone suggests.")
    spread_decades: dict[str, float] = Field(
        description="Standard deviation, in decades, of each answer over the sweeps; of a max_lr that probes decided, over draws with "
        "replacement of the validation rows and of the repeats of the probes."
    )
    level: Literal["high", "medium", "low", "single", "refused"] = Field(
        description="How sure max_lr is, by its spread, one step lower where some sweeps had no descent; single: one sweep decided alone."
    )
    num_without_descent: int = Field(description="Sweeps that say nothing.")
    num_steps: int = Field(description="Optimizer steps of the whole test.")
    reason: str
    refusal: str | None = Field(description="The part of the reason that says why there is no suggestion; null where there is one.")


class LearningRateOutput(Document):
    """The max_lr that a training job has not been given: from its own range test, or from an earlier one."""

    max_lr: float
    epochs: float | None = Field(None, description="What its own range test has cost, in passes over the training rows.")
    result: RangeTestOutput | None = None
    from_job: str | None = None


class PlanChange(Document):
    """A change of plan of a training job: how many cycles, or how long."""

    step: int = Field(description="Completed steps when it was decided; what lies before has not moved.")
    subject: Literal["cycles", "length"]
    steps: int
    cycles: int
    cycle_ends: list[int] = Field(description="Exclusive, the past ones included.")
    peaks: list[float] | None = Field(description="Shares of max_lr at which the cycles start; null: as the schedule says.")
    reason: str
    evidence: dict[str, float | None] = Field(description="The figures that the reason rests on.")


class TrainOutput(Document):
    """What the result of a training job has besides, among others."""

    learning_rate: LearningRateOutput | None = Field(description="Null where the request gave the number.")
    plan: list[PlanChange]
