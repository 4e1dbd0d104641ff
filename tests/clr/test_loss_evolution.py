"""The training loss of each arm by step."""

import pytest

from clr.loss_evolution import EVOLUTION_COLUMNS, loss_evolution
from clr.studies import ArmPlan, Members
from clr.study_config import Arm
from clr.study_outcomes import FailedRun, Outcomes
from tests.clr.study_runs import made_up_run


def test_the_mean_over_seeds_by_hand() -> None:
    plan = ArmPlan(Arm.COSINE, Members.LAST, (("a",), ("b",)))
    found = loss_evolution(plan, {"a": made_up_run(0, losses=(2.0, 1.0)), "b": made_up_run(1, losses=(4.0, 1.0))})
    assert tuple(found["columns"]) == EVOLUTION_COLUMNS
    assert found["rows"] == [[10, 2.0, 0.1, 3.0, pytest.approx(2**0.5)], [20, 4.0, 0.05, 1.0, 0.0]]


def test_networks_that_share_a_budget_follow_each_other() -> None:
    plan = ArmPlan(Arm.SINGLE_CYCLE, Members.LAST, (("a", "b"),))
    found = loss_evolution(plan, {"a": made_up_run(0, losses=(3.0,)), "b": made_up_run(1, losses=(5.0, 4.0))})
    assert found["rows"] == [[10, 2.0, 0.1, 3.0, None], [20, 4.0, 0.1, 5.0, None], [30, 6.0, 0.05, 4.0, None]]


def test_independent_networks_are_shown_side_by_side() -> None:
    plan = ArmPlan(Arm.INDEPENDENT, Members.LAST, (("a", "b"), ("b", "c")))
    found = loss_evolution(plan, {key: made_up_run(0, losses=(loss,)) for key, loss in (("a", 1.0), ("b", 2.0), ("c", 6.0))})
    assert [row[:4] for row in found["rows"]] == [pytest.approx([10, 2.0, 0.1, 3.0])]


def test_failed_seeds_are_left_out_and_gaps_stay_gaps() -> None:
    plan = ArmPlan(Arm.STEP, Members.LAST, (("a",), ("b",), ("c",)))
    outcomes: Outcomes = {"a": made_up_run(0, losses=(2.0, None)), "b": FailedRun("diverged"), "c": made_up_run(1, losses=(4.0, 1.0))}
    assert [row[3] for row in loss_evolution(plan, outcomes)["rows"]] == [3.0, None]
    assert loss_evolution(plan, dict.fromkeys("abc", FailedRun("diverged")))["rows"] == []
