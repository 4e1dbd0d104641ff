"""Plans that change: the past never moves, the rate has no jumps, and every new minimum is one."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from clr.config import CosineSchedule, ScheduleConfig, WarmRestartsSchedule
from clr.errors import ScheduleError
from clr.minima import is_minimum
from clr.planning import LEAST_CYCLE_STEPS, Decision, RunPlan, changed, least_steps, stretched_ends
from clr.schedules import Schedule, build_schedule

_CONFIGS: TypeAdapter[ScheduleConfig] = TypeAdapter(ScheduleConfig)

DOCUMENTS: Sequence[dict[str, Any]] = (
    {"type": "warm_restarts", "cycles": 3},
    {"type": "warm_restarts", "cycles": 4, "cycle_mult": 2, "restart_decay": 0.5, "warmup_steps": 3},
    {"type": "warm_restarts", "cycles": "auto"},
    {"type": "triangular", "min_lr": 0.01},
    {"type": "exp_range", "min_lr": 0.01, "gamma": 0.99},
    {"type": "cosine", "snapshots": 2, "warmup_steps": 3},
    {"type": "one_cycle"},
    {"type": "step", "snapshots": 3},
    {"type": "exponential"},
    {"type": "exponential", "gamma": 0.99},
    {"type": "fixed", "snapshots": 3},
)


def laid_out(document: dict[str, Any], num_steps: int) -> tuple[ScheduleConfig, Schedule]:
    config = _CONFIGS.validate_python(document)
    return config, build_schedule(config, steps_per_epoch=1, epochs=num_steps)


def lengthened(config: ScheduleConfig, schedule: Schedule, step: int, num_steps: int) -> Schedule:
    decision = Decision(step, "length", stretched_ends(config, schedule, step, num_steps), None, "a test")
    return changed(config, schedule, decision)


def test_a_bent_cosine_goes_on_from_where_it_is() -> None:
    """After 5 of 10 steps half of the way is left; spread over 20 steps, each goes a quarter as far."""
    config, schedule = laid_out({"type": "cosine", "max_lr": 1.0}, 10)
    bent = lengthened(config, schedule, 5, 25)
    _, whole = laid_out({"type": "cosine", "max_lr": 1.0}, 40)
    assert bent.num_steps == 25
    assert [bent(step) for step in range(5)] == [schedule(step) for step in range(5)]
    assert [bent(step) for step in range(5, 25)] == pytest.approx([whole(step) for step in range(20, 40)], rel=1e-15)


def test_automatic_cycles_begin_as_the_single_cosine_bit_for_bit() -> None:
    _, cosine = laid_out({"type": "cosine", "min_lr": 0.003}, 97)
    _, auto = laid_out({"type": "warm_restarts", "cycles": "auto", "min_lr": 0.003}, 97)
    assert (auto.num_steps, auto.cycle_ends) == (97, (97,))
    assert [auto(step) for step in range(97)] == [cosine(step) for step in range(97)]


def test_one_cycle_decided_leaves_the_cosine_as_it_is() -> None:
    config, auto = laid_out({"type": "warm_restarts", "cycles": "auto"}, 97)
    decided = changed(config, auto, Decision(40, "cycles", (97,), (1.0,), "a test"))
    assert [decided(step) for step in range(97)] == [auto(step) for step in range(97)]


def test_cycles_decided_on_the_way_are_full_cosines_from_their_peaks() -> None:
    config, auto = laid_out({"type": "warm_restarts", "cycles": "auto", "max_lr": 0.2}, 100)
    decided = changed(config, auto, Decision(50, "cycles", (60, 80, 100), (1.0, 0.5, 0.25), "a test"))
    assert [decided(step) for step in range(51)] == pytest.approx([auto(step) for step in range(51)], rel=1e-15)
    for start, peak in ((60, 0.1), (80, 0.05)):
        _, cycle = laid_out({"type": "cosine", "max_lr": peak}, 20)
        assert [decided(step) for step in range(start, start + 20)] == pytest.approx([cycle(step) for step in range(20)], rel=1e-15)
    assert [step for step in range(100) if is_minimum(config, decided, step)] == [59, 79, 99]
    assert decided(59) == pytest.approx(0.2 * 0.006155829702431115, rel=1e-12)  # sin²(π/4 · 1/10): half was left over ten steps


@given(st.sampled_from(DOCUMENTS), st.integers(60, 400), st.integers(1, 800), st.integers(1, 800), st.data())
def test_a_new_length_keeps_the_past_and_has_no_jump(
    document: dict[str, Any], num_steps: int, second: int, third: int, data: st.DataObject
) -> None:
    config, schedule = laid_out(document, num_steps)
    for wish in (second, third):
        step = data.draw(st.integers(1, schedule.num_steps - 1))
        new = lengthened(config, schedule, step, wish)
        past = [end for end in schedule.cycle_ends if end <= step]
        assert new.num_steps == max(wish, least_steps(schedule, step))
        assert list(new.cycle_ends[: len(past)]) == past
        assert [new(k) for k in range(step)] == [schedule(k) for k in range(step)]
        assert new(step) == pytest.approx(schedule(step), rel=1e-12)
        assert all(start < end for start, end in pairwise((step, *new.cycle_ends[len(past) :])))
        schedule = new
        assume(schedule.num_steps > 1)


@given(st.sampled_from(DOCUMENTS[:5]), st.integers(100, 400), st.integers(1, 800), st.data())
def test_every_cycle_that_is_left_still_ends_at_a_minimum(document: dict[str, Any], num_steps: int, wish: int, data: st.DataObject) -> None:
    config, schedule = laid_out(document, num_steps)
    new = lengthened(config, schedule, data.draw(st.integers(1, num_steps - 1)), wish)
    lengths = [end - start for start, end in pairwise((0, *new.cycle_ends))]
    for end, length in zip(new.cycle_ends, lengths, strict=True):
        assert is_minimum(config, new, end - 1)
        if isinstance(config, WarmRestartsSchedule) and length > 1:
            assert new(end - 1) == min(new(step) for step in range(end - length, end) if step >= config.warmup_steps)


@given(st.integers(100, 400), st.integers(1, 399), st.integers(1, 400))
def test_a_cycle_is_never_cut_to_fewer_steps_than_an_annealing_needs(num_steps: int, step: int, wish: int) -> None:
    assume(step < num_steps)
    config, schedule = laid_out({"type": "cosine", "max_lr": 1.0}, num_steps)
    new = lengthened(config, schedule, step, wish)
    assert new(new.num_steps - 1) <= 0.0245 or new.num_steps == num_steps  # sin²(π/20), the end of an annealing of ten steps


def test_what_is_left_of_each_cycle_keeps_its_share() -> None:
    config, schedule = laid_out({"type": "warm_restarts", "cycles": 4}, 400)
    assert stretched_ends(config, schedule, 150, 275) == (100, 175, 225, 275)
    assert stretched_ends(config, schedule, 150, 650) == (100, 250, 450, 650)


def test_cycles_without_room_are_dropped() -> None:
    config, schedule = laid_out({"type": "warm_restarts", "cycles": 4}, 400)
    assert stretched_ends(config, schedule, 150, 181) == (100, 156, 168, 181)
    assert stretched_ends(config, schedule, 150, 170) == (100, 156, 170)
    assert stretched_ends(config, schedule, 150, 10) == (100, 155)
    assert stretched_ends(config, schedule, 200, 10) == (100, 200, 200 + LEAST_CYCLE_STEPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cycle_ends": (120, 200, 300)}, r"the ends \[100\] lie in the past at step 150, got \[120, 200, 300\]"),
        ({"cycle_ends": (100,)}, "lie in the past"),
        ({"cycle_ends": (100, 140, 300)}, "cycle ends after step 150 must ascend"),
        ({"cycle_ends": (100, 200, 200)}, "must ascend"),
        ({"peaks": (1.0, 0.5)}, r"peaks must be one share of max_lr in \(0, 1\] for each of 3 cycles"),
        ({"peaks": (1.0, 0.5, 0.0)}, "peaks must be one share"),
        ({"step": 400}, "a plan can change after 1 to 399 steps, got 400"),
    ],
)
def test_impossible_decisions_are_refused(change: dict[str, Any], message: str) -> None:
    config, schedule = laid_out({"type": "warm_restarts", "cycles": 4}, 400)
    decision = Decision(150, "length", (100, 200, 300), None, "a test")
    with pytest.raises(ScheduleError, match=message):
        changed(config, schedule, replace(decision, **change))


def run_plan_of(config: ScheduleConfig, schedule: Schedule) -> RunPlan:
    return RunPlan(config, schedule, steps_per_epoch=10, num_train_rows=100, num_validation=20)


def test_a_plan_that_is_restored_makes_the_same_rates() -> None:
    config, schedule = laid_out({"type": "warm_restarts", "cycles": 3}, 300)
    plan = run_plan_of(config, schedule)
    plan.replan(40, 350, "faster", {"seconds_per_step": 0.1})
    plan.replan(200, 280, "slower", {})
    (first, second) = plan.announce()
    assert (first.decision.reason, first.schedule.num_steps, second.schedule.num_steps) == ("faster", 350, 280)
    assert list(plan.announce()) == []
    again = run_plan_of(config, schedule)
    again.restore(plan.state())
    assert again.state() == plan.state()
    assert [again.schedule(step) for step in range(280)] == [plan.schedule(step) for step in range(280)]
    assert list(again.announce()) == []


def test_dropped_snapshots_are_told() -> None:
    config, schedule = laid_out({"type": "warm_restarts", "cycles": 4}, 400)
    plan = run_plan_of(config, schedule)
    plan.replan(150, 170, "slower", {})
    (change,) = plan.announce()
    assert change.decision.reason == "slower; there is no room for the last 1 of 4 snapshots"


def test_a_run_whose_cycles_may_be_cut_keeps_its_length() -> None:
    config, schedule = laid_out({"type": "warm_restarts", "cycles": 3, "boundaries": "paper"}, 100)
    with pytest.raises(ScheduleError, match="take 'balanced'"):
        run_plan_of(config, schedule).replan(10, 90, "slower", {})


def test_a_run_that_is_over_keeps_its_length() -> None:
    config = CosineSchedule()
    schedule = build_schedule(config, steps_per_epoch=1, epochs=50)
    with pytest.raises(ScheduleError, match="the run is over after 50 steps"):
        run_plan_of(config, schedule).replan(50, 90, "slower", {})
