"""Snapshots: one ensemble member each, complete enough to predict from raw rows, in one safetensors file.

The weights carry the names of the network's ``state_dict``; ``preprocessing.mean`` and ``preprocessing.std`` stand beside them.
The bytes are a function of the run alone (no time, no job), so equal runs give equal files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clr import tensor_files
from clr.config import TrainingConfig
from clr.errors import ModelError, SnapshotError
from clr.models import build_model
from clr.preprocessing import Preprocessing, image_layout, image_size
from clr.tables import Column
from clr.targets import Task

__all__ = ["Outputs", "Snapshot", "SnapshotError", "load_outputs", "load_snapshot", "save_outputs", "save_snapshot"]

Metrics = dict[str, float]

_FORMAT = 1
_PREFIX = "preprocessing."


@dataclass(frozen=True, eq=False)
class Outputs:
    """A member's raw outputs on the held-out rows: (N, C) logits, or (N,) values in the target's unit; with the true targets."""

    validation_logits: Tensor
    validation_targets: Tensor
    test_logits: Tensor
    test_targets: Tensor


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The network after a step, and what is needed to predict with it.

    Attributes:
        cycle: From 0.
        step: Optimizer steps completed.
        epoch: The same in passes over the training rows.
        learning_rate: Of the last step.
        next_learning_rate: Of the step that follows; None at the end of the run.
        is_minimum: Whether the last step was the last one of a full annealing.
        config: The run's, with every "auto" replaced.
        dataset_sha256: Content hash of the data it was trained on.
        task: What is predicted.
        input_shape: Of one row.
        class_names: Empty for regression.
        columns: Encoding of a table's rows; empty for other data.
        preprocessing: What the rows go through first.
        metrics: ``validation`` and ``test``, each by name.
        tensors: Parameters and buffers by name, copies on the CPU.
        outputs: On the held-out rows; None in a snapshot that was loaded, since they are kept in a file of their own.
    """

    cycle: int
    step: int
    epoch: float
    learning_rate: float
    next_learning_rate: float | None
    is_minimum: bool
    config: TrainingConfig
    dataset_sha256: str
    task: Task
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    columns: tuple[Column, ...]
    preprocessing: Preprocessing
    metrics: dict[str, Metrics]
    tensors: dict[str, Tensor]
    outputs: Outputs | None = None

    @property
    def num_outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.class_names) or 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def build_network(self, device: torch.device) -> nn.Module:
        """The network with copies of the weights on ``device``, in evaluation mode."""
        model = _empty_network(self)
        model.load_state_dict({name: tensor.to(device, copy=True) for name, tensor in self.tensors.items()}, assign=True)
        return model.eval().requires_grad_(requires_grad=False)


def save_snapshot(snapshot: Snapshot, path: Path | str) -> str:
    """Writes the snapshot atomically; returns the file's SHA-256. Equal runs give equal bytes."""
    preprocessing = snapshot.preprocessing
    tensors = snapshot.tensors | {_PREFIX + "mean": preprocessing.mean, _PREFIX + "std": preprocessing.std}
    document = {
        "format": _FORMAT,
        "cycle": snapshot.cycle,
        "step": snapshot.step,
        "epoch": snapshot.epoch,
        "learning_rate": snapshot.learning_rate,
        "next_learning_rate": snapshot.next_learning_rate,
        "is_minimum": snapshot.is_minimum,
        "config": snapshot.config.model_dump(mode="json"),
        "dataset_sha256": snapshot.dataset_sha256,
        "task": snapshot.task.value,
        "input_shape": list(snapshot.input_shape),
        "class_names": list(snapshot.class_names),
        "columns": [column.to_document() for column in snapshot.columns],
        "preprocessing": {
            "layout": preprocessing.layout,
            "target_mean": preprocessing.target_mean,
            "target_std": preprocessing.target_std,
        },
        "metrics": {part: {name: _finite_or_none(value) for name, value in values.items()} for part, values in snapshot.metrics.items()},
    }
    return tensor_files.save_tensors(path, tensors, document)


