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
    FixedSchedule,
    ScheduleConfig,
    StepSchedule,
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
        case FixedSchedule():
            schedule = _without_cycles(config, _num_steps(epochs or config.epochs, steps_per_epoch), lambda _: _fixed(config))
        case StepSchedule():
            schedule = _without_cycles(config, _num_steps(epochs or config.epochs, steps_per_epoch), lambda n: _step(config, n))
        case ExponentialSchedule():
            schedule = _without_cycles(config, _num_steps(epochs or config.epochs, steps_per_epoch), lambda n: _exponential(config, n))
        case CosineSchedule():
            schedule = _without_cycles(config, _num_steps(epochs or config.epochs, steps_per_epoch), lambda n: _cosine(config, n))
        case WarmRestartsSchedule():
            schedule = _warm_restarts(config, steps_per_epoch, epochs)
        case _:
            assert_never(config)
    return _with_warmup(schedule, config.warmup_steps)


def balanced_ends(num_steps: int, cycles: int, cycle_mult: Fraction = Fraction(1)) -> tuple[int, ...]:
    """Exactly ``cycles`` exclusive ends that share ``num_steps`` in the ratio 1 : m : m² …; the last end is ``num_steps``.

    For m = 1 this is ``floor(j T / M)``. Exact rationals: ``int(log(…))`` is wrong for m = 3 at the 5th restart.

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
                f"cycles must be between 1 and {limit} for {num_steps} steps (two steps each at least), got {cycles}: "
                "lower cycles, train for more epochs, or lower batch_size"
            )
        raise ScheduleError(
            f"each cycle must have at least {MIN_CYCLE_STEPS} steps, got one of {shortest} in {cycles} cycles over {num_steps} steps "
            f"with cycle_mult {float(cycle_mult):g}: lower cycles, take cycle_mult nearer to 1, or train longer"
        )
    return ends


def paper_ends(num_steps: int, cycles: int) -> tuple[int, ...]:
    """Exclusive ends at multiples of ``ceil(T / M)``, the last one at T (1704.00109, equation 2): its cycle may be cut short.

    There may be fewer ends than ``cycles``: T = 10 and M = 6 give five.

    Raises:
        ScheduleError: A full cycle would be shorter than two steps.
    """
    length = -(-num_steps // cycles)
    if num_steps // cycles < MIN_CYCLE_STEPS:
        raise ScheduleError(
            f"cycles must be between 1 and {num_steps // MIN_CYCLE_STEPS} for {num_steps} steps (two steps each at least), "
            f"got {cycles}: lower cycles, train for more epochs, or lower batch_size"
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


def _without_cycles(
    config: FixedSchedule | StepSchedule | ExponentialSchedule | CosineSchedule,
    num_steps: int,
    rate_over: Callable[[int], Callable[[int], float]],
) -> Schedule:
    """A schedule whose snapshots are equally spaced: the NoCycle control of 1704.00109, section 4."""
    if config.snapshots > num_steps:
        raise ScheduleError(
            f"snapshots must be between 1 and num_steps ({num_steps}), got {config.snapshots}: lower snapshots or train longer"
        )
    ends = tuple((j + 1) * num_steps // config.snapshots for j in range(config.snapshots))
    return Schedule(num_steps, ends, rate_over(num_steps))


def _fixed(config: FixedSchedule) -> Callable[[int], float]:
    return lambda _: config.max_lr


def _step(config: StepSchedule, num_steps: int) -> Callable[[int], float]:
    milestones = [math.floor(as_fraction(share) * num_steps) for share in config.milestones]
    return lambda step: config.max_lr * config.gamma ** bisect_right(milestones, step)


def _exponential(config: ExponentialSchedule, num_steps: int) -> Callable[[int], float]:
    if config.gamma is not None:
        gamma = config.gamma
        return lambda step: config.max_lr * gamma**step
    return lambda step: config.max_lr * 0.01 ** (step / max(1, num_steps - 1))


def _cosine(config: CosineSchedule, num_steps: int) -> Callable[[int], float]:
    return lambda step: cosine_rate(config.max_lr, config.min_lr, step, num_steps)


def _warm_restarts(config: WarmRestartsSchedule, steps_per_epoch: int, epochs: float | None) -> Schedule:
    mult = as_fraction(config.cycle_mult)
    length = epochs if epochs is not None else config.epochs
    if length is not None:
        num_steps = _num_steps(length, steps_per_epoch)
    else:
        assert config.epochs_per_cycle is not None, "the document's validator fills one of the two lengths"
        num_steps = math.floor(as_fraction(config.epochs_per_cycle) * sum(mult**j for j in range(config.cycles)) * steps_per_epoch)
        if num_steps > MAX_STEPS:
            raise ScheduleError(
                f"a run must have at most {MAX_STEPS} optimizer steps, got more in {config.cycles} cycles with "
                f"cycle_mult {config.cycle_mult}: lower cycles, cycle_mult or epochs_per_cycle"
            )
    if config.boundaries == "paper":
        ends = paper_ends(num_steps, config.cycles)
        cycle_length = -(-num_steps // config.cycles)
        lengths = [cycle_length] * len(ends)  # a cut last cycle anneals as if it were whole
    else:
        ends = balanced_ends(num_steps, config.cycles, mult)
        lengths = [end - start for start, end in pairwise((0, *ends))]
    starts = (0, *ends)
    peaks = [config.max_lr * config.restart_decay**j for j in range(len(ends))]

    def rate(step: int) -> float:
        cycle = bisect_right(ends, step)
        return cosine_rate(peaks[cycle], config.min_lr, step - starts[cycle], lengths[cycle])

    return Schedule(num_steps, ends, rate)


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
