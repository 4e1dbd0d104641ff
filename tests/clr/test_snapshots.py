"""Snapshots: files that stand alone, equal for equal runs, and checked against their architecture."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from clr.datasets import load_csv
from clr.errors import SnapshotError
from clr.models import build_model
from clr.snapshots import Snapshot, load_outputs, load_snapshot, save_outputs, save_snapshot
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of

CNN: dict[str, Any] = {"architecture": "small_cnn", "params": {"width": 2}}


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return snapshots_of(make_config(model=CNN), make_images())[0]


def test_snapshot_comes_back_the_same(tmp_path: Path, snapshot: Snapshot) -> None:
    digest = save_snapshot(snapshot, tmp_path / "x")
    loaded = load_snapshot(tmp_path / "x")
    for name in ("cycle", "step", "epoch", "learning_rate", "next_learning_rate", "is_minimum", "config", "dataset_sha256", "task"):
        assert getattr(loaded, name) == getattr(snapshot, name), name
    for name in ("input_shape", "class_names", "columns", "metrics"):
        assert getattr(loaded, name) == getattr(snapshot, name), name
    assert loaded.outputs is None
    assert loaded.preprocessing.layout == "grey"
    assert torch.equal(loaded.preprocessing.mean, snapshot.preprocessing.mean)
    assert loaded.tensors.keys() == snapshot.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], snapshot.tensors[name]) for name in snapshot.tensors)
    assert save_snapshot(loaded, tmp_path / "again") == digest


def test_regression_snapshot_keeps_the_scale_of_its_target(tmp_path: Path) -> None:
    snapshot = snapshots_of(make_config(), make_table(regression=True))[0]
    save_snapshot(snapshot, tmp_path / "x")
    loaded = load_snapshot(tmp_path / "x")
    assert loaded.preprocessing.target_mean == snapshot.preprocessing.target_mean != 0
    assert loaded.preprocessing.target_std == snapshot.preprocessing.target_std != 1


def test_snapshot_of_a_table_keeps_its_columns(tmp_path: Path) -> None:
    rows = "".join(f"{index},{'red' if index % 3 else 'blue'},{'u' if index % 2 else 'v'}\n" for index in range(40))
    (tmp_path / "t.csv").write_text("size,colour,kind\n" + rows)
    table = load_csv(tmp_path / "t.csv", target="kind")
    save_snapshot(snapshots_of(make_config(), table)[0], tmp_path / "x")
    assert load_snapshot(tmp_path / "x").columns == table.columns


def test_weights_load_with_the_safetensors_package_alone(tmp_path: Path, snapshot: Snapshot) -> None:
    save_snapshot(snapshot, tmp_path / "x")
    state = {name: tensor for name, tensor in safetensors.torch.load_file(tmp_path / "x").items() if not name.startswith("preprocessing.")}
    model = build_model(snapshot.config.model, (8, 8), 3)
    model.load_state_dict(state)
    assert model.state_dict()["1.num_batches_tracked"] == snapshot.step


def test_snapshot_is_a_copy_that_training_leaves_alone() -> None:
    first, second = snapshots_of(make_config(), make_table())
    assert not torch.equal(first.tensors["1.weight"], second.tensors["1.weight"])


RUN = """
import sys
from pathlib import Path
import torch
from clr.snapshots import save_outputs, save_snapshot
from tests.clr.tiny import make_config, make_images, snapshots_of
torch.set_num_threads(1)
config = make_config(model={"architecture": "small_cnn", "params": {"width": 2}}, augmentation="flip_crop")
for snapshot in snapshots_of(config, make_images()):
    print(save_snapshot(snapshot, Path(sys.argv[1]) / "x"), save_outputs(snapshot, Path(sys.argv[1]) / "y"))
