"""The documents that describe a learning-rate schedule; ``clr.schedules`` lays them out over steps."""

from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from clr.strict_model import Float, Int, StrictModel

MAX_STEPS = 100_000_000
"""Upper bound of a run's optimizer steps; beyond it a typing mistake is likelier than a wish."""

DEFAULT_EPOCHS_PER_CYCLE = 4
"""Epochs of a cycle where neither ``epochs_per_cycle`` nor ``epochs`` is given."""


def as_fraction(value: float | str) -> Fraction:
    """The exact rational a person meant: 0.1 is 1/10, '3/2' is 3/2."""
    return Fraction(str(value))


def _refuse_auto_rate(value: object) -> object:
    """Refuses rates that a range test would have to find, until there is one."""
    if value == "auto" or isinstance(value, dict):
        raise ValueError(
            f"max_lr {value!r} asks for a learning-rate range test, which this version does not have: give a number, for example 0.1"
        )
    return value


def _refuse_auto_cycles(value: object) -> object:
    """Refuses a number of cycles that planning would have to choose, until there is planning."""
    if value == "auto":
        raise ValueError(
            "cycles 'auto' asks for planning by measurement, which this version does not have: give a whole number, for example 5"
        )
    return value


def _check_order(min_lr: float, max_lr: float) -> None:
    if min_lr >= max_lr:
        raise ValueError(f"max_lr must be > min_lr ({min_lr:g}), got {max_lr:g}: raise max_lr or lower min_lr")


def _check_ratio(value: float | str) -> float | str:
    """Checks that a ratio is a number or ``p/q``, in bounds, with a denominator that keeps exact arithmetic quick."""
    try:
        ratio = as_fraction(value)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"must be a number or a ratio such as '3/2', got {value!r}: write it as p/q") from None
    if not Fraction(1, 100) <= ratio <= 100:
        raise ValueError(f"must be between 1/100 and 100, got {value}: cycles that grow or shrink faster are of no use")
    if ratio.denominator > 1000:
        raise ValueError(f"must be a ratio with a denominator of at most 1000, got {value}: round it, for example to '3/2' or 1.25")
    return value


Ratio = Annotated[Annotated[float, Field(strict=True)] | Annotated[str, Field(max_length=32)], AfterValidator(_check_ratio)]
MaxRate = Annotated[float, Field(strict=True, gt=0, le=1000), BeforeValidator(_refuse_auto_rate)]
Rate = Annotated[float, Field(strict=True, ge=0, le=1000)]
Epochs = Annotated[float, Field(strict=True, gt=0, le=100_000)]
Cycles = Annotated[int, Field(strict=True, ge=1, le=1000), BeforeValidator(_refuse_auto_cycles)]


