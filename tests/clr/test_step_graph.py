"""Steps by CUDA graph: what must hold before there is a graph is tested on the CPU, with a capture that records nothing.

``no_capture`` stands for the device: like a capture it changes network and optimizer while it warms up, and like a replay it does the
step on the tensors of the capture, and on no others. ``test_cuda_runs`` needs a CUDA device, and alone sees a graph.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clr.datasets import Dataset
from clr.models import build_model, is_convolutional
from clr.optimizers import build_optimizer, set_learning_rate
from clr.preprocessing import Preprocessing
from clr.step_graph import MEMORY_SHARE, WARM_UP_STEPS, GraphedStep, Replay, build_step, suits_graph
from clr.training import Rollback, StepReport, train
from clr.training_step import Batch, TrainingStep
from tests.clr.graph_runs import ADAMW, CHANGES, CNN, MLP, diverging, facts, resumable
from tests.clr.tiny import make_config, make_images

PLAIN_SGD = {"type": "sgd", "momentum": 0.0, "nesterov": False}
RATES = (0.125, 0.0625, 0.25, 0.03125, 0.5, 0.125)
"""Exact in float32, which a learning rate in a tensor is."""


def addresses(step: TrainingStep) -> list[int]:
    """Where the step's state lies."""
    return [tensor.data_ptr() for tensor in step.state()]


def no_capture(step: TrainingStep, batch: Batch) -> Replay:
    """A capture whose replay does the step anew, and fails where a graph would compute with tensors that are no longer the run's."""
    for _ in range(WARM_UP_STEPS):
        step(batch)
    captured, rates = addresses(step), [group["lr"] for group in step.optimizer.param_groups]

    def replay() -> Tensor:
        assert addresses(step) == captured, "the state has moved since the capture"
        assert all(group["lr"] is rate for group, rate in zip(step.optimizer.param_groups, rates, strict=True)), "another rate's tensor"
        return step(batch)

    return replay


def impossible_capture(step: TrainingStep, batch: Batch) -> Replay:
    """A capture that breaks off after its warm-up."""
    step(batch)
    raise RuntimeError("operation not permitted when stream is capturing")


@dataclass
class Case:
    """A network, its step, and mini-batches for it."""

    model: nn.Module
    step: TrainingStep
    batches: list[Batch]

    def train(self, step: TrainingStep | GraphedStep) -> list[Tensor]:
        """The losses of all mini-batches."""
        losses = []
        for batch, rate in zip(self.batches, RATES, strict=True):
            set_learning_rate(self.step.optimizer, rate)
            losses.append(step(batch))
        return losses


