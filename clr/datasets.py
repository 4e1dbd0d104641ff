"""Data sets: validated tensors with the names of their classes or columns and a hash of their content.

Whatever the source (arrays, npz, CSV, built-in), a ``Dataset`` that exists is fit to train on: no NaN, no unknown labels,
lengths that agree. Inputs stay as the user gave them; ``clr.preprocessing`` arranges and standardises them.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clr import tensor_files
from clr.builtins import builtin_names, read_builtin
from clr.errors import DatasetError, NpyError
from clr.npy import MAX_DECODED_BYTES, read_npz
from clr.tables import Column
from clr.targets import Task, encode_targets

__all__ = [
    "Column",
    "Dataset",
    "DatasetError",
    "Task",
    "builtin_names",
    "class_counts",
    "load_builtin",
    "load_csv",
    "load_dataset",
    "load_npz",
    "save_dataset",
    "summarize",
]

MAX_DOCUMENT_BYTES = 2 << 20
"""Of class and column names together: they travel in the header of every snapshot."""

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows with their targets, and perhaps a separate test set.

    Attributes:
        task: What is predicted.
        inputs: (N, *input_shape) uint8 or float32.
        targets: (N,) int64 class indices, or float32 values.
        test_inputs: (N', *input_shape) of the same type, or None.
        test_targets: (N',) or None.
        class_names: The label behind each class index; empty for regression.
        columns: How the rows of a table were encoded; empty for other data.
        sha256: Hash of all of the above, in hexadecimal.
    """

    task: Task
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor | None
    test_targets: Tensor | None
    class_names: tuple[str, ...]
    columns: tuple[Column, ...]
    sha256: str

    @classmethod
    def from_arrays(
        cls,
        x: np.ndarray[Any, Any],
        y: np.ndarray[Any, Any],
        *,
        task: Task | str | None = None,
        x_test: np.ndarray[Any, Any] | None = None,
        y_test: np.ndarray[Any, Any] | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> "Dataset":
        """A data set from arrays.

        Args:
            x: (N, …) with one to three further axes: booleans, integers or floats. uint8 stays, all else becomes float32.
            y: (N,) or (N, 1). Integers, booleans and text are labels, floats are values, unless ``task`` says otherwise.
            task: What to predict; None: what ``y`` suggests.
            x_test: Rows kept for the test, like ``x``.
            y_test: Their targets, like ``y``.
            class_names: Names of the classes 0, 1, …, where ``y`` holds indices. None: the labels, sorted.

        Raises:
            DatasetError: The arrays cannot be used; the message names the array, row and value.
        """
        return _build(x, y, task=task, x_test=x_test, y_test=y_test, class_names=class_names)

    @property
    def num_rows(self) -> int:
        """Rows for training and validation."""
        return len(self.targets)

    @property
    def num_test_rows(self) -> int:
        """Rows that came as a test set."""
        return 0 if self.test_targets is None else len(self.test_targets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.inputs.shape[1:])

    @property
    def num_outputs(self) -> int:
        """Classes, or 1 for regression."""
        return len(self.class_names) or 1


def load_npz(path: Path | str, *, task: Task | str | None = None, max_bytes: int = MAX_DECODED_BYTES) -> Dataset:
    """The data set in an npz file with the arrays ``x`` and ``y``, and perhaps ``x_test`` and ``y_test``, of ``max_bytes`` in all.

    Raises:
        DatasetError: The file or its arrays cannot be used.
    """
    try:
        arrays = read_npz(path, names=("x", "y", "x_test", "y_test"), max_bytes=max_bytes)
    except NpyError as error:
        raise DatasetError(str(error), "#/file") from error
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise DatasetError(f"the npz file lacks the array {missing[0]!r}: write it with numpy.savez(path, x=…, y=…)", "#/file")
    return Dataset.from_arrays(arrays["x"], arrays["y"], task=task, x_test=arrays.get("x_test"), y_test=arrays.get("y_test"))


def load_csv(path: Path | str, *, target: str, task: Task | str | None = None, max_bytes: int = MAX_DECODED_BYTES) -> Dataset:
    """The data set in a CSV file; ``target`` names the column to predict. The encoded table may take ``max_bytes``.

    Raises:
        DatasetError: The file or its values cannot be used.
    """
    from clr.csv_files import read_csv  # imports polars, which trainers and predictors can do without

    table = read_csv(path, target=target, max_bytes=max_bytes)
    return _build(table.inputs, table.target, task=task, columns=table.columns)


def load_builtin(name: str, *, fashion_mnist_dir: Path | None = None) -> Dataset:
    """The built-in data set ``name``, one of ``builtin_names()``.

    Raises:
        DatasetError: Unknown name, or files that are missing or damaged.
    """
    arrays = read_builtin(name, fashion_mnist_dir=fashion_mnist_dir)
    return Dataset.from_arrays(
        arrays.x, arrays.y, task=Task.CLASSIFICATION, x_test=arrays.x_test, y_test=arrays.y_test, class_names=arrays.class_names
    )


def save_dataset(dataset: Dataset, path: Path | str) -> str:
    """Writes the data set into one safetensors file; returns the file's SHA-256."""
    return tensor_files.save_tensors(path, _tensors(dataset), {**_document(dataset), "sha256": dataset.sha256})


def load_dataset(path: Path | str) -> Dataset:
    """The data set that ``save_dataset`` wrote, its tensors mapped from the file.

    The content hash is taken from the file, which the artifact store has verified as a whole.

    Raises:
        DatasetError: Not such a file, or one whose tensors don't fit together.
    """
    try:
        tensors, document = tensor_files.load_tensors(path)
        dataset = Dataset(
            task=Task(document["task"]),
            inputs=tensors["inputs"],
            targets=tensors["targets"],
            test_inputs=tensors.get("test_inputs"),
            test_targets=tensors.get("test_targets"),
            class_names=tuple(document["class_names"]),
            columns=tuple(Column.from_document(column) for column in document["columns"]),
            sha256=document["sha256"],
        )
    except (tensor_files.TensorFileError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{Path(path).name} is not a dataset file ({error}): upload the data again", "#/file") from error
    _check_loaded(dataset, Path(path).name)
    return dataset


def summarize(dataset: Dataset) -> dict[str, Any]:
    """What a person wants to know first, as JSON: rows, shape, type, classes with their counts or the target's range, columns."""
    summary: dict[str, Any] = {
        "task": dataset.task.value,
        "rows": dataset.num_rows,
        "test_rows": dataset.num_test_rows,
        "input_shape": list(dataset.input_shape),
        "dtype": str(dataset.inputs.dtype).removeprefix("torch."),
        "sha256": dataset.sha256,
        "classes": [],
        "target": None,
        "columns": [column.to_document() for column in dataset.columns],
    }
    if dataset.task is Task.CLASSIFICATION:
        summary["classes"] = [{"name": name, "rows": rows} for name, rows in zip(dataset.class_names, class_counts(dataset), strict=True)]
    else:
        values = dataset.targets.double()
        summary["target"] = {"min": values.min().item(), "mean": values.mean().item(), "max": values.max().item()}
    return summary


def class_counts(dataset: Dataset) -> list[int]:
    """Training rows of each class."""
    return dataset.targets.bincount(minlength=len(dataset.class_names)).tolist()


def _build(
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    *,
    task: Task | str | None,
    x_test: np.ndarray[Any, Any] | None = None,
    y_test: np.ndarray[Any, Any] | None = None,
    class_names: tuple[str, ...] | None = None,
    columns: tuple[Column, ...] = (),
) -> Dataset:
    if (x_test is None) != (y_test is None):
        given, lacking = ("y_test", "x_test") if x_test is None else ("x_test", "y_test")
        raise DatasetError(f"{given} needs {lacking}: give both or none", "#/file")
    inputs, test_inputs = _inputs(x, "x"), None if x_test is None else _inputs(x_test, "x_test")
    if test_inputs is not None and (test_inputs.shape[1:] != inputs.shape[1:] or test_inputs.dtype != inputs.dtype):
        expected, got = (f"{rows.dtype} {tuple(rows.shape[1:])}" for rows in (inputs, test_inputs))
        raise DatasetError(f"x_test must hold rows like x, {expected}, got {got}: prepare both alike", "#/file")
    targets = encode_targets(y, y_test, task=task, class_names=class_names)
    for name, rows, values in (("y", inputs, targets.values), ("y_test", test_inputs, targets.test_values)):
        if rows is not None and values is not None and len(rows) != len(values):
            raise DatasetError(f"{name} must hold a target for each of the {len(rows)} rows, got {len(values)}: cut one to fit", "#/file")
    dataset = Dataset(targets.task, inputs, targets.values, test_inputs, targets.test_values, targets.class_names, columns, sha256="")
    size = len(json.dumps(_document(dataset), ensure_ascii=False).encode())
    if size > MAX_DOCUMENT_BYTES:
        raise DatasetError(
            f"names of classes, columns and categories must take at most {MAX_DOCUMENT_BYTES} bytes, got {size}: shorten them", "#/file"
        )
    return replace(dataset, sha256=_content_hash(dataset))


def _inputs(x: np.ndarray[Any, Any], name: str) -> Tensor:
    """The rows as uint8 or float32, all finite."""
    if not 2 <= x.ndim <= 4 or x.size == 0:
        raise DatasetError(
            f"{name} must have the shape (rows, features), (rows, height, width) or (rows, height, width, channels), all >= 1, "
            f"got {x.shape}: reshape it",
            "#/file",
        )
    if x.dtype.kind not in "biuf":
        raise DatasetError(f"{name} must hold numbers, got {x.dtype}: encode text as numbers first", "#/file")
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):
            converted = x.astype(np.float32, copy=False)
        finite = np.isfinite(converted)
        if not finite.all():
            place = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), x.shape))
            raise DatasetError(
                f"{name} must hold finite numbers within float32, got {x[place]} at {place}: clean, rescale or drop the row", "#/file"
            )
        x = converted
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def _check_loaded(dataset: Dataset, name: str) -> None:
    """The relations that training relies on; values were checked when the data set was made."""
    kind = torch.int64 if dataset.task is Task.CLASSIFICATION else torch.float32
    pairs = [(dataset.inputs, dataset.targets)]
    if dataset.test_inputs is not None and dataset.test_targets is not None:
        pairs.append((dataset.test_inputs, dataset.test_targets))
    for inputs, targets in pairs:
        fits = inputs.dtype in (torch.uint8, torch.float32) and targets.dtype is kind and inputs.shape[1:] == dataset.inputs.shape[1:]
        if not fits or inputs.ndim < 2 or targets.shape != inputs.shape[:1] or targets.numel() == 0:
            raise DatasetError(f"{name} holds tensors that don't fit together: upload the data again", "#/file")
        if kind is torch.int64 and not 0 <= int(targets.min()) <= int(targets.max()) < len(dataset.class_names):
            raise DatasetError(f"{name} holds class indices outside 0 … {len(dataset.class_names) - 1}: upload the data again", "#/file")
    if (dataset.test_inputs is None) != (dataset.test_targets is None):
        raise DatasetError(f"{name} holds only one of test inputs and test targets: upload the data again", "#/file")


def _tensors(dataset: Dataset) -> dict[str, Tensor]:
    tensors = {
        "inputs": dataset.inputs,
        "targets": dataset.targets,
        "test_inputs": dataset.test_inputs,
        "test_targets": dataset.test_targets,
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _document(dataset: Dataset) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "task": dataset.task.value,
        "class_names": list(dataset.class_names),
        "columns": [column.to_document() for column in dataset.columns],
    }


def _content_hash(dataset: Dataset) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256(json.dumps(_document(dataset), sort_keys=True).encode())
    for name, tensor in _tensors(dataset).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
