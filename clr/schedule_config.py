"""The documents that describe a learning-rate schedule; ``clr.schedules`` lays them out over steps."""

import re
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from clr.strict_model import Float, Int, StrictModel

MAX_STEPS = 100_000_000
"""Upper bound of a run's optimizer steps; beyond it a typing mistake is likelier than a wish."""

DEFAULT_EPOCHS = 20.0
"""Length of a run where neither its schedule nor a budget says one."""

DEFAULT_EPOCHS_PER_CYCLE = 4.0
"""Epochs of a cycle of ``warm_restarts`` with a number of cycles, where neither ``epochs_per_cycle`` nor ``epochs`` is given."""

DEFAULT_TRIANGLE_EPOCHS = 8.0
"""Epochs of a triangular cycle, twice Smith's step size of 2 to 8 epochs (1506.01186, section 3.2)."""

DEFAULT_CYCLES = 5
"""Cycles where only their length is given (1704.00109: 4 to 8)."""

UNKNOWN_RATE = 1.0
"""Stands for a ``max_lr`` that is still to be measured wherever a schedule is laid out before: its rates are then shares of max_lr."""


RATIO_TEXT = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?(/[0-9]{1,6})?")
"""What a ratio may look like. ``Fraction`` also reads '1e1000000000', and takes for ever to write it out."""


def as_fraction(value: float | str) -> Fraction:
    """The exact rational a person meant: 0.1 is 1/10, '3/2' is 3/2."""
    return Fraction(str(value))


def _check_order(min_lr: float, max_lr: "float | str | RateOfJob") -> None:
    if not isinstance(max_lr, float):
        if min_lr >= UNKNOWN_RATE:
            raise ValueError(
                f"min_lr must be < {UNKNOWN_RATE:g} where max_lr is measured, got {min_lr:g}: lower min_lr, or give max_lr a number"
            )
    elif min_lr >= max_lr:
        raise ValueError(f"max_lr must be > min_lr ({min_lr:g}), got {max_lr:g}: raise max_lr or lower min_lr")


def _kind_of_rate(value: object) -> str:
    """Which member of ``MaxRate`` a value is meant to be, so that an error speaks of that one alone."""
    if isinstance(value, RateOfJob | dict):
        return "job"
    return "auto" if value == "auto" else "number"


def _kind_of_cycles(value: object) -> str:
    return "auto" if value == "auto" else "number"


def _check_ratio(value: float | str) -> float | str:
    """Checks that a ratio is a number or ``p/q``, in bounds, with a denominator that keeps exact arithmetic quick."""
    try:
        if isinstance(value, str) and not RATIO_TEXT.fullmatch(value):
            raise ValueError(value)
        ratio = as_fraction(value)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"must be a number or a ratio such as '3/2', got {value!r}: write it as p/q") from None
    if not Fraction(1, 100) <= ratio <= 100:
        raise ValueError(f"must be between 1/100 and 100, got {value}: cycles that grow or shrink faster are of no use")
    if ratio.denominator > 1000:
        raise ValueError(f"must be a ratio with a denominator of at most 1000, got {value}: round it, for example to '3/2' or 1.25")
    return value


Ratio = Annotated[Annotated[float, Field(strict=True)] | Annotated[str, Field(max_length=32)], AfterValidator(_check_ratio)]


class RateOfJob(StrictModel):
    """The ``max_lr`` that a finished range test suggests; the service puts the number in its place when it takes the job."""

    from_job: str = Field(min_length=1, max_length=64, description="The range test: job_….")


PositiveRate = Annotated[float, Field(strict=True, gt=0, le=1000)]
MaxRate = Annotated[
    Annotated[PositiveRate, Tag("number")] | Annotated[Literal["auto"], Tag("auto")] | Annotated[RateOfJob, Tag("job")],
    Discriminator(_kind_of_rate),
]
"""A number; "auto": what a range test inside the run suggests; {"from_job": …}: what an earlier range test suggested."""
Rate = Annotated[float, Field(strict=True, ge=0, le=1000)]
Epochs = Annotated[float, Field(strict=True, gt=0, le=100_000)]
Cycles = Annotated[int, Field(strict=True, ge=1, le=1000)]
AutoCycles = Annotated[Annotated[Cycles, Tag("number")] | Annotated[Literal["auto"], Tag("auto")], Discriminator(_kind_of_cycles)]


_LENGTH = f"Length of the run in epochs. Null: {DEFAULT_EPOCHS:g}, or what the budget says."
_RATE = '"auto": a range test finds it, inside the job, before training; {"from_job": "job_…"}: what that range test suggests.'