def case(dataset: Dataset, **changes: Any) -> Case:
    """The same on each call: three epochs of a full mini-batch and a short one."""
    config = make_config(precision="fp32", **changes)
    rows = torch.arange(12)
    preprocessing = Preprocessing.fit(dataset, rows)
    torch.manual_seed(5)
    model = build_model(config.model, dataset.input_shape, dataset.num_outputs)
    if is_convolutional(config.model):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    step = TrainingStep(config, dataset.task, model, build_optimizer(config.optimizer, model, 0.0), preprocessing)
    draws = torch.Generator().manual_seed(3)
    batches = []
    for index in range(len(RATES)):
        some = torch.randperm(36, generator=draws)[: 8 if index % 2 == 0 else 5]
        moves = torch.randint(-1, 2, (2, len(some), 1), generator=draws) if config.augmentation == "crop" else None
        batches.append(Batch(dataset.inputs[some], dataset.targets[some], moves))
    return Case(model, step, batches)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": MLP},
        {"model": MLP, "optimizer": ADAMW},
        {"model": MLP, "optimizer": PLAIN_SGD},
        {"model": CNN, "augmentation": "crop"},
        {"model": CNN, "optimizer": ADAMW},
    ],
)
@pytest.mark.parametrize("capture", [no_capture, impossible_capture])
def test_steps_on_kept_tensors_give_the_bits_of_steps_on_fresh_ones(capture: Any, changes: dict[str, Any]) -> None:
    plain, graphed = case(make_images(), **changes), case(make_images(), **changes)
    expected = plain.train(plain.step)
    if capture is impossible_capture:
        with pytest.warns(UserWarning, match="kernel by kernel, since its step could not be captured .* operation not permitted"):
            losses = graphed.train(GraphedStep(graphed.step, capture=capture))
    else:
        losses = graphed.train(GraphedStep(graphed.step, capture=capture))
    assert [loss.item() for loss in losses] == [loss.item() for loss in expected]
    assert len(plain.step.state()) == len(graphed.step.state())
    for ours, theirs in zip(graphed.step.state(), plain.step.state(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_only_full_mini_batches_go_by_the_captured_step() -> None:
    one = case(make_images(), model=MLP)
    replayed: list[int] = []

    def counting(step: TrainingStep, batch: Batch) -> Replay:
        return lambda: replayed.append(len(batch.targets)) or step(batch)  # type: ignore[func-returns-value]  # append gives None

    one.train(GraphedStep(one.step, capture=counting))
    assert [len(batch.targets) for batch in one.batches] == [8, 5, 8, 5, 8, 5]
    assert replayed == [8, 8, 8]


def test_a_loss_that_was_returned_stays_as_it_is() -> None:
    one = case(make_images(), model=MLP)

    def overwriting(step: TrainingStep, batch: Batch) -> Replay:
        loss = torch.zeros(())
        return lambda: loss.copy_(step(batch))

    losses = one.train(GraphedStep(one.step, capture=overwriting))
    assert len({loss.item() for loss in losses}) == len(losses)


def test_whether_a_failed_capture_left_kernels_is_told() -> None:
    one = case(make_images(), model=MLP)
    step = GraphedStep(one.step, capture=impossible_capture)
    assert (one.step.form, step.form) == ("kernels", "graph")
    with pytest.warns(UserWarning, match="kernel by kernel"):
        one.train(step)
    assert step.form == "kernels"


GIB = 2**30


def test_networks_without_dropout_and_accumulation_suit_a_graph() -> None:
    dropout = {"architecture": "mlp", "params": {"hidden": [8], "dropout": 0.1}}
    assert suits_graph(make_config(model=MLP), make_images(), GIB)
    assert suits_graph(make_config(model=CNN, augmentation="flip_crop", optimizer=ADAMW), make_images(), GIB)
    assert not suits_graph(make_config(model=dropout), make_images(), GIB)
    assert not suits_graph(make_config(model=MLP, accumulation=2), make_images(), GIB)


def test_a_network_too_large_for_two_sets_of_activations_goes_without_a_graph() -> None:
    wide = make_config(model={"architecture": "mlp", "params": {"hidden": [4096, 4096]}})
    weights = 4 * (64 * 4096 + 4096 * 4096 + 4096 * 3)  # bytes
    assert suits_graph(wide, make_images(), GIB)  # four times 68 MB, and little else
    assert not suits_graph(wide, make_images(), int(4 * weights / MEMORY_SHARE))


def test_on_the_cpu_there_are_no_graphs() -> None:
    config, dataset = make_config(), make_images()
    preprocessing = Preprocessing.fit(dataset, torch.arange(12))
    model = build_model(config.model, dataset.input_shape, dataset.num_outputs)
    assert isinstance(build_step(config, dataset, model, build_optimizer(config.optimizer, model, 0.0), preprocessing), TrainingStep)


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the CPU go the way of those on CUDA, but for the capture itself."""

    def build(config: Any, dataset: Any, *rest: Any) -> TrainingStep | GraphedStep:
        step = TrainingStep(config, dataset.task, *rest)
        return GraphedStep(step, capture=no_capture) if suits_graph(config, dataset, GIB) else step

    monkeypatch.setattr("clr.runs.build_step", build)


@pytest.mark.usefixtures("graphed")
@pytest.mark.parametrize("name", CHANGES)
def test_a_run_resumed_anywhere_captures_anew_and_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    config = make_config(**CHANGES[name])
    checkpoints = [resumable(event) for event in train(config, make_images())]
    undisturbed = facts(train(config, make_images()), tmp_path)
    assert all(checkpoint.state["environment"]["steps"] == "graph" for checkpoint in checkpoints)
    for index, checkpoint in enumerate(checkpoints):
        resumed = facts(train(config, make_images(), resume_from=checkpoint), tmp_path)
        assert resumed == undisturbed[index + 1 :]


def test_a_rollback_captures_anew_and_drops_the_old_moments(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config, dataset = diverging()
    plain = facts(train(config, dataset), tmp_path)
    request.getfixturevalue("graphed")
    graphed, again = (facts(train(config, dataset), tmp_path) for _ in range(2))
    assert graphed == again
    returns = [[(each.step, each.peak_scale) for each in run if isinstance(each, Rollback)] for run in (plain, graphed)]
    assert returns[0] == returns[1] == [(120, 0.5), (120, 0.25)]
    after = [max(index for index, each in enumerate(run) if isinstance(each, Rollback)) + 1 for run in (plain, graphed)]
    losses = [[loss for _, _, loss, _ in run[start : start + 20]] for run, start in zip((plain, graphed), after, strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_by_the_captured_step_learns_as_one_without(name: str, request: pytest.FixtureRequest) -> None:
    config = make_config(**CHANGES[name])
    plain = [event.loss.item() for event in train(config, make_images()) if isinstance(event, StepReport)]
    request.getfixturevalue("graphed")
    graphed = [event.loss.item() for event in train(config, make_images()) if isinstance(event, StepReport)]
    assert graphed == pytest.approx(plain, rel=1e-3)  # rates are rounded to float32
