"""Learning-rate schedules: pure functions of the optimizer step, and the only owners of cycle boundaries.

A schedule has no state: resuming a run means knowing its step number. Boundaries are exact integers, built once from
rationals and found by bisection; rates are Python floats. This module doesn't import torch.

Words: step k = 0 … T-1, cycle j = 0 … M-1, cycle j covers the half-open range [ends[j-1], ends[j]).
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import assert_never

from clr.config import (
    MAX_STEPS,
    CosineSchedule,
    ExponentialSchedule,
    ExpRangeSchedule,
    FixedSchedule,
    OneCycleSchedule,
    ScheduleConfig,
    StepSchedule,
    TriangularSchedule,
    WarmRestartsSchedule,
    as_fraction,
)
from clr.errors import RunLengthError, ScheduleError
from clr.rate_shapes import Shape, cosine_rate, rate_shape
from clr.schedule_config import DEFAULT_EPOCHS, given_length, with_length

__all__ = [
    "Arc",
    "Bend",
    "Schedule",
    "ScheduleError",
    "balanced_ends",
    "build_schedule",
    "cosine_rate",
    "has_cycles",
    "lay_out",
    "paper_ends",
]

MIN_CYCLE_STEPS = 2
"""A cycle of one step has a constant rate and no minimum."""


@dataclass(frozen=True)
class Bend:
    """From ``step`` on, ``left`` steps of an arc's length are shared out evenly up to ``end``."""

    step: int
    left: float
    end: int


@dataclass(frozen=True)
class Arc:
    """What anneals once, over the half-open range [start, end): a cycle, or the whole run of a schedule without cycles.

    Attributes:
        start: Its first step.
        end: Exclusive.
        length: Steps of the full annealing as it was first planned; a cycle that ``paper`` boundaries cut ends before.
        bends: Where its end was moved; between them the annealing goes on at an even pace, so the rate has no jumps.
    """

    start: int
    end: int
    length: int
    bends: tuple[Bend, ...] = ()

    def left(self, step: int) -> float:
        """How much of ``length`` is still to be annealed before ``step``; an exact integer up to the first bend."""
        for bend in reversed(self.bends):
            if step >= bend.step:
                return bend.left * (bend.end - step) / (bend.end - bend.step)
        return self.start + self.length - step

    def bent(self, step: int, end: int) -> "Arc":
        """The same arc up to ``step``, then on to a new end."""
        if end == self.end:
            return self
        earlier = tuple(bend for bend in self.bends if bend.step < step)
        return Arc(self.start, end, self.length, (*earlier, Bend(step, self.left(step), end)))


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every optimizer step, and the steps after which snapshots are taken.

    Attributes:
        num_steps: T, the length of the run in optimizer steps.
        cycle_ends: Exclusive ends of the cycles, ascending; a snapshot is taken after step ``end - 1``. Under ``balanced``
            boundaries and for schedules without cycles the last end is ``num_steps``.
        rate: The learning rate of a step that is known to be in range.
        arcs: One for each cycle, or one for the run of a schedule without cycles; empty for rates that no document describes.
    """

    num_steps: int
    cycle_ends: tuple[int, ...]
    rate: Callable[[int], float]
    arcs: tuple[Arc, ...] = ()

    def __call__(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, 0 <= step < num_steps."""
        if not 0 <= step < self.num_steps:
            raise ScheduleError(f"step must be between 0 and {self.num_steps - 1}, got {step}: the run has {self.num_steps} steps")
        return self.rate(step)

    def is_cycle_end(self, step: int) -> bool:
        """Whether ``step`` is the last step of its cycle, so that a snapshot follows its update."""
        index = bisect_right(self.cycle_ends, step)
        return index < len(self.cycle_ends) and self.cycle_ends[index] == step + 1

    def cycle_of(self, step: int) -> int:
        """The cycle, from 0, that holds ``step``."""
        return bisect_right(self.cycle_ends, step)

    @property
    def num_cycles(self) -> int:
        """M, the number of cycles and so of snapshots."""
        return len(self.cycle_ends)


