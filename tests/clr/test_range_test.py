"""The range test on real data: it is isolated, repeatable, stops when it must, and refuses in words."""

import math
from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from clr.config import RangeTestConfig, TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.probes import ProbeStep
from clr.range_answer import RangeTestResult, conclude
from clr.range_test import (
    RangeStep,
    RangeTestError,
    answer_of_curves,
    confirm,
    finish_sweep,
    planned_steps,
    progress,
    range_test,
    search,
    sweep,
)
from clr.splits import split_dataset
from clr.training import CycleEnd, StepReport, train
from tests.clr.tiny import make_table


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_builtin("digits")


def config(**changes: object) -> RangeTestConfig:
    """One that reads the curve alone, unless ``probes`` is set."""
    document = {"model": {"architecture": "mlp", "params": {"hidden": [32], "dropout": 0.1}}, "probes": False}
    return RangeTestConfig.model_validate(document | changes)


def answer_of(steps: Generator[ProbeStep, None, RangeTestResult]) -> RangeTestResult:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: RangeTestResult = end.value
            return result


def test_a_range_is_found_on_digits(digits: Dataset) -> None:
    result = range_test(config(), digits)
    assert result.min_lr is not None
    assert result.max_lr is not None
    assert 1e-4 < result.min_lr < result.suggestions["steepest"] <= result.max_lr < 1
    assert result.spread_decades["max_lr"] < 0.5
    assert result.curve_max_lr == result.max_lr
    assert result.probes == ()
    assert result.num_steps == sum(len(one.loss) for one in result.sweeps)
    assert result.reason.startswith("the loss falls steadily between")


def test_probes_decide_on_the_upper_end(digits: Dataset) -> None:
    result = range_test(config(probes=True, repeats=2), digits)
    curve = range_test(config(repeats=2), digits)
    rates = [probe.learning_rate for probe in result.probes]
    assert result.max_lr in rates[1:-1]
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([2.0] * (len(rates) - 1))
    assert (result.suggestions, result.curve_max_lr) == (curve.suggestions, curve.max_lr)
    assert result.min_lr is not None
    assert curve.min_lr is not None
    assert result.max_lr is not None
    assert result.min_lr == min(curve.min_lr, result.max_lr / 3)
    assert result.num_steps == curve.num_steps + 100 * len(rates)
    assert 0 <= result.spread_decades["max_lr"] < 1
    assert result.level in ("high", "medium", "low")
    assert result.spread_decades["curve_max_lr"] == curve.spread_decades["max_lr"]
    assert f"of {len(rates)} short trainings at rates from" in result.reason
    assert curve.reason in result.reason


def test_the_choice_is_near_the_best_of_long_trainings(digits: Dataset) -> None:
    """The suggested rate against rates from far too low to far too high, by the loss on the test rows."""
    result = range_test(config(probes=True), digits)
    assert result.max_lr is not None

    def test_loss(max_lr: float) -> float:
        document = {"model": config().model.model_dump(), "schedule": {"type": "cosine", "max_lr": max_lr, "epochs": 8}}
        last = [event for event in train(TrainingConfig.model_validate(document), digits) if isinstance(event, CycleEnd)][-1]
        return last.snapshot.metrics["test"]["nll"]

    at_suggestion, best = test_loss(result.max_lr), min(test_loss(rate) for rate in (0.01, 0.1, 1.0))
    assert at_suggestion < 1.2 * best


def test_repeated_probes_tell_their_spread(digits: Dataset) -> None:
    result = range_test(config(probes=True, repeats=1, probe_repeats=2, probe_steps=30), digits)
    assert 0 <= result.spread_decades["max_lr"] < 0.5
    assert result.level in ("high", "medium", "low")
    assert result.num_steps == len(result.sweeps[0].loss) + 2 * 30 * len(result.probes)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_regression_has_an_answer_as_well(optimizer: str) -> None:
    table = make_table(300, regression=True)
    small = config(probes=True, optimizer={"type": optimizer}, batch_size=16, model={"architecture": "mlp", "params": {"hidden": [16]}})
    result = range_test(small, table)
    assert result.max_lr is not None
    losses = {probe.learning_rate: probe.validation_loss for probe in result.probes}
    chosen = losses[result.max_lr]
    assert chosen is not None
    assert chosen < 0.1, "the target is linear, and 1 is the loss of a constant"