"""


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    config = make_config(model=CNN, augmentation="flip_crop")
    ours = []
    for snapshot in snapshots_of(config, make_images()):
        ours += [save_snapshot(snapshot, tmp_path / "x"), save_outputs(snapshot, tmp_path / "y")]
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], cwd=root, check=True, capture_output=True, text=True, timeout=100)
    assert other.stdout.split() == ours
    assert len(set(ours)) == 4


def test_outputs_have_a_file_of_their_own(tmp_path: Path, snapshot: Snapshot) -> None:
    save_outputs(snapshot, tmp_path / "y")
    loaded, outputs = load_outputs(tmp_path / "y"), snapshot.outputs
    assert outputs is not None
    assert all(torch.equal(tensor, vars(outputs)[name]) for name, tensor in vars(loaded).items())
    assert loaded.validation_logits.shape == (3, 3)
    assert loaded.test_targets.tolist() == outputs.test_targets.tolist()
    with pytest.raises(SnapshotError, match="a loaded snapshot has no outputs"):
        save_outputs(replace(snapshot, outputs=None), tmp_path / "z")
    save_snapshot(snapshot, tmp_path / "x")
    with pytest.raises(SnapshotError, match="is not a file of outputs"):
        load_outputs(tmp_path / "x")


def test_metrics_that_are_not_finite_become_null(tmp_path: Path, snapshot: Snapshot) -> None:
    diverged = replace(snapshot, metrics={"validation": {"loss": float("nan")}, "test": {"loss": float("inf")}})
    save_snapshot(diverged, tmp_path / "x")
    assert np.isnan(load_snapshot(tmp_path / "x").metrics["validation"]["loss"])
    assert np.isnan(load_snapshot(tmp_path / "x").metrics["test"]["loss"])


def rewrite(path: Path, *, tensors: dict[str, Any] | None = None, document: dict[str, Any] | None = None) -> None:
    """Changes entries of a snapshot file; a tensor of None is dropped."""
    with safetensors.safe_open(path, "pt") as file:
        old = json.loads(file.metadata()["snapcycle"])
    changed = safetensors.torch.load_file(path) | (tensors or {})
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    safetensors.torch.save_file(kept, path, metadata={"snapcycle": json.dumps(old | (document or {}))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {"0.weight": None}}, "tensor '0.weight' must be .*, got none"),
        ({"tensors": {"extra": torch.zeros(1)}}, "tensor 'extra' must be absent"),
        ({"tensors": {"0.weight": torch.zeros(1, 2)}}, "tensor '0.weight' must be"),
        ({"tensors": {"0.weight": torch.zeros(2, 1, 3, 3, dtype=torch.float64)}}, "tensor '0.weight' must be"),
        ({"tensors": {"preprocessing.std": torch.ones(3)}}, "tensor 'preprocessing.std' must be"),
        ({"tensors": {"preprocessing.mean": None}}, "preprocessing.mean"),
        ({"document": {"config": {}}}, "tensor "),
        ({"document": {"config": {"model": {"architecture": "gpt"}}}}, "gpt"),
        ({"document": {"input_shape": [64]}}, "needs images"),
        ({"document": {"input_shape": "64"}}, "not a usable snapshot"),
        ({"document": {"task": "dreaming"}}, "dreaming"),
        (
            {"document": {"preprocessing": {"layout": "features", "target_mean": 0, "target_std": 1}}},
            "layout must be 'grey', got 'features'",
        ),
    ],
)
def test_file_that_does_not_fit_its_architecture_is_refused(
    tmp_path: Path, snapshot: Snapshot, change: dict[str, Any], message: str
) -> None:
    save_snapshot(snapshot, tmp_path / "x")
    rewrite(tmp_path / "x", **change)
    with pytest.raises(SnapshotError, match=message):
        load_snapshot(tmp_path / "x")


def test_truncated_file_is_refused(tmp_path: Path, snapshot: Snapshot) -> None:
    save_snapshot(snapshot, tmp_path / "x")
    intact = (tmp_path / "x").read_bytes()
    for size in range(0, len(intact), 97):
        (tmp_path / "x").write_bytes(intact[:size])
        with pytest.raises(SnapshotError):
            load_snapshot(tmp_path / "x")