def build_schedule(config: ScheduleConfig, *, steps_per_epoch: int, epochs: float | None = None) -> Schedule:
    """Lays a schedule out over a run.

    Args:
        config: Any of the schedule documents of ``clr.config``.
        steps_per_epoch: Optimizer steps in one pass over the training rows, >= 1.
        epochs: Length of the run in epochs; overrides the document's own length.

    Raises:
        ScheduleError: The run is too short for its cycles, or too long, or the warm-up leaves no first cycle.
    """
    if steps_per_epoch < 1:
        raise ScheduleError(f"steps_per_epoch must be >= 1, got {steps_per_epoch}: lower batch_size or add rows")
    match config:
        case (
            WarmRestartsSchedule(cycles="auto")
            | FixedSchedule()
            | StepSchedule()
            | ExponentialSchedule()
            | CosineSchedule()
            | OneCycleSchedule()
        ):
            num_steps = _num_steps(epochs or config.epochs or DEFAULT_EPOCHS, steps_per_epoch)
            ends = _spaced_ends(num_steps, 1 if isinstance(config, WarmRestartsSchedule) else config.snapshots)
            arcs: tuple[Arc, ...] = (Arc(0, num_steps, num_steps),)
        case WarmRestartsSchedule() | TriangularSchedule() | ExpRangeSchedule():
            ends, arcs = _cycled(config, _cycled_steps(config, steps_per_epoch, epochs))
        case _:
            assert_never(config)
    warmup_steps = getattr(config, "warmup_steps", 0)  # triangles and one_cycle warm up by themselves
    if warmup_steps >= ends[0] and warmup_steps:
        raise ScheduleError(
            f"warmup_steps must be shorter than the first cycle ({ends[0]} steps), got {warmup_steps}: "
            "lower warmup_steps or lengthen the cycle"
        )
    return lay_out(ends, arcs, rate_shape(config, ends[-1]))


def lay_out(cycle_ends: tuple[int, ...], arcs: tuple[Arc, ...], shape: Shape) -> Schedule:
    """The schedule whose rates are ``shape``'s along the arcs."""
    ends = [arc.end for arc in arcs]

    def rate(step: int) -> float:
        index = bisect_right(ends, step)
        return shape(index, arcs[index].left(step), arcs[index].length, step)

    return Schedule(cycle_ends[-1], cycle_ends, rate, arcs)


def has_cycles(config: ScheduleConfig) -> bool:
    """Whether each of the schedule's snapshots ends an arc of its own."""
    return isinstance(config, WarmRestartsSchedule | TriangularSchedule | ExpRangeSchedule)


def balanced_ends(num_steps: int | Fraction, cycles: int, cycle_mult: Fraction = Fraction(1)) -> tuple[int, ...]:
    """Exactly ``cycles`` exclusive ends that share ``num_steps`` in the ratio 1 : m : m² …; the last end is ``floor(num_steps)``.

    For m = 1 this is ``floor(j T / M)``. T may be a fraction (cycles of 3.5 steps end at 3, 7, 10, …), so that appending
    cycles moves no earlier end. Exact rationals: ``int(log(…))`` is wrong for m = 3 at the 5th restart.

    Raises:
        ScheduleError: A cycle would be shorter than two steps.
    """
    shares = list(accumulate(cycle_mult**j for j in range(cycles)))
    ends = tuple(math.floor(num_steps * share / shares[-1]) for share in shares)
    shortest = min(end - start for start, end in pairwise((0, *ends)))
    if shortest < MIN_CYCLE_STEPS:
        if cycle_mult == 1:
            limit = num_steps // MIN_CYCLE_STEPS
            raise ScheduleError(
                f"cycles must be between 1 and {limit} for {ends[-1]} steps (two steps each at least), got {cycles}: "
                "lower cycles, train for more epochs, or lower batch_size"
            )
        raise ScheduleError(
            f"each cycle must have at least {MIN_CYCLE_STEPS} steps, got one of {shortest} in {cycles} cycles over {ends[-1]} steps "
            f"with cycle_mult {float(cycle_mult):g}: lower cycles, take cycle_mult nearer to 1, or train longer"
        )
    return ends


