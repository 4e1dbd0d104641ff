"""Probes: short trainings that are measured on the validation rows."""

import math
from collections.abc import Generator

import numpy as np
import pytest
import torch

from clr.config import CosineSchedule, RangeTestConfig, TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.probes import LARGEST_RATE, ProbeEnd, ProbeStep, constant_losses, judged_losses, probe, probe_length, training_config
from clr.splits import split_dataset
from clr.training import CycleEnd, train
from tests.clr.tiny import make_images, make_table

MODEL = {"architecture": "mlp", "params": {"hidden": [16], "dropout": 0.1}}


def config(**changes: object) -> RangeTestConfig:
    return RangeTestConfig.model_validate({"model": MODEL, "seed": 4} | changes)


def ended(steps: Generator[ProbeStep, None, ProbeEnd]) -> tuple[list[ProbeStep], ProbeEnd]:
    collected = []
    while True:
        try:
            collected.append(next(steps))
        except StopIteration as end:
            return collected, end.value


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_builtin("digits")


def test_a_probe_is_the_short_training_run_with_its_seed(digits: Dataset) -> None:
    """Digits with batches of 128 are 12 steps an epoch; two epochs of cosine annealing from 0.05."""
    steps, end = ended(probe(config(probe_steps=24), digits, 0.05, repeat=0, index=3))
    assert end.losses is not None
    training = TrainingConfig.model_validate({"model": MODEL, "seed": 4, "schedule": CosineSchedule(max_lr=0.05, epochs=2)})
    last = [event for event in train(training, digits) if isinstance(event, CycleEnd)][-1]
    assert last.step == end.num_steps == 24
    assert end.losses.mean() == pytest.approx(last.snapshot.metrics["validation"]["nll"], rel=1e-6)
    assert [(one.index, one.learning_rate, one.step, one.num_steps) for one in steps] == [(3, 0.05, n, 24) for n in range(1, 25)]


def test_repeats_share_the_split_and_differ_in_the_rest(digits: Dataset) -> None:
    runs = [training_config(config(), repeat) for repeat in (0, 1)]
    assert [run.seed for run in runs] == [4, 5]
    splits = [split_dataset(digits, run) for run in (*runs, TrainingConfig(seed=4))]
    for other in splits[1:]:
        assert torch.equal(splits[0].validation, other.validation)
        assert torch.equal(splits[0].test, other.test)
    first, second = (ended(probe(config(probe_steps=12), digits, 0.05, repeat=repeat, index=0))[0][0].loss for repeat in (0, 1))
    assert first != second


def test_a_probe_ends_at_once_when_it_diverges(digits: Dataset) -> None:
    deep = config(probe_steps=100, model={"architecture": "mlp", "params": {"hidden": [256] * 8}})
    steps, end = ended(probe(deep, digits, LARGEST_RATE, repeat=0, index=0))
    assert end.losses is None
    assert end.num_steps == len(steps) < 100
    assert not math.isfinite(steps[-1].loss)


def test_rates_above_those_of_any_schedule_are_not_trained(digits: Dataset) -> None:
    steps, end = ended(probe(config(), digits, 2 * LARGEST_RATE, repeat=0, index=0))
    assert (steps, end.num_steps, end.losses) == ([], 0, None)


@pytest.mark.parametrize(("steps_per_epoch", "steps"), [(2, 100), (100, 100), (250, 250), (422, 400)])
def test_a_probe_is_an_epoch_within_bounds(steps_per_epoch: int, steps: int) -> None:
    assert probe_length(config(), steps_per_epoch) == steps
    assert probe_length(config(probe_steps=17), steps_per_epoch) == 17


def test_a_constant_predicts_class_shares() -> None:
    """Three classes, as many rows of each: the loss of every row is log 3, up to the few rows by which the split is uneven."""
    losses = constant_losses(config(), make_images(600))
    assert losses == pytest.approx([math.log(3)] * len(losses), abs=0.01)


def test_a_constant_predicts_the_mean_of_a_regression() -> None:
    table = make_table(4000, regression=True)
    losses = constant_losses(config(), table)
    assert losses.mean() == pytest.approx(1, abs=0.15), "in units of the training targets' variance"
    assert losses.min() >= 0


def test_what_is_worse_than_a_constant_counts_as_the_constant() -> None:
    constant = np.array([1.0, 2.0])
    assert judged_losses(None, constant) is constant
    assert judged_losses(np.array([5.0, 0.0]), constant) is constant
    better = np.array([2.5, 0.0])
    assert judged_losses(better, constant) is better
