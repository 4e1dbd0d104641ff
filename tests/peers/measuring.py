"""Our side of the comparison, and how gaps are told."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch.optim.lr_scheduler import LRScheduler

from clr.config import ScheduleConfig, WarmRestartsSchedule
from clr.schedules import Schedule, build_schedule


def over(config: ScheduleConfig, num_steps: int) -> Schedule:
    """The schedule over exactly ``num_steps`` steps."""
    return build_schedule(config, steps_per_epoch=num_steps, epochs=1)


def rates(schedule: Schedule) -> list[float]:
    """The rate of every step."""
    return [schedule(step) for step in range(schedule.num_steps)]


def grown(first: int, mult: int, cycles: int) -> Schedule:
    """Warm restarts from 0.1 whose first cycle has ``first`` steps and each further one ``mult`` times as many."""
    return build_schedule(WarmRestartsSchedule(max_lr=0.1, cycles=cycles, epochs_per_cycle=1, cycle_mult=mult), steps_per_epoch=first)


def sgd(learning_rate: float = 0.1) -> torch.optim.SGD:
    """An optimizer for a scheduler to act on."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=learning_rate)


def torch_rates(build: Callable[[torch.optim.Optimizer], LRScheduler], num_steps: int) -> Iterator[float]:
    """The rates that a torch scheduler sets, one per optimizer step, from 0.1."""
    optimizer = sgd()
    scheduler = build(optimizer)
    for _ in range(num_steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        if scheduler.last_epoch < num_steps - 1:
            scheduler.step()


def widest_gap(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """The largest absolute difference of two sequences of one length."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def power(gap: float) -> str:
    """The smallest power of ten that a gap does not exceed: stable from machine to machine."""
    return "the last bit" if gap == 0 else f"1e{math.ceil(math.log10(gap))}"


def listed(values: Sequence[float], digits: int = 3) -> str:
    """A few numbers in a row."""
    return ", ".join(f"{value:.{digits}g}" for value in values)