def load_snapshot(path: Path | str) -> Snapshot:
    """The snapshot in a file, its tensors mapped from it.

    Raises:
        SnapshotError: Damaged, or with tensors other than its architecture has.
    """
    name = Path(path).name
    try:
        tensors, document = tensor_files.load_tensors(path)
        snapshot = _from_document(document, tensors)
        _check_tensors(snapshot)
    except (tensor_files.TensorFileError, ModelError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{name} is not a usable snapshot ({error}): fetch it again from its job") from error
    return snapshot


def save_outputs(snapshot: Snapshot, path: Path | str) -> str:
    """Writes a fresh snapshot's outputs on the held-out rows; returns the file's SHA-256."""
    if snapshot.outputs is None:
        raise SnapshotError("a loaded snapshot has no outputs: they are in the file that save_outputs wrote while training")
    return tensor_files.save_tensors(path, vars(snapshot.outputs), {"format": _FORMAT, "cycle": snapshot.cycle, "step": snapshot.step})


def load_outputs(path: Path | str) -> Outputs:
    """The outputs that ``save_outputs`` wrote.

    Raises:
        SnapshotError: Not such a file.
    """
    try:
        return Outputs(**tensor_files.load_tensors(path)[0])
    except (tensor_files.TensorFileError, TypeError) as error:
        raise SnapshotError(f"{Path(path).name} is not a file of outputs ({error}): fetch it again from its job") from error


def _from_document(document: Mapping[str, Any], tensors: dict[str, Tensor]) -> Snapshot:
    preprocessing = Preprocessing(
        document["preprocessing"]["layout"],
        tensors.pop(_PREFIX + "mean").clone(),  # used for as long as the ensemble lives, so it must not depend on the file
        tensors.pop(_PREFIX + "std").clone(),
        float(document["preprocessing"]["target_mean"]),
        float(document["preprocessing"]["target_std"]),
    )
    return Snapshot(
        cycle=document["cycle"],
        step=document["step"],
        epoch=document["epoch"],
        learning_rate=document["learning_rate"],
        next_learning_rate=document["next_learning_rate"],
        is_minimum=document["is_minimum"],
        config=TrainingConfig.model_validate(document["config"]),
        dataset_sha256=document["dataset_sha256"],
        task=Task(document["task"]),
        input_shape=tuple(document["input_shape"]),
        class_names=tuple(document["class_names"]),
        columns=tuple(Column.from_document(column) for column in document["columns"]),
        preprocessing=preprocessing,
        metrics={
            part: {name: math.nan if value is None else value for name, value in values.items()}
            for part, values in document["metrics"].items()
        },
        tensors=tensors,
    )


def _check_tensors(snapshot: Snapshot) -> None:
    """Compares names, types and shapes with the architecture's own."""
    expected = {name: (tensor.dtype, tensor.shape) for name, tensor in _empty_network(snapshot).state_dict().items()}
    size = image_size(snapshot.input_shape)
    moments_shape = (size[0], 1, 1) if size else (math.prod(snapshot.input_shape),)
    for name in ("mean", "std"):
        expected[_PREFIX + name] = (torch.float32, torch.Size(moments_shape))
    moments = {_PREFIX + "mean": snapshot.preprocessing.mean, _PREFIX + "std": snapshot.preprocessing.std}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in (snapshot.tensors | moments).items()}
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        name = different[0]
        raise SnapshotError(f"tensor {name!r} must be {expected.get(name, 'absent')}, got {found.get(name, 'none')}")
    if snapshot.preprocessing.layout != image_layout(snapshot.input_shape):
        raise SnapshotError(f"layout must be {image_layout(snapshot.input_shape)!r}, got {snapshot.preprocessing.layout!r}")


def _empty_network(snapshot: Snapshot) -> nn.Module:
    with torch.device("meta"):
        return build_model(snapshot.config.model, snapshot.input_shape, snapshot.num_outputs)


def _finite_or_none(value: float) -> float | None:
    """JSON has no NaN; a diverged member's metrics are null."""
    return value if math.isfinite(value) else None
