"""Gradients of ``small_cnn`` by hand are autograd's but for rounding."""

import copy
from contextlib import nullcontext
from itertools import chain

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clr.cnn_gradients import CnnGradients
from clr.config import SmallCnnConfig, SmallCnnParams, TrainingConfig
from clr.datasets import Dataset
from clr.gradients import AutogradGradients
from clr.models import build_model
from clr.optimizers import build_optimizer
from clr.targets import Task
from clr.training import StepReport, train
from tests.clr.tiny import make_config, make_images

Rows = tuple[Tensor, Tensor]
CNN = {"architecture": "small_cnn", "params": {"width": 4}}


def network(size: tuple[int, int, int], width: int, num_outputs: int, seed: int = 0) -> nn.Module:
    """One that has trained: norms with scales of both signs and statistics of their own."""
    config = SmallCnnConfig(architecture="small_cnn", params=SmallCnnParams(width=width))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(config, (size[1], size[2], size[0]), num_outputs)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.get_buffer("running_mean"))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # missing in its types


def by_autograd(model: nn.Module, task: Task) -> AutogradGradients:
    return AutogradGradients(model, task, optimizer=build_optimizer(make_config().optimizer, model, 0.1), autocast=nullcontext())


def rows_for(task: Task, num_rows: int, size: tuple[int, int, int], num_outputs: int, seed: int) -> Rows:
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_rows, *size, generator=draws)
    if task is Task.CLASSIFICATION:
        return inputs, torch.randint(num_outputs, (num_rows,), generator=draws)
    return inputs, torch.randn(num_rows, generator=draws)


def margin(model: nn.Module, inputs: Tensor) -> float:
    """How near a maximum is to the next largest pixel, or what a ReLU takes to 0: below rounding either choice is right."""
    least, values = torch.inf, inputs
    for module in copy.deepcopy(model).children():
        if isinstance(module, nn.MaxPool2d):
            windows = values.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).topk(2).values
            least = min(least, (windows[..., 0] - windows[..., 1]).min().item())
        if isinstance(module, nn.ReLU):
            least = min(least, values.abs().min().item())
        values = module(values.clone())
    return least


def worst(found: nn.Module, expected: nn.Module) -> float:
    """The largest difference of their gradients and statistics, each relative to the largest of its tensor."""
    differences = []
    for ours, theirs in zip(
        chain((each.grad for each in found.parameters()), found.buffers()),
        chain((each.grad for each in expected.parameters()), expected.buffers()),
        strict=True,
    ):
        assert ours is not None
        assert theirs is not None
        differences.append(((ours - theirs).abs().max() / theirs.abs().max()).item())
    return max(differences)


@settings(max_examples=60)
@given(
    size=st.tuples(st.sampled_from([1, 3, 4]), st.integers(4, 13), st.integers(4, 13)).filter(
        lambda size: (size[1] // 4) * (size[2] // 4) > 1
    ),
    width=st.integers(1, 9),
    num_classes=st.integers(2, 5),
    num_rows=st.integers(4, 40),
    task=st.sampled_from(Task),
    shares=st.sampled_from([(None,), (0.75, 0.25), (0.5, 0.25, 0.25)]),
    seed=st.integers(0, 1000),
)
def test_gradients_and_statistics_are_those_of_autograd_in_float64(
    size: tuple[int, int, int], width: int, num_classes: int, num_rows: int, task: Task, shares: tuple[float | None, ...], seed: int
) -> None:
    num_outputs = num_classes if task is Task.CLASSIFICATION else 1
    by_hand = network(size, width, num_outputs, seed)
    usual, exact = copy.deepcopy(by_hand), copy.deepcopy(by_hand).double()
    ways = (CnnGradients(by_hand, task), by_autograd(usual, task), by_autograd(exact, task))
    for step in range(2):
        for way in ways:
            way.clear()
        for part, share in enumerate(shares):
            inputs, targets = rows_for(task, num_rows, size, num_outputs, seed + 10 * step + part)
            assume(margin(exact, inputs.double()) > 1e-5)
            found, _ = (way.add(inputs, targets, share).item() for way in ways[:2])
            expected = ways[2].add(inputs.double(), targets if task is Task.CLASSIFICATION else targets.double(), share)
            assert found == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert worst(by_hand, exact) < max(1e-5, 10 * worst(usual, exact)), "autograd rounds too"
    for parameter in by_hand.parameters():
        assert parameter.grad is not None
        order = torch.channels_last if parameter.dim() == 4 else torch.contiguous_format
        assert parameter.grad.is_contiguous(memory_format=order), "the fused optimizers go through both in the order of memory"


def test_scales_of_zero_take_nothing_from_the_others() -> None:
    by_hand = network((1, 9, 9), 3, 4)
    with torch.no_grad():
        by_hand[1].weight[1] = 0.0  # type: ignore[index]  # a batch norm
    exact = copy.deepcopy(by_hand).double()
    inputs, targets = rows_for(Task.CLASSIFICATION, 16, (1, 9, 9), 4, seed=1)
    CnnGradients(by_hand, Task.CLASSIFICATION).add(inputs, targets)
    by_autograd(exact, Task.CLASSIFICATION).add(inputs.double(), targets)
    assert by_hand[1].weight.grad.isfinite().all()  # type: ignore[index]  # a batch norm
    with torch.no_grad():  # which of the equal pixels of a window is its largest is anybody's choice
        for model in (by_hand, exact):
            model[1].weight.grad[1] = 1.0  # type: ignore[index]  # as above
    assert worst(by_hand, exact) < 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_loss(value: float) -> None:
    model = network((1, 8, 8), 2, 3)
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = value  # type: ignore[index]  # a convolution
    inputs, targets = rows_for(Task.CLASSIFICATION, 4, (1, 8, 8), 3, seed=0)
    assert CnnGradients(model, Task.CLASSIFICATION).add(inputs, targets).isnan()


@pytest.mark.parametrize("optimizer", [{"type": "sgd"}, {"type": "adamw"}])
@pytest.mark.parametrize("channels", [None, 3])
def test_a_run_learns_as_by_autograd(channels: int | None, optimizer: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = make_config(model=CNN, precision="fp32", optimizer=optimizer), make_images(channels=channels)
    by_hand = losses_of(config, dataset)
    with monkeypatch.context() as patch:
        patch.setattr("clr.training_step.goes_by_hand", lambda *_: False)
        expected = losses_of(config, dataset)
    assert by_hand != expected, "they round otherwise"
    assert by_hand[:5] == pytest.approx(expected[:5], rel=1e-4)


def losses_of(config: TrainingConfig, dataset: Dataset) -> list[float]:
    """Of each step."""
    return [event.loss.item() for event in train(config, dataset) if isinstance(event, StepReport)]
