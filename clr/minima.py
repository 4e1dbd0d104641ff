"""Which steps end at a minimum of the learning rate: what a snapshot may claim. This module doesn't import torch."""

from typing import assert_never

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
)
from clr.schedules import Schedule


def is_minimum(config: ScheduleConfig, schedule: Schedule, last: int) -> bool:
    """Whether step ``last`` is the last one of an annealing that ran its full length."""
    if not schedule.is_cycle_end(last):
        return False
    match config:
        case WarmRestartsSchedule() | TriangularSchedule() | ExpRangeSchedule():
            limit = config.cycle_limit or config.cycles
            return schedule.cycle_of(last) < limit and not _is_cut(config, schedule, last)
        case CosineSchedule() | OneCycleSchedule():
            return last + 1 == schedule.num_steps
        case FixedSchedule() | StepSchedule() | ExponentialSchedule():
            return False
    assert_never(config)


def _is_cut(config: ScheduleConfig, schedule: Schedule, last: int) -> bool:
    """Whether the cycle that ends with step ``last`` is shorter than the paper's cycles."""
    if not isinstance(config, WarmRestartsSchedule) or config.boundaries == "balanced":
        return False
    return (last + 1) % -(-schedule.num_steps // config.cycles) != 0