class FixedSchedule(StrictModel):
    """A constant learning rate: the control without any annealing."""

    type: Literal["fixed"] = "fixed"
    max_lr: MaxRate = Field(0.1, description="The learning rate.")
    epochs: Epochs = Field(20, description="Length of the run in epochs.")
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (1704.00109, the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")


class StepSchedule(StrictModel):
    """Step-wise decay: the rate is multiplied by ``gamma`` at each milestone (1704.00109, section 4, standard schedule)."""

    type: Literal["step"] = "step"
    max_lr: MaxRate = Field(0.1, description="The first learning rate.")
    gamma: Float = Field(0.1, gt=0, le=1, description="Factor at each milestone.")
    milestones: tuple[Annotated[float, Field(strict=True, gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), max_length=64, description="Shares of the run at which the rate drops, ascending (1704.00109: 50 % and 75 %)."
    )
    epochs: Epochs = Field(20, description="Length of the run in epochs.")
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")

    @model_validator(mode="after")
    def _milestones_ascend(self) -> Self:
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones must ascend strictly, got {list(self.milestones)}: sort them and drop repeats")
        return self


class ExponentialSchedule(StrictModel):
    """Exponential decay per optimizer step: ``max_lr * gamma ** step``."""

    type: Literal["exponential"] = "exponential"
    max_lr: MaxRate = Field(0.1, description="The first learning rate.")
    gamma: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        None, description="Factor per optimizer step. Null: the rate falls to a hundredth of max_lr over the run."
    )
    epochs: Epochs = Field(20, description="Length of the run in epochs.")
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")


class CosineSchedule(StrictModel):
    """One cosine annealing over the whole run (1608.03983, equation 5, without restarts)."""

    type: Literal["cosine"] = "cosine"
    max_lr: MaxRate = Field(0.1, description="The first learning rate.")
    min_lr: Rate = Field(0.0, description="The rate approached at the end.")
    epochs: Epochs = Field(20, description="Length of the run in epochs.")
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        return self


class OneCycleSchedule(StrictModel):
    """One rise and one long fall, both cosine (1708.07120; the form of torch's ``OneCycleLR``)."""

    type: Literal["one_cycle"] = "one_cycle"
    max_lr: MaxRate = Field(0.1, description="The rate at the top.")
    rise_fraction: Float = Field(0.3, gt=0, lt=1, description="Share of the run in which the rate rises.")
    start_divisor: Float = Field(25.0, ge=1, description="The run starts at max_lr divided by this.")
    end_divisor: Float = Field(1e4, ge=1, description="The run ends at its starting rate divided by this.")
    epochs: Epochs = Field(20, description="Length of the run in epochs.")
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")


class TriangularSchedule(StrictModel):
    """Smith's cyclical rate: up and down in straight lines, in every cycle (1506.01186, section 3.1).

    ``triangular2`` halves the height at each cycle. The minimum lies on the boundary between two cycles, so the last step of a
    cycle is one step away from it.
    """

    type: Literal["triangular", "triangular2"] = "triangular"
    min_lr: Rate = Field(0.025, description="The rate at the boundaries (1506.01186, section 3.3: a quarter to a third of max_lr).")
    max_lr: MaxRate = Field(0.1, description="The rate in the middle of the first cycle.")
    cycles: Cycles = Field(3, description="Number of cycles, so of snapshots (1506.01186: at least 3).")
    epochs_per_cycle: Epochs = Field(8, description="Length of a cycle in epochs, twice Smith's step size of 2 to 8 epochs.")
    cycle_limit: Cycles | None = Field(None, description="After this many cycles the rate stays at min_lr. Null: no limit.")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        return self


class ExpRangeSchedule(StrictModel):
    """Smith's triangular rate whose height shrinks by ``gamma`` at every step of the run (1506.01186, section 3.1)."""

    type: Literal["exp_range"] = "exp_range"
    min_lr: Rate = Field(0.025, description="The rate at the boundaries.")
    max_lr: MaxRate = Field(0.1, description="The rate in the middle of the first cycle, before shrinking.")
    gamma: Float = Field(0.99994, gt=0, le=1, description="Factor per optimizer step, counted from the start (1506.01186, section 4.1).")
    cycles: Cycles = Field(3, description="Number of cycles, so of snapshots.")
    epochs_per_cycle: Epochs = Field(8, description="Length of a cycle in epochs.")
    cycle_limit: Cycles | None = Field(None, description="After this many cycles the rate stays at min_lr. Null: no limit.")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        return self


class WarmRestartsSchedule(StrictModel):
    """Cosine annealing with warm restarts and a snapshot at every minimum (1704.00109, equation 2; 1608.03983, equation 5)."""

    type: Literal["warm_restarts"] = "warm_restarts"
    max_lr: MaxRate = Field(0.1, description="The rate at the first restart (1704.00109 uses 0.1 and 0.2).")
    min_lr: Rate = Field(0.0, description="The rate approached at each minimum.")
    cycles: Cycles = Field(5, description="Number of cycles M, so of snapshots (1704.00109: 4 to 8).")
    epochs_per_cycle: Epochs | None = Field(
        None, description="Length of the first cycle in epochs. Null: 4, or what follows from epochs where that is given."
    )
    epochs: Epochs | None = Field(None, description="Length of the whole run in epochs, shared among the cycles; or give epochs_per_cycle.")
    cycle_mult: Ratio = Field(1.0, description="Each cycle is this many times as long as the one before: number or ratio 'p/q'.")
    restart_decay: Float = Field(1.0, gt=0, le=1, description="Each cycle's maximum rate is this many times the one before.")
    cycle_limit: Cycles | None = Field(None, description="After this many cycles the rate stays at min_lr. Null: no limit.")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up inside the first cycle; moves no boundary.")
    boundaries: Literal["balanced", "paper"] = Field(
        "balanced",
        description="balanced: exactly M full cycles, lengths differ by one step at most. paper: ceil(T/M), the last may be cut.",
    )

    @model_validator(mode="before")
    @classmethod
    def _length_is_given(cls, data: object) -> object:
        """Writes the default length out, so that a stored spec shows it and reads back to the same run."""
        if isinstance(data, dict) and data.get("epochs") is None and data.get("epochs_per_cycle") is None:
            return {**data, "epochs_per_cycle": DEFAULT_EPOCHS_PER_CYCLE}
        return data

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        lowest_peak = self.max_lr * self.restart_decay ** (self.cycles - 1)
        if self.min_lr >= lowest_peak:
            raise ValueError(
                f"every cycle's maximum must be > min_lr ({self.min_lr:g}), but the last one starts at {lowest_peak:g}: "
                "raise max_lr or restart_decay, or lower min_lr or cycles"
            )
        if self.epochs is not None and self.epochs_per_cycle is not None:
            raise ValueError(
                f"epochs ({self.epochs:g}) and epochs_per_cycle ({self.epochs_per_cycle:g}) both fix the length of the run: give one"
            )
        if self.boundaries == "paper" and as_fraction(self.cycle_mult) != 1:
            raise ValueError(f"boundaries 'paper' needs cycle_mult 1, got {self.cycle_mult}: the paper's cycles are of one length")
        return self


ScheduleConfig = Annotated[
    FixedSchedule
    | StepSchedule
    | ExponentialSchedule
    | CosineSchedule
    | OneCycleSchedule
    | TriangularSchedule
    | ExpRangeSchedule
    | WarmRestartsSchedule,
    Field(discriminator="type"),
]