def test_the_test_rows_of_a_run_with_the_same_seed_stay_unseen(digits: Dataset) -> None:
    test_rows = split_dataset(digits, TrainingConfig(seed=5)).test
    inputs = digits.inputs.clone()
    inputs[test_rows] = 255
    spoilt = Dataset.from_arrays(inputs.numpy(), digits.targets.numpy())
    quick = config(probes=True, seed=5, repeats=2, probe_steps=20)
    assert range_test(quick, spoilt) == range_test(quick, digits)


def test_progress_rises_from_the_first_step_to_the_last(digits: Dataset) -> None:
    quick = config(probes=True, repeats=2, num_rates=30, probe_steps=20)
    shown = [progress(quick, 12, event) for event in search(quick, digits)]
    done = [one for one, _ in shown]
    assert done == sorted(done)
    assert shown[0] == (1, planned_steps(quick, 12)) == (1, 2 * 30 + 5 * 20)
    assert all(one <= total for one, total in shown)
    assert shown[-1][0] == shown[-1][1]


def test_a_curve_without_descent_is_not_probed(digits: Dataset) -> None:
    cold = config(probes=True, start_lr=1e-12, end_lr=1e-11, num_rates=20, repeats=1)
    assert all(isinstance(event, RangeStep) for event in search(cold, digits))
    assert range_test(cold, digits).is_refused


def test_labels_that_cannot_be_learned_are_refused_in_words(digits: Dataset) -> None:
    """The curve is of digits; the probes see the same images with labels drawn by lot."""
    curve = range_test(config(repeats=1), digits)
    labels = torch.randperm(digits.num_rows, generator=torch.Generator().manual_seed(3)) % 10
    drawn = Dataset.from_arrays(digits.inputs.numpy(), labels.numpy())
    steps = confirm(config(probes=True, probe_steps=40), drawn, curve)
    result = answer_of(steps)
    assert result.is_refused
    assert (result.suggestions, result.min_lr, result.curve_max_lr) == ({}, None, curve.max_lr)
    assert "predicts the validation rows better than a constant (a constant's loss is 2.3" in result.reason
    assert "set probe_steps higher, or look at the data and the network" in result.reason


def test_the_same_test_gives_the_same_curves(digits: Dataset) -> None:
    same = config(probes=True, repeats=1, probe_steps=20)
    assert range_test(same, digits) == range_test(same, digits)


def test_a_run_in_progress_is_left_untouched(digits: Dataset) -> None:
    training = TrainingConfig.model_validate(
        {
            "model": {"architecture": "mlp", "params": {"hidden": [16], "dropout": 0.2}},
            "schedule": {"type": "warm_restarts", "cycles": 2, "epochs": 1},
        }
    )

    def losses(*, with_test: bool) -> list[float]:
        collected = []
        for event in train(training, digits):
            if isinstance(event, StepReport):
                collected.append(event.loss.item())
                if with_test and event.step == 3:
                    state = torch.get_rng_state()
                    range_test(config(probes=True, repeats=1, probe_steps=10), digits)
                    assert torch.equal(torch.get_rng_state(), state)
        return collected

    assert losses(with_test=True) == losses(with_test=False)


def test_losses_are_those_before_the_update_at_their_rate(digits: Dataset) -> None:
    one = list(sweep(config(start_lr=1e-12, end_lr=1e-11, num_rates=10), digits, repeat=0))
    again = list(sweep(config(start_lr=1e-12, end_lr=5.0, num_rates=10), digits, repeat=0))
    assert one[0].loss == again[0].loss == pytest.approx(math.log(10), rel=0.1)
    assert [step.index for step in one] == list(range(10))


