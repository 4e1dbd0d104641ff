"""The document that describes a study: controls beside the snapshot ensemble, at one budget, over several seeds. No torch here."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clr.config import SetupConfig
from clr.errors import did_you_mean
from clr.schedule_config import DEFAULT_EPOCHS, UNKNOWN_RATE, Epochs, MaxRate, PositiveRate, Rate
from clr.strict_model import Int

MAX_SEEDS = 20
DEFAULT_CYCLES = 5
MAX_CYCLES = 20
"""With all arms, 20 seeds and 20 cycles a study has 519 runs."""


class Arm(StrEnum):
    """A way to spend the budget of one run of ``epochs``; M is ``cycles``."""

    SNAPSHOT_ENSEMBLE = "snapshot_ensemble"
    """M cosine cycles with warm restarts; the mean of all M snapshots (1704.00109)."""
    AUTO = "auto"
    """What ``cycles: "auto"`` makes of the budget."""
    FIXED = "fixed"
    """A constant rate; the last network."""
    STEP = "step"
    """The rate falls tenfold at 50 % and 75 %: the standard schedule; the last network."""
    EXPONENTIAL = "exponential"
    """The rate falls evenly to a hundredth; the last network."""
    COSINE = "cosine"
    """One cosine annealing; the last network."""
    NO_CYCLE = "no_cycle"
    """M equally spaced snapshots of the run of ``step`` (1704.00109, section 4)."""
    NO_CYCLE_COSINE = "no_cycle_cosine"
    """M equally spaced snapshots of the run of ``cosine``."""
    SINGLE_CYCLE = "single_cycle"
    """M networks from M initialisations, each with one annealing over an M-th of the budget (1704.00109, section 4)."""
    INDEPENDENT = "independent"
    """M networks, each with a whole budget to itself: a deep ensemble, M times as expensive."""


RESTARTING = frozenset({Arm.SNAPSHOT_ENSEMBLE, Arm.SINGLE_CYCLE})
"""Arms whose cycles start at ``restart_lr``."""

WITHOUT_CYCLES = frozenset({Arm.AUTO, Arm.FIXED, Arm.STEP, Arm.EXPONENTIAL, Arm.COSINE})
"""Arms to which ``cycles`` means nothing."""

WITHOUT_MINIMUM = frozenset({Arm.FIXED, Arm.STEP, Arm.EXPONENTIAL, Arm.NO_CYCLE})
"""Arms whose rates don't fall to ``min_lr``."""


def _known_arm(value: object) -> object:
    if isinstance(value, str) and value not in list(Arm):
        raise ValueError(f"unknown arm {value!r}{did_you_mean(value, Arm)}: take some of {', '.join(Arm)}")
    return value


class StudyConfig(SetupConfig):
    """One study, complete but for its data. All its runs share one split of the rows, so that their predictions can be pooled."""

    max_lr: MaxRate = Field(
        0.1,
        description='The highest rate of every arm. "auto": each run begins with a range test of its own, which counts as budget; '
        '{"from_job": "job_…"}: what that range test suggests.',
    )
    restart_lr: PositiveRate | None = Field(
        None, description="The highest rate of the arms snapshot_ensemble and single_cycle (1704.00109: also 0.2). Null: max_lr."
    )
    min_lr: Rate = Field(0.0, description="The rate that every cosine approaches.")
    epochs: Epochs = Field(DEFAULT_EPOCHS, description="The budget of one run in epochs.")
    cycles: Int = Field(
        DEFAULT_CYCLES, ge=2, le=MAX_CYCLES, description="M: cycles, snapshots and networks of an ensemble (1704.00109: 4 to 8)."
    )
    seeds: tuple[Annotated[int, Field(strict=True, ge=0, lt=2**63)], ...] = Field(
        json_schema_extra={"maxItems": MAX_SEEDS},
        description="Each arm is trained once for each of these seeds, for example [0, 1, 2]; intervals need at least two.",
    )
    arms: tuple[Annotated[Arm, BeforeValidator(_known_arm)], ...] = Field(tuple(Arm), description="What to compare; left out: everything.")

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds:
            raise ValueError("seeds must name at least one seed, got none: give for example [0, 1, 2]")
        if len(seeds) > MAX_SEEDS:
            raise ValueError(f"seeds must name at most {MAX_SEEDS} seeds, got {len(seeds)}: leave some out, or split the study")
        _refuse_repeats("seeds", seeds, "a seed that is trained twice gives the same network twice")
        return seeds

    @field_validator("arms")
    @classmethod
    def _arms_are_distinct(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        if not arms:
            raise ValueError(f"arms must name at least one arm, got none: take some of {', '.join(Arm)}, or leave arms out")
        _refuse_repeats("arms", arms, "name each once")
        return arms

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        for name, rate in (("max_lr", self.max_lr), ("restart_lr", self.restart_lr)):
            if isinstance(rate, float) and rate <= self.min_lr:
                raise ValueError(f"{name} must be > min_lr ({self.min_lr:g}), got {rate:g}: raise {name} or lower min_lr")
        if not isinstance(self.max_lr, float) and self.min_lr >= UNKNOWN_RATE:
            raise ValueError(f"min_lr must be < {UNKNOWN_RATE:g} where max_lr is measured, got {self.min_lr:g}: lower min_lr")
        if self.restart_lr is not None and RESTARTING.isdisjoint(self.arms):
            raise ValueError(
                f"restart_lr ({self.restart_lr:g}) is the rate of the arms {' and '.join(sorted(RESTARTING))}, but arms has neither: "
                "add one, or leave restart_lr out"
            )
        return self

    @model_validator(mode="after")
    def _arms_use_what_is_given(self) -> Self:
        told = f"arms has only {', '.join(self.arms)}"
        if self.cycles != DEFAULT_CYCLES and WITHOUT_CYCLES.issuperset(self.arms):
            raise ValueError(f"cycles ({self.cycles}) means nothing here, since {told}: add an arm with cycles, or leave cycles out")
        if self.min_lr != 0 and WITHOUT_MINIMUM.issuperset(self.arms):
            raise ValueError(f"min_lr ({self.min_lr:g}) means nothing here, since {told}: add an arm of cosines, or leave min_lr out")
        return self


def _refuse_repeats(name: str, values: Sequence[object], reason: str) -> None:
    repeated = [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]
    if repeated:
        raise ValueError(f"{name} must differ from each other, got {', '.join(repeated)} more than once: {reason}")
