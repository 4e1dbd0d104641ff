"""The range test on real data: it is isolated, repeatable, stops when it must, and refuses in words."""

import math

import pytest
import torch

from clr.config import RangeTestConfig, TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.range_test import RangeTestError, conclude, finish_sweep, range_test, sweep
from clr.training import StepReport, train


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_builtin("digits")


def config(**changes: object) -> RangeTestConfig:
    return RangeTestConfig.model_validate({"model": {"architecture": "mlp", "params": {"hidden": [32], "dropout": 0.1}}} | changes)


def test_a_range_is_found_on_digits(digits: Dataset) -> None:
    result = range_test(config(), digits)
    assert result.min_lr is not None
    assert result.max_lr is not None
    assert 1e-4 < result.min_lr < result.suggestions["steepest"] <= result.max_lr < 1
    assert result.spread_decades["max_lr"] < 0.5
    assert "the loss falls steadily between" in result.reason


def test_the_same_test_gives_the_same_curves(digits: Dataset) -> None:
    assert range_test(config(repeats=1), digits) == range_test(config(repeats=1), digits)


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
                    range_test(config(repeats=1, num_rates=20), digits)
                    assert torch.equal(torch.get_rng_state(), state)
        return collected

    assert losses(with_test=True) == losses(with_test=False)


def test_losses_are_those_before_the_update_at_their_rate(digits: Dataset) -> None:
    one = list(sweep(config(start_lr=1e-12, end_lr=1e-11, num_rates=10), digits, repeat=0))
    again = list(sweep(config(start_lr=1e-12, end_lr=5.0, num_rates=10), digits, repeat=0))
    assert one[0].loss == again[0].loss == pytest.approx(math.log(10), rel=0.1)
    assert [step.index for step in one] == list(range(10))


def test_a_sweep_stops_at_once_on_a_loss_that_is_not_finite(digits: Dataset) -> None:
    hot = config(sweep="linear", start_lr=900.0, end_lr=1000.0, model={"architecture": "mlp", "params": {"hidden": [256] * 8}})
    losses = [step.loss for step in sweep(hot, digits, repeat=0)]
    assert not math.isfinite(losses[-1])
    assert all(math.isfinite(loss) for loss in losses[:-1])
    result = conclude(hot, [finish_sweep(hot, 0, losses)])
    assert result.is_refused
    assert "no suggestion" in result.reason
    assert result.suggestions == {}


def test_a_sweep_stops_when_it_diverges(digits: Dataset) -> None:
    one = finish_sweep(config(), 0, [step.loss for step in sweep(config(end_lr=1000.0), digits, repeat=0)])
    assert len(one.loss) < 100


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