def test_a_sweep_stops_at_once_on_a_loss_that_is_not_finite(digits: Dataset) -> None:
    hot = config(
        sweep="linear", steps_per_rate=3, start_lr=900.0, end_lr=1000.0, model={"architecture": "mlp", "params": {"hidden": [256] * 8}}
    )
    losses = [step.batch_loss for step in sweep(hot, digits, repeat=0)]
    assert not math.isfinite(losses[-1][-1])
    assert all(math.isfinite(loss) for measured in losses for loss in measured[:-1])
    assert all(len(measured) == 3 and math.isfinite(measured[-1]) for measured in losses[:-1])
    result = conclude(hot, [finish_sweep(hot, 0, losses)])
    assert result.is_refused
    assert "no suggestion" in result.reason
    assert result.suggestions == {}


def test_a_sweep_stops_when_it_diverges(digits: Dataset) -> None:
    one = finish_sweep(config(), 0, [step.batch_loss for step in sweep(config(end_lr=1000.0), digits, repeat=0)])
    assert len(one.loss) < 100


def test_every_mini_batch_is_recorded_beside_its_rate(digits: Dataset) -> None:
    several = range_test(config(repeats=1, num_rates=20, steps_per_rate=3, end_lr=0.1), digits).sweeps[0]
    assert [len(measured) for measured in several.batch_loss] == [3] * 20
    assert several.loss == pytest.approx([sum(measured) / 3 for measured in several.batch_loss], rel=1e-14)
    assert len({loss for measured in several.batch_loss for loss in measured}) == 60
    one = range_test(config(repeats=1, num_rates=20, end_lr=0.1), digits).sweeps[0]
    assert one.batch_loss == tuple((loss,) for loss in one.loss)
    assert several.batch_loss[0][0] == one.loss[0]


@pytest.mark.parametrize("probes", [False, True])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_target_without_variation_is_refused(kind: str, *, probes: bool) -> None:
    """Its curve falls as well as any, towards the constant."""
    draws = np.random.default_rng(5)
    inputs = draws.normal(size=(600, 3)).astype(np.float32)
    targets = np.full(600, 3.0, np.float32) if kind == "regression" else np.arange(600) % 2
    dataset = Dataset.from_arrays(inputs, targets)
    small = config(probes=probes, batch_size=32, repeats=1, model={"architecture": "mlp", "params": {"hidden": [16]}})
    if kind == "classification":
        dataset = replace(dataset, targets=torch.zeros_like(dataset.targets))
    result = range_test(small, dataset)
    assert (result.suggestions, result.min_lr, result.max_lr, result.curve_max_lr, result.level) == ({}, None, None, None, "refused")
    assert "the target is the same in every training row" in result.reason
    assert result.probes == ()


def test_the_largest_seed_is_followed_by_the_least(digits: Dataset) -> None:
    quick = config(probes=True, seed=2**63 - 1, repeats=2, probe_repeats=2, probe_steps=10)
    result = range_test(quick, digits)
    assert [one.seed for one in result.sweeps] == [2**63 - 1, 0]
    assert result.probes != ()


def test_a_stopped_test_says_what_it_rests_on(digits: Dataset) -> None:
    curve = range_test(config(repeats=1), digits)
    stopped = answer_of_curves(config(probes=True), digits, curve.sweeps, was_stopped=True)
    assert stopped.max_lr == curve.max_lr
    assert stopped.reason == f"the test was stopped, so this rests on the curves of 1 of 3 sweeps alone: {curve.reason}"


def test_the_seeds_of_the_repeats_differ(digits: Dataset) -> None:
    result = range_test(config(repeats=2, num_rates=10), digits)
    first, second = result.sweeps
    assert (first.seed, second.seed) == (0, 1)
    assert first.loss != second.loss


def test_rows_that_fill_one_batch_are_refused_with_the_remedy(digits: Dataset) -> None:
    with pytest.raises(RangeTestError, match="fill one batch of 4096: every step would see the same rows; set batch_size to"):
        range_test(config(batch_size=4096), digits)


def test_one_repeat_has_no_spread_and_says_so(digits: Dataset) -> None:
    result = range_test(config(repeats=1), digits)
    assert result.level == "single"
    assert "one sweep, so no spread" in result.reason
