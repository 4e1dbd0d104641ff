"""More cycles for a run: the schedule goes on where it ended, and no rate before that changes. This module doesn't import torch."""

from itertools import pairwise

from pydantic import ValidationError

from clr.config import TrainingConfig
from clr.schedule_config import WarmRestartsSchedule, as_fraction
from clr.schedules import Schedule, ScheduleError, build_schedule

COMPARED_STEPS = 1000
"""Steps from the start whose rates are compared, as a warm-up changes them; later ones follow from where their cycles lie."""


class ExtensionError(ValueError):
    """The run cannot get more cycles."""


def extended(config: TrainingConfig, cycles: int, *, steps_per_epoch: int) -> TrainingConfig:
    """The config of the same run with ``cycles`` more cycles.

    A run whose whole length was given gets the length of its cycles in place of it.

    Raises:
        ExtensionError: The number of cycles is not fixed, or the cycles that there are would change.
    """
    schedule = config.schedule
    if not isinstance(schedule, WarmRestartsSchedule):
        raise ExtensionError(f"the schedule must be warm_restarts, got {schedule.type}: submit a new job that is longer")
    if schedule.cycles == "auto" or config.budget is not None:
        found = "auto" if schedule.cycles == "auto" else f"{schedule.cycles} within a budget"
        raise ExtensionError(f"the number of cycles must be given, got {found}: submit a new job with cycles and epochs_per_cycle")
    document = config.model_dump()
    document["schedule"]["cycles"] = schedule.cycles + cycles
    if schedule.epochs is not None:
        document["schedule"] |= {"epochs": None, "epochs_per_cycle": _epochs_of_first_cycle(schedule, schedule.epochs)}
    try:
        longer = TrainingConfig.model_validate(document)
        before, after = (build_schedule(each.schedule, steps_per_epoch=steps_per_epoch) for each in (config, longer))
    except (ValidationError, ScheduleError) as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(error, ValidationError) else str(error)
        raise ExtensionError(f"{schedule.cycles + cycles} cycles are not possible: {reason}") from error
    if not _goes_on(before, after):
        raise ExtensionError(
            f"{cycles} more cycles would change the {schedule.cycles} that there are, which are not all as long as epochs_per_cycle says: "
            "submit a new job with epochs_per_cycle"
        )
    return longer


def _epochs_of_first_cycle(schedule: WarmRestartsSchedule, epochs: float) -> float:
    assert schedule.cycles != "auto", "the number of cycles is given"
    mult = as_fraction(schedule.cycle_mult)
    return float(as_fraction(epochs) / sum(mult**cycle for cycle in range(schedule.cycles)))


def _goes_on(before: Schedule, after: Schedule) -> bool:
    """Whether a schedule begins with another one, step by step."""
    if after.arcs[: len(before.arcs)] != before.arcs or after.cycle_ends[: before.num_cycles] != before.cycle_ends:
        return False
    steps = {step for start, end in pairwise((0, *before.cycle_ends)) for step in (start, (start + end) // 2, end - 1)}
    steps |= set(range(min(COMPARED_STEPS, before.num_steps)))
    return all(before(step) == after(step) for step in steps)
