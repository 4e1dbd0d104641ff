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

MIN_CYCLE_STEPS = 2
"""A cycle of one step has a constant rate and no minimum."""


class ScheduleError(ValueError):
    """The schedule cannot be laid out over the steps it was given. The only exception of this module."""


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every optimizer step, and the steps after which snapshots are taken.

    Attributes:
        num_steps: T, the length of the run in optimizer steps.
        cycle_ends: Exclusive ends of the cycles, ascending; a snapshot is taken after step ``end - 1``. Under ``balanced``
            boundaries and for schedules without cycles the last end is ``num_steps``.
        rate: The learning rate of a step that is known to be in range.
    """

    num_steps: int
    cycle_ends: tuple[int, ...]
    rate: Callable[[int], float]

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
        case WarmRestartsSchedule():
            return _with_warmup(_warm_restarts(config, _cycled_steps(config, steps_per_epoch, epochs)), config.warmup_steps)
        case TriangularSchedule() | ExpRangeSchedule():
            return _triangular(config, _cycled_steps(config, steps_per_epoch, epochs))
        case OneCycleSchedule():
            num_steps = _num_steps(epochs or config.epochs, steps_per_epoch)
            return Schedule(num_steps, _spaced_ends(num_steps, config.snapshots), _one_cycle(config, num_steps))
        case FixedSchedule() | StepSchedule() | ExponentialSchedule() | CosineSchedule():
            num_steps = _num_steps(epochs or config.epochs, steps_per_epoch)
            plain = Schedule(num_steps, _spaced_ends(num_steps, config.snapshots), _annealed_once(config, num_steps))
            return _with_warmup(plain, config.warmup_steps)
        case _:
            assert_never(config)


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


def cosine_rate(max_lr: float, min_lr: float, phase: int, length: int) -> float:
    """Cosine annealing at ``phase`` of a cycle of ``length`` steps: exactly max_lr at 0, towards min_lr at ``length``.

    1704.00109, equation 2, with ``1 + cos x`` written as ``2 sin²``, which does not cancel near the minimum: relative error
    1.5e-16 there, against 5.7e-6 for the cosine at a million steps.
    """
    return min_lr + (max_lr - min_lr) * math.sin(math.pi * (length - phase) / (2 * length)) ** 2


def _num_steps(epochs: float, steps_per_epoch: int) -> int:
    """T for a run of ``epochs``, which may be a fraction; exact."""
    num_steps = math.floor(as_fraction(epochs) * steps_per_epoch)
    if not 1 <= num_steps <= MAX_STEPS:
        raise ScheduleError(
            f"a run must have between 1 and {MAX_STEPS} optimizer steps, got {num_steps} "
            f"({epochs:g} epochs of {steps_per_epoch} steps): change epochs or batch_size"
        )
    return num_steps


def _cycled_steps(
    config: WarmRestartsSchedule | TriangularSchedule | ExpRangeSchedule, steps_per_epoch: int, epochs: float | None
) -> Fraction:
    """T for a document that fixes its length by the length of its first cycle, or by ``epochs``; not yet rounded down."""
    mult = as_fraction(config.cycle_mult) if isinstance(config, WarmRestartsSchedule) else Fraction(1)
    length = epochs or (config.epochs if isinstance(config, WarmRestartsSchedule) else None)
    if length is not None:
        return Fraction(_num_steps(length, steps_per_epoch))
    assert config.epochs_per_cycle is not None, "the document's validator fills one of the two lengths"
    num_steps = as_fraction(config.epochs_per_cycle) * sum(mult**j for j in range(config.cycles)) * steps_per_epoch
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


def _annealed_once(config: FixedSchedule | StepSchedule | ExponentialSchedule | CosineSchedule, num_steps: int) -> Callable[[int], float]:
    max_lr = config.max_lr
    match config:
        case FixedSchedule():
            return lambda _: max_lr
        case StepSchedule(gamma=gamma):
            milestones = [math.floor(as_fraction(share) * num_steps) for share in config.milestones]
            return lambda step: max_lr * gamma ** bisect_right(milestones, step)
        case ExponentialSchedule(gamma=None):
            return lambda step: max_lr * 0.01 ** (step / max(1, num_steps - 1))
        case ExponentialSchedule(gamma=float(gamma)):
            return lambda step: max_lr * gamma**step
        case CosineSchedule(min_lr=min_lr):
            return lambda step: cosine_rate(max_lr, min_lr, step, num_steps)
    raise AssertionError(config)


def _one_cycle(config: OneCycleSchedule, num_steps: int) -> Callable[[int], float]:
    """1708.07120 as torch writes it: the rise ends at step ``pct T - 1``, the fall at step ``T - 1``."""
    top = float(as_fraction(config.rise_fraction) * num_steps - 1)
    last = num_steps - 1
    if not 0 < top < last:
        raise ScheduleError(
            f"rise_fraction must leave at least one step to the rise and to the fall, got {config.rise_fraction:g} of {num_steps} steps: "
            "train longer, or move rise_fraction towards one half"
        )
    start = config.max_lr / config.start_divisor
    end = start / config.end_divisor

    def rate(step: int) -> float:
        if step <= top:
            return start + (config.max_lr - start) * math.sin(math.pi * step / (2 * top)) ** 2
        return end + (config.max_lr - end) * math.sin(math.pi * (last - step) / (2 * (last - top))) ** 2

    return rate


def _triangular(config: TriangularSchedule | ExpRangeSchedule, num_steps: Fraction) -> Schedule:
    """1506.01186, section 3.1; the height is scaled per cycle (triangular2) or per step from the start (exp_range)."""
    height = config.max_lr - config.min_lr

    def rate(cycle: int, phase: int, length: int, step: int) -> float:
        match config:
            case ExpRangeSchedule(gamma=gamma):
                scale = gamma**step
            case TriangularSchedule(type="triangular2"):
                scale = math.ldexp(1.0, -cycle)  # 2.0 ** cycle would overflow at cycle 1024
            case _:
                scale = 1.0
        return config.min_lr + height * (1 - abs(2 * phase / length - 1)) * scale

    return _cycled(balanced_ends(num_steps, config.cycles), config.min_lr, config.cycle_limit, rate)


def _warm_restarts(config: WarmRestartsSchedule, num_steps: Fraction) -> Schedule:
    peaks = [config.max_lr * config.restart_decay**j for j in range(config.cycles)]
    if config.boundaries == "paper":
        ends = paper_ends(math.floor(num_steps), config.cycles)
        whole = -(-math.floor(num_steps) // config.cycles)  # a cut last cycle anneals as if it were whole
    else:
        ends = balanced_ends(num_steps, config.cycles, as_fraction(config.cycle_mult))
        whole = 0

    def rate(cycle: int, phase: int, length: int, _step: int) -> float:
        return cosine_rate(peaks[cycle], config.min_lr, phase, whole or length)

    return _cycled(ends, config.min_lr, config.cycle_limit, rate)


def _cycled(
    ends: tuple[int, ...],
    min_lr: float,
    cycle_limit: int | None,
    rate_in_cycle: Callable[[int, int, int, int], float],
) -> Schedule:
    """A schedule given by ``rate_in_cycle(cycle, phase, length, step)``; after ``cycle_limit`` cycles one plateau at ``min_lr``."""
    starts = (0, *ends)
    limit = len(ends) if cycle_limit is None else cycle_limit

    def rate(step: int) -> float:
        cycle = bisect_right(ends, step)
        if cycle >= limit:
            return min_lr
        return rate_in_cycle(cycle, step - starts[cycle], ends[cycle] - starts[cycle], step)

    return Schedule(ends[-1], ends if limit >= len(ends) else (*ends[:limit], ends[-1]), rate)


def _with_warmup(schedule: Schedule, warmup_steps: int) -> Schedule:
    """Scales the first ``warmup_steps`` rates by ``(k + 1) / warmup_steps``; no boundary moves."""
    if warmup_steps == 0:
        return schedule
    if warmup_steps >= schedule.cycle_ends[0]:
        raise ScheduleError(
            f"warmup_steps must be shorter than the first cycle ({schedule.cycle_ends[0]} steps), got {warmup_steps}: "
            "lower warmup_steps or lengthen the cycle"
        )

    def rate(step: int) -> float:
        plain = schedule.rate(step)
        return plain * (step + 1) / warmup_steps if step < warmup_steps else plain

    return Schedule(schedule.num_steps, schedule.cycle_ends, rate)
