"""Gradients by hand are autograd's, bit for bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clr.config import MlpConfig, MlpParams, TrainingConfig
from clr.datasets import Dataset
from clr.gradients import AutogradGradients, MlpGradients, goes_by_hand
from clr.models import build_model
from clr.optimizers import build_optimizer
from clr.targets import Task
from clr.training import train
from tests.clr.graph_runs import ADAMW, CNN, MLP, diverging, facts
from tests.clr.tiny import make_config, make_images, make_table

CPU = torch.device("cpu")


def networks(hidden: list[int], num_inputs: int, num_outputs: int) -> tuple[nn.Module, nn.Module]:
    """Two with the same weights."""
    model = build_model(MlpConfig(architecture="mlp", params=MlpParams(hidden=hidden)), (num_inputs,), num_outputs)
    return model, copy.deepcopy(model)


def both(task: Task, by_autograd: nn.Module, by_hand: nn.Module) -> tuple[AutogradGradients, MlpGradients]:
    optimizer = build_optimizer(make_config().optimizer, by_autograd, 0.1)
    return AutogradGradients(by_autograd, task, optimizer=optimizer, autocast=torch.enable_grad()), MlpGradients(by_hand, task)


def grads(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def rows_for(task: Task, num_rows: int, num_inputs: int, num_outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_rows, num_inputs, generator=draws)
    if task is Task.CLASSIFICATION:
        return inputs, torch.randint(num_outputs, (num_rows,), generator=draws)
    return inputs, torch.randn(num_rows, generator=draws)


@settings(max_examples=60)
@example(hidden=[1], num_inputs=3, num_classes=12, num_rows=1, task=Task.CLASSIFICATION, shares=(None,), seed=0)
@example(hidden=[1, 70], num_inputs=90, num_classes=2, num_rows=1, task=Task.CLASSIFICATION, shares=(None,), seed=0)
@example(hidden=[], num_inputs=1, num_classes=2, num_rows=1, task=Task.REGRESSION, shares=(0.5, 0.5), seed=0)
@given(
    hidden=st.lists(st.integers(1, 70), max_size=3),
    num_inputs=st.integers(1, 90),
    num_classes=st.integers(2, 12),
    num_rows=st.integers(1, 130),
    task=st.sampled_from(Task),
    shares=st.sampled_from([(None,), (0.75, 0.25), (0.5, 0.25, 0.25)]),
    seed=st.integers(0, 1000),
)
def test_gradients_by_hand_have_the_bits_of_autograd(
    hidden: list[int], num_inputs: int, num_classes: int, num_rows: int, task: Task, shares: tuple[float | None, ...], seed: int
) -> None:
    num_outputs = num_classes if task is Task.CLASSIFICATION else 1
    models = networks(hidden, num_inputs, num_outputs)
    autograd, hand = both(task, *models)
    for step in range(2):
        autograd.clear()
        hand.clear()
        for part, share in enumerate(shares):
            rows = rows_for(task, num_rows, num_inputs, num_outputs, seed + 10 * step + part)
            expected, found = autograd.add(*rows, share), hand.add(*rows, share)
            assert torch.equal(found, expected)
            assert found.shape == expected.shape == ()
        assert all(map(torch.equal, grads(models[1]), grads(models[0])))
        assert len(grads(models[1])) == 2 * (len(hidden) + 1)


def test_numbers_that_are_not_finite_stay_so() -> None:
    models = networks([5], 3, 2)
    autograd, hand = both(Task.CLASSIFICATION, *models)
    rows = torch.tensor([[torch.inf, 1.0, 2.0], [1.0, torch.nan, 0.0]]), torch.tensor([0, 1])
    losses = [each.add(*rows) for each in (autograd, hand)]
    assert torch.equal(losses[0].isnan(), losses[1].isnan())
    for ours, theirs in zip(grads(models[1]), grads(models[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


RUNS: dict[str, tuple[TrainingConfig, Dataset]] = {
    "sgd": (make_config(model=MLP), make_images()),
    "adamw": (make_config(model=MLP, optimizer=ADAMW), make_images()),
    "accumulation": (make_config(model=MLP, accumulation=3, batch_size=4), make_images()),
    "moved images": (make_config(model=MLP, augmentation="crop"), make_images(channels=3)),
    "regression": (make_config(model=MLP, precision="fp32"), make_table(regression=True)),
    "rollbacks": diverging(),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_by_hand_has_the_bits_of_one_by_autograd(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, dataset = RUNS[name]
    used: set[type] = set()
    for kind in (MlpGradients, AutogradGradients):

        def noted(self: Any, *args: Any, add: Any = kind.add, kind: type = kind) -> Tensor:
            used.add(kind)
            return add(self, *args)  # type: ignore[no-any-return]  # it is one of the two

        monkeypatch.setattr(kind, "add", noted)
    by_hand = facts(train(config, dataset), tmp_path)
    assert used == {MlpGradients}
    used.clear()
    monkeypatch.setattr("clr.training_step.goes_by_hand", lambda *_: False)
    assert facts(train(config, dataset), tmp_path) == by_hand
    assert used == {AutogradGradients}


@pytest.mark.parametrize(
    ("model", "precision", "device", "expected"),
    [
        (MLP, "fp32", CPU, True),
        (MLP, "bf16", CPU, False),
        (MLP, "fp32", torch.device("cuda"), False),
        ({**MLP, "params": {"hidden": [8], "dropout": 0.1}}, "fp32", CPU, False),
        (CNN, "fp32", CPU, True),
        (CNN, "bf16", CPU, False),
        (CNN, "fp32", torch.device("cuda"), False),
        ({"architecture": "resnet", "params": {"depth": 8}}, "fp32", CPU, False),
    ],
)
def test_which_networks_go_by_hand(model: dict[str, Any], precision: str, device: torch.device, expected: bool) -> None:
    config: TrainingConfig = make_config(model=model, precision=precision)
    assert goes_by_hand(config, device) is expected
