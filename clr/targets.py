"""What a data set predicts: the task, and targets as class indices or values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clr.errors import DatasetError, did_you_mean
from clr.tables import FLOAT32_MAX, MAX_NAME_CHARACTERS

MAX_CLASSES = 10_000

UNASKED_CLASSES = 100
"""More different whole numbers than this may be a quantity as well as labels, so the user has to say which."""

_KINDS = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats", "U": "text"}


class Task(StrEnum):
    """What is predicted."""

    CLASSIFICATION = "classification"
    """One of several classes."""
    REGRESSION = "regression"
    """One number."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets ready for a loss: int64 class indices with their names, or float32 values."""

    task: Task
    values: Tensor
    test_values: Tensor | None
    class_names: tuple[str, ...]


def encode_targets(
    y: np.ndarray[Any, Any], y_test: np.ndarray[Any, Any] | None, *, task: Task | str | None, class_names: tuple[str, ...] | None
) -> Targets:
    """Targets from the user's vectors.

    Integers, booleans and text are labels, floats are values, unless ``task`` says otherwise. Classes are the labels in sorted
    order (numbers by size), or 0, 1, … where ``class_names`` are given.

    Raises:
        DatasetError: The targets don't fit the task, or test targets have labels that ``y`` lacks.
    """
    y = _checked(y, "y")
    y_test = None if y_test is None else _checked(y_test, "y_test")
    chosen = _task(y, task)
    if chosen is Task.REGRESSION:
        return Targets(chosen, _values(y, "y"), None if y_test is None else _values(y_test, "y_test"), ())
    labels = _labels(y, asked=task is not None) if class_names is None else np.arange(len(class_names))
    names = tuple(str(label) for label in labels.tolist()) if class_names is None else class_names
    _check_names(names)
    return Targets(chosen, _indices(y, labels, "y"), None if y_test is None else _indices(y_test, labels, "y_test"), names)


def _checked(y: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """A vector of booleans, integers, finite floats or text; a single column becomes one."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DatasetError(f"{name} must hold one target a row, got the shape {y.shape}: turn one-hot labels around with argmax", "#/file")
    if y.dtype.kind not in _KINDS:
        raise DatasetError(f"{name} must hold numbers or text, got {y.dtype}: convert it with .astype", "#/file")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        raise DatasetError(f"{name} must hold finite numbers, got {y[row]} in row {row}: drop the row", "#/file")
    return y


def _task(y: np.ndarray[Any, Any], task: Task | str | None) -> Task:
    """The task that was asked for, or that the type of the targets suggests."""
    if task is None:
        return Task.REGRESSION if y.dtype.kind == "f" else Task.CLASSIFICATION
    try:
        chosen = Task(task)
    except ValueError:
        hint = did_you_mean(task, Task)
        raise DatasetError(f"task must be classification or regression, got {task!r}{hint}: or leave it out", "#/task") from None
    if chosen is Task.REGRESSION and y.dtype.kind in "Ub":
        raise DatasetError(f"task regression needs numbers as targets, got {_KINDS[y.dtype.kind]}: take classification", "#/task")
    return chosen


def _labels(y: np.ndarray[Any, Any], *, asked: bool) -> np.ndarray[Any, Any]:
    """The distinct labels, sorted."""
    if y.dtype.kind == "f":
        whole = (y == np.rint(y)) & (np.abs(y) < 2**53)
        if not whole.all():
            row = int(np.argmin(whole))
            raise DatasetError(f"y must hold whole numbers for classification, got {y[row]} in row {row}: take task regression", "#/task")
        y = y.astype(np.int64)
    labels = np.unique(y)
    if not asked and labels.dtype.kind in "iu" and len(labels) > UNASKED_CLASSES:
        raise DatasetError(
            f"y holds {len(labels)} different whole numbers, which may be labels or a quantity: set task to classification or regression",
            "#/task",
        )
    if not 2 <= len(labels) <= MAX_CLASSES:
        raise DatasetError(f"y must hold between 2 and {MAX_CLASSES} different labels, got {len(labels)}: check the targets", "#/file")
    return labels


def _indices(y: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], name: str) -> Tensor:
    """The class index of each target."""
    if (y.dtype.kind == "U") != (labels.dtype.kind == "U"):
        expected = _KINDS[labels.dtype.kind]
        raise DatasetError(f"{name} must hold {expected} as labels, got {_KINDS[y.dtype.kind]}: convert it with .astype", "#/file")
    indices = np.searchsorted(labels, y).clip(max=len(labels) - 1)
    known = labels[indices] == y
    if not known.all():
        row = int(np.argmin(known))
        listed = ", ".join(str(label) for label in labels[:10]) + (", …" if len(labels) > 10 else "")
        raise DatasetError(f"{name} must hold the labels {listed}, got {y[row]!s:.50} in row {row}: correct the row or drop it", "#/file")
    return torch.from_numpy(indices.astype(np.int64))


def _values(y: np.ndarray[Any, Any], name: str) -> Tensor:
    """Regression targets as float32."""
    beyond = np.abs(y.astype(np.float64)) > FLOAT32_MAX
    if beyond.any():
        row = int(np.argmax(beyond))
        raise DatasetError(f"{name} must be within float32, got {y[row]} in row {row}: rescale the target", "#/file")
    return torch.from_numpy(y.astype(np.float32))


def _check_names(names: tuple[str, ...]) -> None:
    """Class names must differ and be text that JSON can carry."""
    for name in names:
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
            raise DatasetError(f"labels must have 1 to {MAX_NAME_CHARACTERS} printable characters, got {name[:50]!r}: rename it", "#/file")
    if len(set(names)) < len(names):
        raise DatasetError(f"class names must differ, got {', '.join(names[:10])}: rename one", "#/file")