def paper_ends(num_steps: int, cycles: int) -> tuple[int, ...]:
    """Exclusive ends at multiples of ``ceil(T / M)``, the last one at T (1704.00109, equation 2): its cycle may be cut short.

    There may be fewer ends than ``cycles``: T = 10 and M = 6 give five.

    Raises:
        ScheduleError: A cycle would be shorter than two steps.
    """
    length = -(-num_steps // cycles)
    if num_steps // cycles < MIN_CYCLE_STEPS:
        raise ScheduleError(
            f"cycles must be between 1 and {num_steps // MIN_CYCLE_STEPS} for {num_steps} steps (two steps each at least), "
            f"got {cycles}: lower cycles, train for more epochs, or lower batch_size"
        )
    if length < num_steps and num_steps % length == 1:
        raise ScheduleError(
            f"each cycle must have at least {MIN_CYCLE_STEPS} steps, but boundaries 'paper' leave 1 of {num_steps} steps to the last of "
            f"{cycles} cycles: take boundaries 'balanced', or change epochs or batch_size"
        )
    return (*range(length, num_steps, length), num_steps)


def _num_steps(epochs: float, steps_per_epoch: int) -> int:
    """T for a run of ``epochs``, which may be a fraction; exact."""
    num_steps = math.floor(as_fraction(epochs) * steps_per_epoch)
    if not 1 <= num_steps <= MAX_STEPS:
        raise RunLengthError(
            f"a run must have between 1 and {MAX_STEPS} optimizer steps, got {num_steps} "
            f"({epochs:g} epochs of {steps_per_epoch} steps): change epochs or batch_size"
        )
    return num_steps


def _cycled_steps(
    config: WarmRestartsSchedule | TriangularSchedule | ExpRangeSchedule, steps_per_epoch: int, epochs: float | None
) -> Fraction:
    """T for a document that fixes its length by the length of its first cycle, or by ``epochs``; not yet rounded down."""
    assert config.cycles != "auto", "an automatic run is laid out as one arc"
    document = given_length(with_length(config))
    length = epochs or document.get("epochs")
    if length is not None:
        return Fraction(_num_steps(length, steps_per_epoch))
    mult = as_fraction(config.cycle_mult) if isinstance(config, WarmRestartsSchedule) else Fraction(1)
    shares = sum((mult**j for j in range(config.cycles)), Fraction(0))
    num_steps = as_fraction(document["epochs_per_cycle"]) * shares * steps_per_epoch
    if num_steps > MAX_STEPS:
        raise ScheduleError(
            f"a run must have at most {MAX_STEPS} optimizer steps, got more in {config.cycles} cycles with "
            f"cycle_mult {float(mult):g}: lower cycles, cycle_mult or epochs_per_cycle"
        )
    return num_steps


def _spaced_ends(num_steps: int, snapshots: int) -> tuple[int, ...]:
    """Equally spaced ends of a run without cycles: the NoCycle control of 1704.00109, section 4."""
    if snapshots > num_steps:
        raise ScheduleError(f"snapshots must be between 1 and num_steps ({num_steps}), got {snapshots}: lower snapshots or train longer")
    return tuple((j + 1) * num_steps // snapshots for j in range(snapshots))


def _cycled(
    config: WarmRestartsSchedule | TriangularSchedule | ExpRangeSchedule, num_steps: Fraction
) -> tuple[tuple[int, ...], tuple[Arc, ...]]:
    """Ends and arcs of the cycles; what comes after ``cycle_limit`` cycles is one plateau."""
    assert config.cycles != "auto", "an automatic run is laid out as one arc"
    if isinstance(config, WarmRestartsSchedule) and config.boundaries == "paper":
        ends = paper_ends(math.floor(num_steps), config.cycles)
        whole = -(-math.floor(num_steps) // config.cycles)  # a cut last cycle anneals as if it were whole
    else:
        mult = as_fraction(config.cycle_mult) if isinstance(config, WarmRestartsSchedule) else Fraction(1)
        ends, whole = balanced_ends(num_steps, config.cycles, mult), 0
    if config.cycle_limit is not None and config.cycle_limit < len(ends):
        ends = (*ends[: config.cycle_limit], ends[-1])
    return ends, tuple(Arc(start, end, whole or end - start) for start, end in pairwise((0, *ends)))
