"""Columns of a table, and how rows of values become one float32 matrix.

Numeric and boolean columns take one feature each, a categorical column one per category (one-hot, categories sorted), in the
order of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import numpy as np

from clr.errors import DatasetError, did_you_mean

MAX_NAME_CHARACTERS = 200
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Column:
    """How one column of a table is encoded. Only categorical columns have ``categories``."""

    name: str
    kind: Literal["numeric", "boolean", "categorical"]
    categories: tuple[str, ...] = ()

    @property
    def num_features(self) -> int:
        """Features that the column takes in the encoded matrix."""
        return max(1, len(self.categories))

    def to_document(self) -> dict[str, Any]:
        """The column as JSON."""
        return {"name": self.name, "kind": self.kind, "categories": list(self.categories)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Column":
        """The column that ``to_document`` described."""
        return cls(document["name"], document["kind"], tuple(document["categories"]))


def encode_instances(columns: Sequence[Column], instances: Sequence[Mapping[str, object]]) -> np.ndarray[Any, Any]:
    """Encodes rows given as ``{column: value}`` like the table that ``columns`` came from: (B, D) float32.

    Raises:
        DatasetError: A column is missing or unknown, or a value does not fit its column; the message names row and column.
    """
    names = {column.name for column in columns}
    for row, instance in enumerate(instances):
        if missing := [column.name for column in columns if column.name not in instance]:
            raise DatasetError(
                f"instance {row} lacks column {missing[0]!r}: give a value for each of the {len(names)} columns", "#/instances"
            )
        if unknown := [name for name in instance if name not in names]:
            raise DatasetError(
                f"instance {row} has the unknown column {unknown[0]!r}{did_you_mean(unknown[0], names)}: leave it out", "#/instances"
            )
    values = [
        np.array([_instance_value(column, instance[column.name], row) for row, instance in enumerate(instances)], np.float64)
        for column in columns
    ]
    return one_matrix(columns, values)


def one_matrix(columns: Sequence[Column], values: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The (N, D) matrix of N >= 0 rows given by one number a row and column: the value itself, or the index of its category."""
    inputs = np.zeros((len(values[0]), sum(column.num_features for column in columns)), np.float32)
    start = 0
    for column, numbers in zip(columns, values, strict=True):
        if column.kind == "categorical":
            inputs[np.arange(len(numbers)), start + numbers.astype(np.int64)] = 1
        else:
            inputs[:, start] = numbers
        start += column.num_features
    return inputs


def _instance_value(column: Column, value: object, row: int) -> float:
    """The number that stands for one value: itself, 0 or 1, or the index of its category."""
    where = f"instance {row}, column {column.name!r}"
    match column.kind:
        case "numeric":
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX:
                return value
            raise DatasetError(f"{where}: must be a finite number within float32, got {value!r}", "#/instances")
        case "boolean":
            if isinstance(value, bool):
                return float(value)
            raise DatasetError(f"{where}: must be true or false, got {value!r}", "#/instances")
        case "categorical":
            if value in column.categories:
                return column.categories.index(str(value))
            hint = did_you_mean(value, column.categories) if isinstance(value, str) else ""
            listed = ", ".join(column.categories[:10]) + (", …" if len(column.categories) > 10 else "")
            raise DatasetError(f"{where}: must be one of {listed}, got {value!r}{hint}", "#/instances")
    assert_never(column.kind)
