"""Advice about a schedule that is valid but probably not what was meant, in words.

Refusals are the schedule's own business (``clr.schedules``); what stands here never stops a run. This module doesn't import torch.
"""

from collections.abc import Iterator
from itertools import pairwise

from clr.config import ExpRangeSchedule, ScheduleConfig, TriangularSchedule, WarmRestartsSchedule
from clr.schedule_config import is_rate_known
from clr.schedules import Schedule

SHORT_CYCLE_STEPS = 10
"""In a cycle of ten steps the last rate is still 2.4 % of the range above the minimum: sin²(π/20)."""

LOW_PEAK = 0.05
"""A restart to less than this share of the first peak hardly leaves the minimum it starts from."""

SHORT_TRIANGLE_EPOCHS = 4
"""A triangle of two step sizes of two epochs; 1506.01186, section 3.2, finds 2 to 10 good."""

USUAL_CYCLES = 8
"""1704.00109, section 4, uses 4 to 8 cycles; its table of M shows no gain beyond."""


def lint_schedule(config: ScheduleConfig, schedule: Schedule, *, steps_per_epoch: int) -> list[str]:
    """Warnings about ``schedule``, which ``config`` gave for ``steps_per_epoch``; empty where there is nothing to say."""
    warnings = [*_about_lengths(schedule, steps_per_epoch)]
    match config:
        case WarmRestartsSchedule(cycles="auto"):
            pass  # what it chooses is measured, not meant
        case WarmRestartsSchedule():
            warnings += [*_about_restarts(config, schedule), *_about_limit(config)]
        case TriangularSchedule() | ExpRangeSchedule():
            warnings += [*_about_triangles(config, schedule.cycle_ends[0] / steps_per_epoch), *_about_limit(config)]
        case _ if config.snapshots > 1:
            warnings.append(_about_plain_snapshots(config, schedule))
    return warnings


def _about_lengths(schedule: Schedule, steps_per_epoch: int) -> Iterator[str]:
    lengths = [end - start for start, end in pairwise((0, *schedule.cycle_ends))]
    shortest = min(lengths)
    if shortest < SHORT_CYCLE_STEPS:
        yield (
            f"the shortest cycle has {shortest} steps: its last learning rate is still well above the minimum; "
            f"{SHORT_CYCLE_STEPS} steps or more come closer"
        )
    if lengths[0] < steps_per_epoch:
        yield (
            f"the first cycle has {lengths[0]} steps, an epoch has {steps_per_epoch}: the first snapshot will not have seen every row; "
            "take fewer or longer cycles"
        )
    if schedule.num_cycles > USUAL_CYCLES:
        yield f"{schedule.num_cycles} snapshots are many: gains beyond {USUAL_CYCLES} have not been seen, short cycles make weak members"


def _about_restarts(config: WarmRestartsSchedule, schedule: Schedule) -> Iterator[str]:
    assert config.cycles != "auto", "automatic cycles are not linted"
    if config.cycles == 1:
        yield "one cycle never restarts: this is plain cosine annealing with one snapshot"
    if config.boundaries == "paper":
        if schedule.num_cycles < config.cycles:
            yield (
                f"{config.cycles} cycles were asked for, but ceil({schedule.num_steps}/{config.cycles}) steps each leave room for "
                f"{schedule.num_cycles}: boundaries 'balanced' gives {config.cycles}"
            )
        last_rate = schedule(schedule.num_steps - 1)
        cut = schedule.cycle_ends[0] - (schedule.num_steps - (0, *schedule.cycle_ends)[-2])
        if cut > 0:
            yield (
                f"the last cycle is cut {cut} steps short, at a learning rate of {_shown_rate(config, last_rate)}: "
                "its snapshot is no minimum; boundaries 'balanced' completes every cycle"
            )
    last_peak = config.restart_decay ** (schedule.num_cycles - 1)
    if last_peak < LOW_PEAK:
        yield (
            f"restart_decay {config.restart_decay:g} leaves the last restart {last_peak:.1%} of max_lr: it will hardly leave its minimum, "
            "so its snapshot adds little to the ensemble"
        )
    if config.warmup_steps * 2 > schedule.cycle_ends[0]:
        yield (
            f"warmup_steps {config.warmup_steps} takes more than half of the first cycle ({schedule.cycle_ends[0]} steps): "
            "the first cycle hardly trains at its full rate"
        )


def _about_limit(config: WarmRestartsSchedule | TriangularSchedule | ExpRangeSchedule) -> Iterator[str]:
    cycle_limit, cycles = config.cycle_limit, config.cycles
    if cycle_limit is None or cycles == "auto":
        return
    if cycle_limit >= cycles:
        yield f"cycle_limit {cycle_limit} has no effect: there are {cycles} cycles"
    elif config.min_lr == 0:
        yield f"after cycle_limit {cycle_limit} the rate stays at min_lr, which is 0: the rest of the run learns nothing"
    if cycle_limit == 1 < cycles:
        yield "cycle_limit 1 means that restarts never happen"


def _about_triangles(config: TriangularSchedule | ExpRangeSchedule, epochs_per_cycle: float) -> Iterator[str]:
    if config.cycles < 3:
        yield f"{config.cycles} {'cycle is' if config.cycles == 1 else 'cycles are'} few: 1506.01186 (section 3.2) finds at least 3 needed"
    if epochs_per_cycle < SHORT_TRIANGLE_EPOCHS:
        yield (
            f"a step size of {epochs_per_cycle / 2:g} epochs is short: 1506.01186 (section 3.2) finds 2 to 10 epochs good, "
            "so epochs_per_cycle of 4 to 20"
        )


def _about_plain_snapshots(config: ScheduleConfig, schedule: Schedule) -> str:
    rates = ", ".join(_shown_rate(config, schedule(end - 1)) for end in schedule.cycle_ends)
    return (
        f"{config.type} has no restarts: its {schedule.num_cycles} snapshots are taken at rates {rates}, "
        "not at minima of cycles (the NoCycle control of 1704.00109)"
    )


def _shown_rate(config: ScheduleConfig, rate: float) -> str:
    return f"{rate:.3g}" if is_rate_known(config) else f"{rate:.3g} max_lr"
