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
            cycle = schedule.cycle_of(last)
            is_plateau = config.cycle_limit is not None and cycle >= config.cycle_limit
            return not is_plateau and schedule.arcs[cycle].left(last + 1) == 0
        case CosineSchedule() | OneCycleSchedule():
            return last + 1 == schedule.num_steps
        case FixedSchedule() | StepSchedule() | ExponentialSchedule():
            return False
    assert_never(config)