class FixedSchedule(StrictModel):
    """A constant learning rate: the control without any annealing."""

    type: Literal["fixed"] = "fixed"
    max_lr: MaxRate = Field(0.1, description=f"The learning rate. {_RATE}")
    epochs: Epochs | None = Field(None, description=_LENGTH)
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (1704.00109, the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")


class StepSchedule(StrictModel):
    """Step-wise decay: the rate is multiplied by ``gamma`` at each milestone (1704.00109, section 4, standard schedule)."""

    type: Literal["step"] = "step"
    max_lr: MaxRate = Field(0.1, description=f"The first learning rate. {_RATE}")
    gamma: Float = Field(0.1, gt=0, le=1, description="Factor at each milestone.")
    milestones: tuple[Annotated[float, Field(strict=True, gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), max_length=64, description="Shares of the run at which the rate drops, ascending (1704.00109: 50 % and 75 %)."
    )
    epochs: Epochs | None = Field(None, description=_LENGTH)
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
    max_lr: MaxRate = Field(0.1, description=f"The first learning rate. {_RATE}")
    gamma: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        None, description="Factor per optimizer step. Null: the rate falls to a hundredth of max_lr over the run."
    )
    epochs: Epochs | None = Field(None, description=_LENGTH)
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")


class CosineSchedule(StrictModel):
    """One cosine annealing over the whole run (1608.03983, equation 5, without restarts)."""

    type: Literal["cosine"] = "cosine"
    max_lr: MaxRate = Field(0.1, description=f"The first learning rate. {_RATE}")
    min_lr: Rate = Field(0.0, description="The rate approached at the end.")
    epochs: Epochs | None = Field(None, description=_LENGTH)
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")
    warmup_steps: Int = Field(0, ge=0, description="Steps of linear warm-up, inside the same clock.")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        return self


class OneCycleSchedule(StrictModel):
    """One rise and one long fall, both cosine (1708.07120; the form of torch's ``OneCycleLR``)."""

    type: Literal["one_cycle"] = "one_cycle"
    max_lr: MaxRate = Field(0.1, description=f"The rate at the top. {_RATE}")
    rise_fraction: Float = Field(0.3, gt=0, lt=1, description="Share of the run in which the rate rises.")
    start_divisor: Float = Field(25.0, ge=1, description="The run starts at max_lr divided by this.")
    end_divisor: Float = Field(1e4, ge=1, description="The run ends at its starting rate divided by this.")
    epochs: Epochs | None = Field(None, description=_LENGTH)
    snapshots: Cycles = Field(1, description="Equally spaced snapshots (the NoCycle control).")


class TriangularSchedule(StrictModel):
    """Smith's cyclical rate: up and down in straight lines, in every cycle (1506.01186, section 3.1).

    ``triangular2`` halves the height at each cycle. The minimum lies on the boundary between two cycles, so the last step of a
    cycle is one step away from it.
    """

    type: Literal["triangular", "triangular2"] = "triangular"
    min_lr: Rate = Field(0.025, description="The rate at the boundaries (1506.01186, section 3.3: a quarter to a third of max_lr).")
    max_lr: MaxRate = Field(0.1, description=f"The rate in the middle of the first cycle. {_RATE}")
    cycles: Cycles = Field(3, description="Number of cycles, so of snapshots (1506.01186: at least 3).")
    epochs_per_cycle: Epochs | None = Field(
        None, description="Length of a cycle in epochs. Null: 8, twice Smith's step size of 2 to 8 epochs, or what the budget leaves."
    )
    cycle_limit: Cycles | None = Field(None, description="After this many cycles the rate stays at min_lr. Null: no limit.")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        return self


class ExpRangeSchedule(StrictModel):
    """Smith's triangular rate whose height shrinks by ``gamma`` at every step of the run (1506.01186, section 3.1)."""

    type: Literal["exp_range"] = "exp_range"
    min_lr: Rate = Field(0.025, description="The rate at the boundaries.")
    max_lr: MaxRate = Field(0.1, description=f"The rate in the middle of the first cycle, before shrinking. {_RATE}")
    gamma: Float = Field(0.99994, gt=0, le=1, description="Factor per optimizer step, counted from the start (1506.01186, section 4.1).")
    cycles: Cycles = Field(3, description="Number of cycles, so of snapshots.")
    epochs_per_cycle: Epochs | None = Field(None, description="Length of a cycle in epochs. Null: 8, or what the budget leaves.")
    cycle_limit: Cycles | None = Field(None, description="After this many cycles the rate stays at min_lr. Null: no limit.")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        return self


class WarmRestartsSchedule(StrictModel):
    """Cosine annealing with warm restarts and a snapshot at every minimum (1704.00109, equation 2; 1608.03983, equation 5)."""

    type: Literal["warm_restarts"] = "warm_restarts"
    max_lr: MaxRate = Field(0.1, description=f"The rate at the first restart (1704.00109 uses 0.1 and 0.2). {_RATE}")
    min_lr: Rate = Field(0.0, description="The rate approached at each minimum.")
    cycles: AutoCycles = Field(
        "auto",
        description="Number of cycles M, so of snapshots (1704.00109: 4 to 8). auto: the run starts as one cosine and restarts only if "
        f"what it measures on the way says that it pays; with epochs_per_cycle alone {DEFAULT_CYCLES}.",
    )
    epochs_per_cycle: Epochs | None = Field(
        None, description="Length of the first cycle in epochs. Null: 4, or what follows from epochs or the budget where one is given."
    )
    epochs: Epochs | None = Field(
        None, description="Length of the whole run in epochs, shared among the cycles; or give epochs_per_cycle. Null: 20 for cycles auto."
    )
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
    def _length_of_a_cycle_means_cycles(cls, data: object) -> object:
        """Writes the number of cycles out where only their length is given, so that a stored spec shows it."""
        if isinstance(data, dict) and data.get("epochs_per_cycle") is not None and "cycles" not in data:
            return {**data, "cycles": DEFAULT_CYCLES}
        return data

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        _check_order(self.min_lr, self.max_lr)
        if self.epochs is not None and self.epochs_per_cycle is not None:
            raise ValueError(
                f"epochs ({self.epochs:g}) and epochs_per_cycle ({self.epochs_per_cycle:g}) both fix the length of the run: give one"
            )
        if self.cycles == "auto":
            self._check_nothing_fixes_cycles()
            return self
        lowest_peak = peak_rate(self) * self.restart_decay ** (self.cycles - 1)
        if self.min_lr >= lowest_peak:
            raise ValueError(
                f"every cycle's maximum must be > min_lr ({self.min_lr:g}), but the last one starts at {lowest_peak:g}: "
                "raise max_lr or restart_decay, or lower min_lr or cycles"
            )
        if self.boundaries == "paper" and as_fraction(self.cycle_mult) != 1:
            raise ValueError(f"boundaries 'paper' needs cycle_mult 1, got {self.cycle_mult}: the paper's cycles are of one length")
        return self

    def _check_nothing_fixes_cycles(self) -> None:
        """Refuses what says how cycles follow each other, where the run is to find that out."""
        fixed = {
            "epochs_per_cycle": self.epochs_per_cycle is not None,
            "cycle_mult": as_fraction(self.cycle_mult) != 1,
            "restart_decay": self.restart_decay != 1,
            "cycle_limit": self.cycle_limit is not None,
            "boundaries": self.boundaries != "balanced",
        }
        if given := [name for name, is_given in fixed.items() if is_given]:
            values = ", ".join(f"{name} {getattr(self, name)}" for name in given)
            raise ValueError(
                f"cycles 'auto' chooses the cycles itself, but got {values}: give cycles a number, for example {DEFAULT_CYCLES}, "
                f"or leave out {' and '.join(given)}"
            )


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


def peak_rate(config: ScheduleConfig) -> float:
    """``max_lr``, or ``UNKNOWN_RATE`` where it is still to be measured."""
    return config.max_lr if isinstance(config.max_lr, float) else UNKNOWN_RATE


def is_rate_known(config: ScheduleConfig) -> bool:
    """Whether ``max_lr`` is a number."""
    return isinstance(config.max_lr, float)


def given_length(config: ScheduleConfig) -> dict[str, float]:
    """The fields by which a document fixes the length of its run."""
    fields = {name: getattr(config, name, None) for name in ("epochs", "epochs_per_cycle")}
    return {name: value for name, value in fields.items() if value is not None}


def with_length(config: ScheduleConfig) -> ScheduleConfig:
    """The document with its default length written out, so that a stored spec shows it and reads back to the same run."""
    if given_length(config):
        return config
    match config:
        case TriangularSchedule() | ExpRangeSchedule():
            return config.model_copy(update={"epochs_per_cycle": DEFAULT_TRIANGLE_EPOCHS})
        case WarmRestartsSchedule(cycles=int()):
            return config.model_copy(update={"epochs_per_cycle": DEFAULT_EPOCHS_PER_CYCLE})
        case _:
            return config.model_copy(update={"epochs": DEFAULT_EPOCHS})
