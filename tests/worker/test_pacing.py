"""How many steps fit into a budget of minutes, by a clock that is made up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.config import ScheduleConfig, TrainingConfig
from clr.minima import is_minimum
from clr.planning import RunPlan
from clr.schedule_config import MAX_STEPS
from clr.schedules import Schedule, build_schedule
from worker.pacing import BudgetError, Pacing

SNAPSHOT_STEPS = 4.0


@dataclass
class Paced:
    """A run by a clock of its own, without any training."""

    seconds_per_step: Callable[[int, float], float]
    budget_seconds: float = 20.0
    snapshot_seconds: float = 0.1
    start_seconds: float = 0.3
    used_before: float = 0.0
    document: dict[str, Any] = field(default_factory=lambda: {"type": "warm_restarts", "cycles": 3})
    now: float = 1000.0
    lengths: list[int] = field(default_factory=list)

    def to_end(self) -> tuple[float, ScheduleConfig, Schedule]:
        """Seconds used in the end, and the plan as it was in the end."""
        config = TrainingConfig.model_validate({"schedule": self.document, "budget": {"minutes": self.budget_seconds / 60}}).schedule
        first = build_schedule(config, steps_per_epoch=10, epochs=MAX_STEPS // 10)
        plan = RunPlan(config, first, steps_per_epoch=10, num_train_rows=100, num_validation=20)
        began_at = self.now
        pacing = Pacing(self.budget_seconds, used_before=self.used_before, began_at=began_at, snapshot_steps=SNAPSHOT_STEPS)
        self.now += self.start_seconds
        step = 0
        while step < plan.schedule.num_steps:
            self.now += self.seconds_per_step(step, self.now - began_at)
            step += 1
            if plan.schedule.is_cycle_end(step - 1):
                pacing.begin_snapshot(self.now)
                self.now += self.snapshot_seconds
                pacing.end_snapshot(self.now)
            elif pacing.is_due(self.now):
                pacing.observe(step, self.now)
                if (length := pacing.length(plan.schedule, step, self.now)) is not None:
                    plan.replan(step, length.num_steps, length.reason, length.evidence)
                    self.lengths.append(plan.schedule.num_steps)
        return pacing.seconds_used(self.now), config, plan.schedule


def check_whole(config: ScheduleConfig, schedule: Schedule, *, cycles: int) -> None:
    """All cycles are there, and each one ends at a minimum."""
    assert schedule.num_cycles == cycles
    assert all(is_minimum(config, schedule, end - 1) for end in schedule.cycle_ends)


def test_a_steady_run_is_planned_once_and_uses_its_budget() -> None:
    run = Paced(lambda _step, _now: 0.01)
    used, config, schedule = run.to_end()
    check_whole(config, schedule, cycles=3)
    assert 19 < used <= 20
    assert len(run.lengths) <= 2  # the second one when the first snapshot has shown what snapshots cost
    lengths = [end - start for start, end in pairwise((0, *schedule.cycle_ends))]
    assert max(lengths) < 1.1 * min(lengths)


@given(
    st.floats(0.002, 0.05),
    st.floats(0.3, 3),
    st.floats(0.1, 0.9),
    st.floats(0, 0.3),
    st.sampled_from(({"type": "warm_restarts", "cycles": 3}, {"type": "cosine"}, {"type": "warm_restarts", "cycles": "auto"})),
)
def test_a_speed_that_changes_ends_whole_and_in_time(
    seconds: float, factor: float, change_at: float, snapshot_seconds: float, document: dict[str, Any]
) -> None:
    run = Paced(lambda _step, now: seconds * (factor if now > 20 * change_at else 1), snapshot_seconds=snapshot_seconds, document=document)
    used, config, schedule = run.to_end()
    check_whole(config, schedule, cycles=document.get("cycles", 1) if document.get("cycles") != "auto" else 1)
    assert 15 < used <= 20.5


def test_a_stall_costs_its_time_and_nothing_more() -> None:
    """Three seconds without a step, once: the speed is what it was, only the time is gone."""
    run = Paced(lambda step, _now: 3.0 if step == 400 else 0.01)
    used, config, schedule = run.to_end()
    check_whole(config, schedule, cycles=3)
    assert 19 < used <= 20
    assert schedule.num_steps == pytest.approx(1630, abs=60)
    assert min(run.lengths) > 1500


def test_a_stall_near_the_end_still_completes_the_cycle() -> None:
    run = Paced(lambda step, _now: 5.0 if step == 1800 else 0.01)
    used, config, schedule = run.to_end()
    check_whole(config, schedule, cycles=3)
    assert used == pytest.approx(0.3 + 18 + 5 + 0.3, abs=0.4)  # no time is left: ten steps at most anneal to the end


def test_a_much_slower_speed_drops_cycles_rather_than_cutting_them() -> None:
    run = Paced(lambda step, _now: 0.01 if step < 150 else 1.0)
    used, config, schedule = run.to_end()
    assert schedule.num_cycles == 1
    assert is_minimum(config, schedule, schedule.num_steps - 1)
    assert used < 21


def test_time_that_earlier_attempts_used_counts() -> None:
    used, config, schedule = Paced(lambda _step, _now: 0.01, used_before=12.0).to_end()
    check_whole(config, schedule, cycles=3)
    assert 19 < used <= 20
    assert schedule.num_steps == pytest.approx(750, abs=60)


def test_a_budget_without_room_for_one_cycle_says_what_would_do() -> None:
    run = Paced(lambda _step, _now: 1.0, budget_seconds=9.0, document={"type": "cosine"})
    with pytest.raises(BudgetError, match=r"the budget of 0.15 minutes is too small for one cycle: .* a step takes 1 s"):
        run.to_end()
    message = ""
    try:
        run.to_end()
    except BudgetError as error:
        message = str(error)
    minutes = float(message.partition("raise budget.minutes to ")[2].partition(" ")[0])
    used, config, schedule = Paced(lambda _step, _now: 1.0, budget_seconds=60 * minutes, document={"type": "cosine"}).to_end()
    check_whole(config, schedule, cycles=1)
    assert used <= 60 * minutes


def test_a_search_that_uses_the_budget_up_is_told() -> None:
    pacing = Pacing(6.0, used_before=1.0, began_at=100.0, snapshot_steps=SNAPSHOT_STEPS)
    pacing.check_search(104.9)
    with pytest.raises(BudgetError, match=r"the range test for max_lr alone needs more than the budget of 0.1 minutes"):
        pacing.check_search(105.0)


def test_an_attempt_that_takes_over_ends_whole_even_without_time() -> None:
    config = TrainingConfig.model_validate({"schedule": {"type": "cosine"}, "budget": {"minutes": 0.1}}).schedule
    plan = RunPlan(config, build_schedule(config, steps_per_epoch=10, epochs=100), steps_per_epoch=10, num_train_rows=9, num_validation=2)
    pacing = Pacing(6.0, used_before=7.0, began_at=0.0, snapshot_steps=SNAPSHOT_STEPS, is_planned=True)
    for step in range(500, 505):
        pacing.observe(step, step - 500.0)
    length = pacing.length(plan.schedule, 504, 4.0)
    assert length is not None
    assert length.num_steps == 504 + 5  # half of the annealing is left
