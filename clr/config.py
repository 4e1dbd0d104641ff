"""What a training run is: one frozen, validated document.

The same object is the HTTP request body, the spec kept in the artifact store and the argument of ``clr.training.train``.
Every default of a run stands here, in ``clr.schedule_config`` or in ``clr.model_config``, and nowhere else. None of them imports torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from clr.model_config import (
    MlpConfig,
    MlpParams,
    ModelConfig,
    ResNetConfig,
    ResNetParams,
    SmallCnnConfig,
    SmallCnnParams,
    WideResNetConfig,
    WideResNetParams,
)
from clr.schedule_config import (
    MAX_STEPS,
    CosineSchedule,
    Epochs,
    ExponentialSchedule,
    ExpRangeSchedule,
    FixedSchedule,
    OneCycleSchedule,
    PositiveRate,
    Rate,
    RateOfJob,
    ScheduleConfig,
    StepSchedule,
    TriangularSchedule,
    WarmRestartsSchedule,
    as_fraction,
    given_length,
    with_length,
)
from clr.strict_model import Bool, Float, Int, StrictModel

__all__ = [
    "MAX_STEPS",
    "AdamWConfig",
    "Budget",
    "CosineSchedule",
    "ExpRangeSchedule",
    "ExponentialSchedule",
    "FixedSchedule",
    "MlpConfig",
    "MlpParams",
    "ModelConfig",
    "OneCycleSchedule",
    "OptimizerConfig",
    "RangeTestConfig",
    "RateOfJob",
    "ResNetConfig",
    "ResNetParams",
    "RunConfig",
    "ScheduleConfig",
    "SetupConfig",
    "SgdConfig",
    "SmallCnnConfig",
    "SmallCnnParams",
    "StepSchedule",
    "StrictModel",
    "TrainingConfig",
    "TriangularSchedule",
    "WarmRestartsSchedule",
    "WideResNetConfig",
    "WideResNetParams",
    "as_fraction",
]


class SgdConfig(StrictModel):
    """Stochastic gradient descent with momentum, the optimizer of the snapshot-ensemble paper."""

    type: Literal["sgd"] = "sgd"
    momentum: Float = Field(0.9, ge=0, lt=1, description="Momentum (1704.00109: 0.9).")
    nesterov: Bool = Field(True, description="Nesterov's form of the momentum (1704.00109 uses it).")
    weight_decay: Float = Field(5e-4, ge=0, le=1, description="L2 penalty on all weights.")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0, got momentum 0: set nesterov to false or momentum to 0.9")
        return self


class AdamWConfig(StrictModel):
    """Adam with decoupled weight decay (1711.05101)."""

    type: Literal["adamw"]
    beta1: Float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: Float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
    eps: Float = Field(1e-8, gt=0, le=1, description="Added to the denominator.")
    weight_decay: Float = Field(1e-2, ge=0, le=1, description="Decoupled weight decay.")


OptimizerConfig = Annotated[SgdConfig | AdamWConfig, Field(discriminator="type")]


class SetupConfig(StrictModel):
    """What all runs that are compared with each other share: all but the seed and the learning rate."""

    model: ModelConfig = Field(MlpConfig(architecture="mlp"), description="The network.")
    optimizer: OptimizerConfig = Field(SgdConfig(), description="How gradients become updates.")
    batch_size: Int = Field(
        128,
        ge=1,
        le=65_536,
        description="Rows per mini-batch; the last one of an epoch may be smaller. A job that gives none gets a smaller one where its "
        "training rows would make fewer than 8 batches; its config shows what was taken.",
    )
    accumulation: Int = Field(
        1, ge=1, le=1024, description="Mini-batches per optimizer step, the unit of every schedule; their gradients are averaged over rows."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 autocast on a CUDA device that has it, and on a CPU that has it where the network and its mini-batches are "
        "large enough to gain and its architecture has passed an accuracy gate; else fp32. The job's config shows what was taken.",
    )
    augmentation: Literal["auto", "none", "crop", "flip_crop"] = Field(
        "auto",
        description="crop: random shifts by up to an eighth of the size; flip_crop: mirrored as well. auto: none, since only "
        "the owner of the data knows which changes keep a label; the job's config shows what was taken.",
    )
    validation_fraction: Float = Field(0.1, gt=0, le=0.5, description="Share of the training rows kept for validation, stratified.")
    test_fraction: Annotated[float, Field(strict=True, gt=0, le=0.5)] | None = Field(
        None, description="Share of the rows kept for the test. Null: the dataset's own test rows, or a tenth where it has none."
    )
    split_seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        None, description="Fixes which rows train, validate and test, so that runs with other seeds can share them. Null: the seed."
    )


class RunConfig(SetupConfig):
    """What training runs and range tests have in common: all but the learning rate."""

    seed: Int = Field(0, ge=0, lt=2**63, description="Fixes initial weights, data order, augmentation, dropout and splits.")


class Budget(StrictModel):
    """How long a run may be, in place of a length in its schedule: one of the two."""

    minutes: Annotated[float, Field(strict=True, ge=0.01, le=100_000)] | None = Field(
        None,
        description="Wall-clock minutes of training on its worker, with range test, evaluation and snapshots, but without the wait in the "
        "queue, the start of the trainer process and the storing of the last files; a resumed run goes on with the time left at its "
        "checkpoint. The run measures its speed and plans its cycles so that the last one completes in time.",
    )
    epochs: Epochs | None = Field(None, description="Passes over the training rows; a range test of the job comes on top.")

    @model_validator(mode="after")
    def _is_one_length(self) -> Self:
        if (self.minutes is None) == (self.epochs is None):
            got = "neither" if self.minutes is None else f"minutes {self.minutes:g} and epochs {self.epochs:g}"
            raise ValueError(f'budget must give minutes or epochs, got {got}: write for example {{"minutes": 20}} or {{"epochs": 40}}')
        return self


class TrainingConfig(RunConfig):
    """One training run, complete but for its data."""

    budget: Budget | None = Field(None, description="How long the run may be; the schedule then gives no length of its own. Null: it does.")
    schedule: ScheduleConfig = Field(
        WarmRestartsSchedule(), validate_default=True, description="The learning rate as a function of the optimizer step."
    )

    @field_validator("schedule")
    @classmethod
    def _one_length(cls, schedule: ScheduleConfig, info: ValidationInfo) -> ScheduleConfig:
        """Sees to it that budget or schedule say how long the run is, and not both."""
        if "budget" not in info.data:
            return schedule  # wrong itself
        if info.data["budget"] is None:
            return with_length(schedule)
        if lengths := given_length(schedule):
            told = " and ".join(f"{name} {value:g}" for name, value in lengths.items())
            raise ValueError(f"budget fixes the length of the run, but schedule gives {told}: leave {' and '.join(lengths)} or budget out")
        if isinstance(schedule, WarmRestartsSchedule) and schedule.boundaries == "paper":
            raise ValueError(
                "boundaries 'paper' may cut the last cycle, which a budget is to complete: take 'balanced', or leave budget out"
            )
        return schedule


SMALLEST_START_LR = 1e-12
"""Below, a step changes no weight in single precision; much below, the ratio of the rates overflows."""

MAX_SWEEP_STEPS = 1_000_000
"""Of all sweeps of a range test; the loss of each is in its answer."""


class RangeTestConfig(RunConfig):
    """One learning-rate range test: a short run over rising rates (1506.01186, section 3.3), repeated with other seeds."""

    sweep: Literal["exponential", "linear"] = Field(
        "exponential", description="exponential: equal ratios between the rates; linear: equal differences (1506.01186)."
    )
    start_lr: Rate = Field(1e-5, description="The first rate; > 0 for an exponential sweep.")
    end_lr: PositiveRate = Field(10.0, description="The last rate.")
    num_rates: Int = Field(100, ge=10, le=10_000, description="Number of rates N; both ends belong to the sweep.")
    steps_per_rate: Int = Field(1, ge=1, le=1000, description="Optimizer steps at each rate; their losses are averaged.")
    repeats: Int = Field(3, ge=1, le=100, description="Sweeps with seeds seed, seed + 1, …; their spread is the answer's confidence.")
    smoothing: Float = Field(0.9, ge=0, lt=1, description="Factor beta of the bias-corrected moving average of the losses.")
    divergence_factor: Float = Field(
        4.0, gt=1, le=1000, description="A sweep stops when the smoothed loss exceeds the best by this factor."
    )
    probes: Bool = Field(
        True, description="Whether probes, short trainings at rates around the curve's minimum, decide on max_lr; false: the curve alone."
    )
    probe_steps: Annotated[int, Field(strict=True, ge=10, le=1_000_000)] | None = Field(
        None, description="Optimizer steps of a probe. Null: one epoch, but at least 100 and at most 400 steps."
    )
    probe_repeats: Int = Field(
        1, ge=1, le=100, description="Probes at each rate, with seeds seed, seed + 1, …; their losses are averaged, their spread is told."
    )

    @model_validator(mode="after")
    def _sweep_rises(self) -> Self:
        if self.start_lr >= self.end_lr:
            raise ValueError(f"end_lr must be > start_lr ({self.start_lr:g}), got {self.end_lr:g}: swap or widen them")
        if self.sweep == "exponential" and self.start_lr == 0:
            raise ValueError("start_lr must be > 0 for an exponential sweep, got 0: take 1e-5, or sweep 'linear'")
        if 0 < self.start_lr < SMALLEST_START_LR:
            raise ValueError(f"start_lr must be at least {SMALLEST_START_LR:g}, got {self.start_lr:g}: take 1e-5")
        return self

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        losses = self.num_rates * self.steps_per_rate * self.repeats
        if losses > MAX_SWEEP_STEPS:
            raise ValueError(
                f"num_rates ({self.num_rates}) * steps_per_rate ({self.steps_per_rate}) * repeats ({self.repeats}) must be at most "
                f"{MAX_SWEEP_STEPS}, got {losses}: lower one of them"
            )
        steps = (self.probe_steps or 0) * self.probe_repeats
        if steps > MAX_SWEEP_STEPS:
            raise ValueError(
                f"probe_steps ({self.probe_steps}) * probe_repeats ({self.probe_repeats}) must be at most {MAX_SWEEP_STEPS}, "
                f"got {steps}: lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _probes_are_made(self) -> Self:
        given = [f"probe_steps {self.probe_steps}"] if self.probe_steps is not None else []
        given += [f"probe_repeats {self.probe_repeats}"] if self.probe_repeats != 1 else []
        if given and not self.probes:
            fields = " and ".join(one.split()[0] for one in given)
            raise ValueError(f"probes false makes no probes, but {' and '.join(given)} is given: leave {fields} out, or set probes true")
        return self
