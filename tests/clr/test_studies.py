"""Studies are laid out as runs that arms share."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.config import CosineSchedule, StepSchedule, TrainingConfig, WarmRestartsSchedule
from clr.schedules import ScheduleError, build_schedule
from clr.studies import ArmPlan, Members, StudyPlan, check_length, plan_study
from clr.study_config import WITHOUT_CYCLES, Arm, StudyConfig


def planned(**document: Any) -> StudyPlan:
    """A plan of four cycles, where one of the arms has cycles."""
    cycles = {} if WITHOUT_CYCLES.issuperset(document.get("arms", Arm)) else {"cycles": 4}
    return plan_study(StudyConfig.model_validate({"seeds": [7, 8, 9], **cycles, **document}))


def arm(plan: StudyPlan, name: Arm) -> ArmPlan:
    (found,) = [each for each in plan.arms if each.arm is name]
    return found


def configs(plan: StudyPlan) -> dict[str, TrainingConfig]:
    return {run.key: run.config for run in plan.runs}


def test_a_whole_study_shares_what_can_be_shared() -> None:
    plan = planned()
    # 5 runs for each of 3 seeds (snapshots, auto, fixed, step, exponential), 3 x 4 short networks, 4 + 3 - 1 cosine runs
    assert len(plan.runs) == 3 * 5 + 3 * 4 + 6
    assert len({run.key for run in plan.runs}) == len(plan.runs)
    assert arm(plan, Arm.NO_CYCLE).replicates == arm(plan, Arm.STEP).replicates == (("step-7",), ("step-8",), ("step-9",))
    assert (arm(plan, Arm.NO_CYCLE).members, arm(plan, Arm.STEP).members) == (Members.ALL, Members.LAST)
    assert arm(plan, Arm.NO_CYCLE_COSINE).replicates == arm(plan, Arm.COSINE).replicates
    assert arm(plan, Arm.AUTO).members is Members.CHOSEN


def test_independent_ensembles_are_windows_that_begin_with_the_cosine_runs() -> None:
    plan = planned()
    pool = ("cosine-7", "cosine-8", "cosine-9", "independent-1", "independent-2", "independent-3")
    assert plan.pool == pool
    assert arm(plan, Arm.INDEPENDENT).replicates == (pool[:4], pool[1:5], pool[2:6])
    found = configs(plan)
    assert len({found[key].seed for key in pool}) == 6
    assert len({found[key].model_copy(update={"seed": 0}) for key in pool}) == 1


def test_runs_differ_in_nothing_but_seed_and_schedule() -> None:
    plan = planned(batch_size=32, model={"architecture": "small_cnn"}, validation_fraction=0.2)
    setups = {run.config.model_copy(update={"seed": 0, "schedule": CosineSchedule()}) for run in plan.runs}
    (setup,) = setups
    assert (setup.batch_size, setup.model.architecture, setup.validation_fraction) == (32, "small_cnn", 0.2)
    assert setup.split_seed == 7  # the first seed's, so that predictions of all runs can be pooled
    assert {run.config.split_seed for run in planned(split_seed=5).runs} == {5}


def test_restart_rate_belongs_to_the_restarting_arms() -> None:
    found = configs(planned(restart_lr=0.2, max_lr=0.05, min_lr=0.001))
    rates = {key: config.schedule.max_lr for key, config in found.items()}
    assert {key for key, rate in rates.items() if rate == 0.2} == {
        key for key in rates if key.startswith(("snapshot_ensemble", "single_cycle"))
    }
    assert set(rates.values()) == {0.2, 0.05}


def test_snapshots_of_single_runs_are_taken_only_where_an_arm_needs_them() -> None:
    alone = configs(planned(arms=["step", "cosine"]))
    together = configs(planned(arms=["step", "cosine", "no_cycle", "no_cycle_cosine"]))
    for key, kind in (("step-7", StepSchedule), ("cosine-7", CosineSchedule)):
        one, many = alone[key].schedule, together[key].schedule
        assert isinstance(one, kind)
        assert isinstance(many, kind)
        assert (one.snapshots, many.snapshots) == (1, 4)


def test_the_automatic_arm_plans_its_cycles_itself() -> None:
    schedule = configs(planned(arms=["auto"], epochs=12))["auto-7"].schedule
    assert isinstance(schedule, WarmRestartsSchedule)
    assert (schedule.cycles, schedule.epochs, schedule.max_lr) == ("auto", 12, 0.1)


@given(st.integers(2, 20), st.integers(1, 60), st.integers(1, 40))
def test_short_networks_together_cost_no_more_than_the_budget(cycles: int, epochs: int, steps_per_epoch: int) -> None:
    plan = planned(arms=["single_cycle"], cycles=cycles, epochs=epochs, seeds=[0])
    budget = epochs * steps_per_epoch
    if budget // cycles < 1:
        return
    lengths = [build_schedule(run.config.schedule, steps_per_epoch=steps_per_epoch).num_steps for run in plan.runs]
    assert lengths == [budget // cycles] * cycles


def test_every_run_of_one_arm_has_the_budget() -> None:
    plan = planned(arms=["snapshot_ensemble", "fixed", "step", "exponential", "cosine", "independent"], epochs=2.5)
    assert {build_schedule(run.config.schedule, steps_per_epoch=9).num_steps for run in plan.runs} == {22}


def test_a_budget_without_room_for_its_cycles_is_refused() -> None:
    config = StudyConfig.model_validate({"seeds": [0], "cycles": 6, "epochs": 1.5, "arms": ["single_cycle"]})
    check_length(config, 8)
    with pytest.raises(ScheduleError, match="each of the 6 cycles must have at least 2 steps, got 10 steps in all"):
        check_length(config, 7)
    check_length(config.model_copy(update={"arms": (Arm.COSINE, Arm.INDEPENDENT)}), 1)  # these have no cycles


@pytest.mark.parametrize("name", list(Arm))
def test_each_arm_can_stand_alone(name: Arm) -> None:
    plan = planned(arms=[name.value])
    keys = {key for replicate in plan.arms[0].replicates for key in replicate}
    assert keys == {run.key for run in plan.runs}
    assert bool(plan.pool) == (name is Arm.INDEPENDENT)
