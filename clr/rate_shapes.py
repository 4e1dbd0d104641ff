"""The formulas of the learning rates: how high the rate is, given how much of its arc is left. This module doesn't import torch.

An *arc* is what anneals once: a cycle, or the whole run of a schedule without cycles. ``clr.schedules`` says which step lies where.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from clr.config import (
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
from clr.errors import ScheduleError
from clr.schedule_config import peak_rate

Shape = Callable[[int, float, float, int], float]
"""The rate of ``(cycle, left, length, step)``: ``left`` of the arc's ``length`` steps are still to be taken, counting this one.

Both are integers, and the rate exact, unless the arc's end was moved on the way; a schedule without cycles is one arc, its cycle 0.
"""


def cosine_rate(max_lr: float, min_lr: float, phase: int, length: int) -> float:
    """Cosine annealing at ``phase`` of a cycle of ``length`` steps: exactly max_lr at 0, towards min_lr at ``length``."""
    return _annealed(max_lr, min_lr, length - phase, length)


def _annealed(max_lr: float, min_lr: float, left: float, length: float) -> float:
    """1704.00109, equation 2, with ``1 + cos x`` written as ``2 sin²``, which does not cancel near the minimum.

    Relative error 1.5e-16 there, against 5.7e-6 for the cosine at a million steps.
    """
    return min_lr + (max_lr - min_lr) * math.sin(math.pi * left / (2 * length)) ** 2


def rate_shape(config: ScheduleConfig, num_steps: int, peaks: Sequence[float] | None = None) -> Shape:
    """The formula of a document.

    Args:
        config: Any schedule; a ``max_lr`` that is still to be measured counts as 1.
        num_steps: T, which schedules without cycles refer to.
        peaks: The share of max_lr at which each cycle of warm restarts starts; None: as the document says.

    Raises:
        ScheduleError: The run is too short for the rise and fall of ``one_cycle``, or for the warm-up.
    """
    max_lr = peak_rate(config)
    match config:
        case FixedSchedule():
            return _warmed(lambda _cycle, _left, _length, _step: max_lr, config.warmup_steps)
        case StepSchedule(gamma=gamma):
            milestones = [math.floor(as_fraction(share) * num_steps) for share in config.milestones]
            return _warmed(
                lambda _cycle, left, length, _step: max_lr * gamma ** bisect_right(milestones, length - left), config.warmup_steps
            )
        case ExponentialSchedule(gamma=None):
            return _warmed(lambda _cycle, left, length, _step: max_lr * 0.01 ** ((length - left) / max(1, length - 1)), config.warmup_steps)
        case ExponentialSchedule(gamma=float(gamma)):
            return _warmed(lambda _cycle, _left, _length, step: max_lr * gamma**step, config.warmup_steps)
        case CosineSchedule(min_lr=min_lr):
            return _warmed(lambda _cycle, left, length, _step: _annealed(max_lr, min_lr, left, length), config.warmup_steps)
        case OneCycleSchedule():
            return _one_cycle(config, num_steps)
        case TriangularSchedule() | ExpRangeSchedule():
            return _limited(_triangular(config), config.cycle_limit, config.min_lr)
        case WarmRestartsSchedule():
            return _warmed(_limited(_warm_restarts(config, peaks), config.cycle_limit, config.min_lr), config.warmup_steps)
    raise AssertionError(config)


def _warm_restarts(config: WarmRestartsSchedule, peaks: Sequence[float] | None) -> Shape:
    if peaks is None:
        peaks = [config.restart_decay**j for j in range(1 if config.cycles == "auto" else config.cycles)]
    rates, min_lr = [peak_rate(config) * peak for peak in peaks], config.min_lr
    return lambda cycle, left, length, _step: _annealed(rates[cycle], min_lr, left, length)


def _triangular(config: TriangularSchedule | ExpRangeSchedule) -> Shape:
    """1506.01186, section 3.1; the height is scaled per cycle (triangular2) or per step from the start (exp_range)."""
    height = peak_rate(config) - config.min_lr

    def rate(cycle: int, left: float, length: float, step: int) -> float:
        match config:
            case ExpRangeSchedule(gamma=gamma):
                scale = gamma**step
            case TriangularSchedule(type="triangular2"):
                scale = math.ldexp(1.0, -cycle)  # 2.0 ** cycle would overflow at cycle 1024
            case _:
                scale = 1.0
        return config.min_lr + height * (1 - abs(2 * (length - left) / length - 1)) * scale

    return rate


def _one_cycle(config: OneCycleSchedule, num_steps: int) -> Shape:
    """1708.07120 as torch writes it: the rise ends at step ``pct T - 1``, the fall at step ``T - 1``."""
    top = float(as_fraction(config.rise_fraction) * num_steps - 1)
    last = num_steps - 1
    if not 0 < top < last:
        raise ScheduleError(
            f"rise_fraction must leave at least one step to the rise and to the fall, got {config.rise_fraction:g} of {num_steps} steps: "
            "train longer, or move rise_fraction towards one half"
        )
    max_lr = peak_rate(config)
    start = max_lr / config.start_divisor
    end = start / config.end_divisor

    def rate(_cycle: int, left: float, length: float, _step: int) -> float:
        phase = length - left
        if phase <= top:
            return start + (max_lr - start) * math.sin(math.pi * phase / (2 * top)) ** 2
        return end + (max_lr - end) * math.sin(math.pi * max(0.0, last - phase) / (2 * (last - top))) ** 2

    return rate


def _limited(shape: Shape, cycle_limit: int | None, min_lr: float) -> Shape:
    """After ``cycle_limit`` cycles the rate stays at ``min_lr``."""
    if cycle_limit is None:
        return shape
    return lambda cycle, left, length, step: shape(cycle, left, length, step) if cycle < cycle_limit else min_lr


def _warmed(shape: Shape, warmup_steps: int) -> Shape:
    """Scales the first ``warmup_steps`` rates by ``(k + 1) / warmup_steps``; no boundary moves."""
    if warmup_steps == 0:
        return shape

    def rate(cycle: int, left: float, length: float, step: int) -> float:
        plain = shape(cycle, left, length, step)
        return plain * (step + 1) / warmup_steps if step < warmup_steps else plain

    return rate
