"""Checkpoints: a run resumed after any step goes on bit for bit as if nothing had happened."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clr.checkpoints import Checkpoint, environment, load_checkpoint, save_checkpoint
from clr.datasets import Dataset
from clr.errors import CheckpointError
from clr.history import History
from clr.snapshots import save_snapshot
from clr.training import CycleEnd, StepReport, run_plan
from tests.clr.tiny import make_config, make_images, make_table, steady

SHORT = {"type": "warm_restarts", "cycles": 2, "epochs": 2}


@dataclass
class Case:
    dataset: Dataset
    changes: dict[str, Any]


CASES = {
    "mlp": Case(make_table(), {}),
    "mlp with dropout": Case(make_table(), {"model": {"architecture": "mlp", "params": {"hidden": [6, 5], "dropout": 0.3}}}),
    "mlp with adamw": Case(make_table(), {"optimizer": {"type": "adamw"}}),
    "mlp with plain sgd": Case(make_table(), {"optimizer": {"type": "sgd", "momentum": 0.0, "nesterov": False}}),
    "mlp with accumulation": Case(make_table(), {"batch_size": 3, "accumulation": 3}),
    "mlp in bf16": Case(make_images(), {"precision": "bf16"}),
    "regression": Case(make_table(regression=True), {"model": {"architecture": "mlp", "params": {"hidden": [6], "dropout": 0.1}}}),
    "small_cnn with augmentation": Case(
        make_images(channels=3), {"model": {"architecture": "small_cnn", "params": {"width": 4}}, "augmentation": "flip_crop"}
    ),
    "small_cnn with accumulation": Case(
        make_images(),
        {
            "model": {"architecture": "small_cnn", "params": {"width": 3}},
            "optimizer": {"type": "adamw"},
            "batch_size": 4,
            "accumulation": 2,
        },
    ),
    "resnet with adamw": Case(
        make_images(), {"model": {"architecture": "resnet", "params": {"depth": 8, "width": 3}}, "optimizer": {"type": "adamw"}}
    ),
    "wide_resnet with dropout": Case(
        make_images(),
        {"model": {"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1, "dropout": 0.2}}, "augmentation": "crop"},
    ),
}


def fingerprint(event: StepReport | CycleEnd, directory: Path) -> tuple[object, ...]:
    """All that an event says, bit for bit."""
    if isinstance(event, StepReport):
        return ("step", event.step, event.epoch, event.cycle, event.learning_rate, event.loss.item(), event.num_rows)
    return ("end", event.step, event.cycle, event.epoch, save_snapshot(event.snapshot, directory / "snapshot"), event.ensemble)


@pytest.mark.parametrize("name", CASES)
def test_resuming_after_any_event_yields_exactly_the_rest(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    config = make_config(schedule=SHORT, **case.changes)
    undisturbed: list[tuple[object, ...]] = []
    saved: list[Path] = []
    history = History(run_plan(config, case.dataset).schedule.num_steps, max_points=3)
    for index, event in enumerate(steady(config, case.dataset)):
        undisturbed.append(fingerprint(event, tmp_path))
        if isinstance(event, StepReport):
            history.record(event)
        saved.append(tmp_path / f"{index}.safetensors")
        save_checkpoint(event.checkpoint().with_caller_state(history.state()), saved[-1])
    assert len(undisturbed) == 10  # eight steps, two cycle ends
    for index, path in enumerate(saved):
        torch.rand(index + 1)  # the state of the global generator must not matter
        checkpoint = load_checkpoint(path)
        resumed_history = History.from_state(checkpoint.caller_state)
        rest = []
        for event in steady(config, case.dataset, resume_from=checkpoint):
            rest.append(fingerprint(event, tmp_path))
            if isinstance(event, StepReport):
                resumed_history.record(event)
        assert rest == undisturbed[index + 1 :], f"resumed after event {index}"
        assert resumed_history.state() == history.state()


def test_resumed_run_writes_the_same_later_checkpoints(tmp_path: Path) -> None:
    case = CASES["small_cnn with augmentation"]
    config = make_config(schedule=SHORT, **case.changes)
    events = steady(config, case.dataset)
    checkpoints = [save_checkpoint(event.checkpoint(), tmp_path / f"{index}") for index, event in enumerate(events)]
    resumed = steady(config, case.dataset, resume_from=load_checkpoint(tmp_path / "2"))
    assert [save_checkpoint(event.checkpoint(), tmp_path / "x") for event in resumed] == checkpoints[3:]


def checkpoint_after(num_events: int, **changes: Any) -> Checkpoint:
    events = steady(make_config(**changes), make_table())
    for _ in range(num_events):
        event = next(events)
    return event.checkpoint()


def test_checkpoint_is_a_copy_that_training_leaves_alone() -> None:
    events = steady(make_config(), make_table())
    checkpoint = next(events).checkpoint()
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    list(events)
    assert all(torch.equal(checkpoint.tensors[name], before[name]) for name in before)


def test_file_comes_back_the_same(tmp_path: Path) -> None:
    checkpoint = checkpoint_after(9).with_caller_state({"rows": [[1, 2.5, None]], "text": "ä"})
    save_checkpoint(checkpoint, tmp_path / "x")
    loaded = load_checkpoint(tmp_path / "x")
    assert (loaded.step, loaded.state, loaded.caller_state) == (8, checkpoint.state, checkpoint.caller_state)
    assert loaded.state["members"] == 1
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], checkpoint.tensors[name]) for name in loaded.tensors)


def test_resolved_config_stands_for_the_one_with_auto() -> None:
    checkpoint = checkpoint_after(1)
    assert checkpoint.state["config"]["precision"] == "fp32"
    for precision in ("auto", "fp32"):
        assert isinstance(next(steady(make_config(precision=precision), make_table(), resume_from=checkpoint)), StepReport)


def test_resumed_run_keeps_what_auto_meant_where_it_started() -> None:
    checkpoint = checkpoint_after(1, precision="bf16")
    events = steady(make_config(precision="auto"), make_table(), resume_from=checkpoint)
    ends = [event for event in events if isinstance(event, CycleEnd)]
    assert ends[0].snapshot.config.precision == "bf16"


@pytest.mark.parametrize(
    ("changes", "dataset", "message"),
    [
        ({"seed": 1}, make_table(), "the checkpoint's config must be this run's"),
        ({"batch_size": 9}, make_table(), "the checkpoint's config must be this run's"),
        ({"precision": "bf16"}, make_table(), "the checkpoint's config must be this run's"),
        ({}, make_table(44), "the checkpoint's dataset_sha256 must be this run's"),
    ],
)
def test_checkpoint_of_another_run_is_refused(changes: dict[str, Any], dataset: Dataset, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        next(steady(make_config(**changes), dataset, resume_from=checkpoint_after(1)))


@pytest.mark.parametrize("lost", ["model.1.weight", "optimizer.0.momentum_buffer", "held_out.sum.test"])
def test_checkpoint_that_lacks_a_tensor_is_refused(lost: str) -> None:
    checkpoint = checkpoint_after(1)
    del checkpoint.tensors[lost]
    with pytest.raises(CheckpointError, match="the checkpoint doesn't fit the run"):
        next(steady(make_config(), make_table(), resume_from=checkpoint))


def test_step_beyond_the_run_is_refused() -> None:
    with pytest.raises(CheckpointError, match="step must be in 1 … 16, got 17"):
        next(steady(make_config(), make_table(), resume_from=replace(checkpoint_after(1), step=17)))


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_after(1), tmp_path / "x")
    intact = (tmp_path / "x").read_bytes()
    for data in (
        b"",
        intact[:100],
        intact[:-1],
        intact.replace(b"environment", b"enviroument"),
        intact.replace(b'format\\":1', b'format\\":9'),
    ):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(CheckpointError, match="x is not a usable checkpoint"):
            load_checkpoint(tmp_path / "x")


def test_another_environment_is_told_in_words() -> None:
    checkpoint = checkpoint_after(1)
    assert checkpoint.matches_environment("cpu") == []
    json.dumps(checkpoint.state, allow_nan=False)
    assert environment("cpu")["threads"] == 1
    torch.set_num_threads(2)
    assert checkpoint.matches_environment("cpu") == ["threads: 1 then, 2 now"]


@pytest.mark.parametrize(("architecture", "told"), [("mlp", []), ("small_cnn", ["gradients: autograd then, pooled first now"])])
def test_gradients_of_another_form_are_told(architecture: str, told: list[str]) -> None:
    config = make_config(model={"architecture": architecture}, schedule=SHORT, precision="fp32")
    checkpoint = next(steady(config, make_images())).checkpoint()
    assert checkpoint.matches_environment("cpu") == []
    del checkpoint.state["environment"]["gradients"]  # as it was before there were two
    assert checkpoint.matches_environment("cpu") == told
