"""What is measured of the ensembles of a study."""

import math
from dataclasses import replace

import pytest
import torch

from clr.metrics import classification_metrics
from clr.snapshots import Outputs
from clr.studies import Members
from clr.study_outcomes import FailedRun, RunOutcome, measure, measure_runs
from tests.clr.study_runs import LABELS, made_up_outputs, made_up_run


def test_one_row_by_hand() -> None:
    logits = [torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[math.log(4.0), 0.0]])]  # 3/4 for class 1, 4/5 for class 0
    members = [Outputs(each.expand(2, 2), torch.tensor([0, 1]), each, torch.tensor([1])) for each in logits]
    found = measure(members)
    assert found.num_members == 2
    p = (0.75 + 0.2) / 2
    assert found.metrics["error"] == 1.0  # 0.475 against 0.525
    assert found.metrics["nll"] == pytest.approx(-math.log(p), rel=1e-6)
    assert found.metrics["brier"] == pytest.approx(2 * (1 - p) ** 2, rel=1e-6)
    assert found.metrics["ece"] == pytest.approx(1 - p, rel=1e-6)
    # Both classes are right once on validation rows that all look the same: the best temperature flattens without end.
    assert (found.metrics["temperature"], found.is_temperature_at_bound) == (20.0, True)
    ratio = ((1 - p) / p) ** (1 / 20)
    assert found.metrics["calibrated_nll"] == pytest.approx(math.log(1 + ratio), rel=1e-6)


def test_identical_members_are_worth_the_member() -> None:
    one = made_up_outputs(0)
    single, many = measure([one]), measure([one] * 4)
    assert many.metrics == pytest.approx(dict(single.metrics), rel=1e-9)
    assert (single.num_members, many.num_members) == (1, 4)


def test_metrics_are_those_of_the_mean_on_the_test_rows() -> None:
    members = [made_up_outputs(seed) for seed in range(3)]
    probs_BC = torch.stack([each.test_logits.double().softmax(1) for each in members]).mean(0)
    expected = classification_metrics(probs_BC, LABELS)
    found = measure(members).metrics
    assert found["error"] == 1 - expected["accuracy"]
    assert [found[name] for name in ("nll", "ece", "brier")] == [expected[name] for name in ("nll", "ece", "brier")]


def test_the_temperature_never_sees_the_test_rows() -> None:
    one = made_up_outputs(0)
    other_test = replace(one, test_logits=-one.test_logits)
    assert measure([one]).metrics["temperature"] == measure([other_test]).metrics["temperature"]
    other_validation = replace(one, validation_logits=2 * one.validation_logits)
    assert measure([other_validation]).metrics["temperature"] == pytest.approx(2 * measure([one]).metrics["temperature"], rel=1e-9)
    assert measure([other_validation]).metrics["nll"] == measure([one]).metrics["nll"]


def test_regression_averages_values() -> None:
    members = [
        Outputs(torch.zeros(1), torch.zeros(1), torch.tensor(values), torch.tensor([0.0, 1.0])) for values in ([1.0, 1.0], [3.0, 1.0])
    ]
    found = measure(members)
    assert found.metrics == pytest.approx({"rmse": math.sqrt(2), "mae": 1.0})


def test_arms_take_the_members_that_are_theirs() -> None:
    outputs = [made_up_outputs(seed) for seed in (0, 1, 2)]
    outcomes = {"a": made_up_run(0, 1, 2), "b": made_up_run(5)}
    assert measure_runs(outcomes, ["a"], Members.ALL) == measure(outputs)
    assert measure_runs(outcomes, ["a", "b"], Members.LAST) == measure([outputs[2], made_up_outputs(5)])


def test_the_automatic_plan_averages_the_last_members_that_do_best_on_validation_rows() -> None:
    good, bad = made_up_outputs(0, noise=0.1), made_up_outputs(1, noise=9.0)
    one_good = replace(bad, test_logits=good.test_logits)  # good on the test rows alone: of no use to the choice
    run = RunOutcome([one_good, bad, good], [], 20, 0, 5)
    assert measure_runs({"a": run}, ["a"], Members.CHOSEN) == measure([good])
    diverse = RunOutcome([bad, *(made_up_outputs(seed) for seed in (2, 3, 4))], [], 20, 0, 5)
    assert measure_runs({"a": diverse}, ["a"], Members.CHOSEN) == measure(diverse.outputs[1:])


def test_a_failed_run_leaves_nothing_to_measure() -> None:
    assert measure_runs({"a": made_up_run(0), "b": FailedRun("diverged")}, ["a", "b"], Members.LAST) is None


def test_runs_with_other_rows_are_never_pooled() -> None:
    with pytest.raises(AssertionError, match="share one split"):
        measure([made_up_outputs(0), made_up_outputs(1, labels=LABELS.flip(0))])


def test_a_run_costs_its_steps_and_those_of_its_range_test() -> None:
    assert made_up_run(0).epochs == 4.0
    assert made_up_run(0, search_epochs=1.5).epochs == 5.5
