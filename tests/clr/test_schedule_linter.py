"""Each warning appears for the schedule that earns it, and a sound schedule earns none."""

import pytest

from clr.config import CosineSchedule, FixedSchedule, ScheduleConfig, TriangularSchedule, WarmRestartsSchedule
from clr.schedule_linter import lint_schedule
from clr.schedules import build_schedule


def lint(config: ScheduleConfig, steps_per_epoch: int = 100, epochs: float | None = None) -> list[str]:
    schedule = build_schedule(config, steps_per_epoch=steps_per_epoch, epochs=epochs)
    return lint_schedule(config, schedule, steps_per_epoch=steps_per_epoch)


@pytest.mark.parametrize(
    "config",
    [
        WarmRestartsSchedule(),
        WarmRestartsSchedule(cycles=5),
        TriangularSchedule(),
        CosineSchedule(),
        WarmRestartsSchedule(cycles=4, boundaries="paper"),
    ],
)
def test_sound_schedules_earn_no_warning(config: ScheduleConfig) -> None:
    assert lint(config) == []


@pytest.mark.parametrize(
    ("config", "epochs", "warning"),
    [
        (WarmRestartsSchedule(cycles=5), 0.4, "the shortest cycle has 8 steps"),
        (WarmRestartsSchedule(cycles=5), 2, "the first cycle has 40 steps, an epoch has 100"),
        (WarmRestartsSchedule(cycles=12), None, "12 snapshots are many"),
        (WarmRestartsSchedule(cycles=1), None, "one cycle never restarts"),
        (WarmRestartsSchedule(cycles=7, boundaries="paper"), 1, "cut 5 steps short, at a learning rate of 0.0345"),
        (WarmRestartsSchedule(cycles=7, boundaries="paper"), 0.17, "7 cycles were asked for, but ceil(17/7) steps each leave room for 6"),
        (WarmRestartsSchedule(cycles=5, restart_decay=0.1), None, "leaves the last restart 0.0% of max_lr"),
        (WarmRestartsSchedule(cycles=5, warmup_steps=250), None, "warmup_steps 250 takes more than half of the first cycle (400 steps)"),
        (WarmRestartsSchedule(cycles=5, cycle_limit=5), None, "cycle_limit 5 has no effect"),
        (WarmRestartsSchedule(cycles=5, cycle_limit=2), None, "the rest of the run learns nothing"),
        (WarmRestartsSchedule(cycles=5, cycle_limit=1, min_lr=0.01), None, "restarts never happen"),
        (TriangularSchedule(cycles=2), None, "2 cycles are few"),
        (TriangularSchedule(cycles=1), None, "1 cycle is few"),
        (TriangularSchedule(epochs_per_cycle=2), None, "a step size of 1 epochs is short"),
        (FixedSchedule(snapshots=2, max_lr="auto"), None, "its 2 snapshots are taken at rates 1 max_lr, 1 max_lr"),
        (FixedSchedule(snapshots=2), None, "fixed has no restarts: its 2 snapshots are taken at rates 0.1, 0.1"),
    ],
)
def test_doubtful_schedules_are_warned_about_in_words(config: ScheduleConfig, epochs: float | None, warning: str) -> None:
    assert any(warning in line for line in lint(config, epochs=epochs)), lint(config, epochs=epochs)
