"""Rows given by column name are encoded like the table they belong to, or refused by row and column."""

import numpy as np
import pytest

from clr.errors import DatasetError
from clr.tables import Column, encode_instances

COLUMNS = (Column("width", "numeric"), Column("colour", "categorical", ("blue", "red")), Column("wild", "boolean"))


def test_one_feature_a_number_and_one_a_category() -> None:
    instances = [{"wild": True, "width": 1.5, "colour": "red"}, {"width": 2, "colour": "blue", "wild": False}]
    encoded = encode_instances(COLUMNS, instances)
    np.testing.assert_array_equal(encoded, np.array([[1.5, 0, 1, 1], [2, 1, 0, 0]]))
    assert encoded.dtype == np.float32
    assert encode_instances(COLUMNS, []).shape == (0, 4)


def test_column_survives_its_document() -> None:
    assert [Column.from_document(column.to_document()) for column in COLUMNS] == list(COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": "1.5"}, "instance 1, column 'width': must be a finite number within float32, got '1.5'"),
        ({"width": True}, "column 'width': must be a finite number within float32, got True"),
        ({"width": float("nan")}, "column 'width': must be a finite number within float32, got nan"),
        ({"width": 10**400}, "column 'width': must be a finite number within float32"),
        ({"colour": "rad"}, r"column 'colour': must be one of blue, red, got 'rad' \(did you mean 'red'\?\)"),
        ({"colour": ["red"]}, "column 'colour': must be one of blue, red"),
        ({"wild": 1}, "column 'wild': must be true or false, got 1"),
        ({"widht": 1}, r"instance 1 has the unknown column 'widht' \(did you mean 'width'\?\)"),
    ],
)
def test_instance_that_does_not_fit_is_refused_by_row_and_column(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"width": 1.0, "colour": "red", "wild": True}
    with pytest.raises(DatasetError, match=message):
        encode_instances(COLUMNS, [good, good | change])
    with pytest.raises(DatasetError, match="instance 0 lacks column 'colour'"):
        encode_instances(COLUMNS, [{"width": 1.0, "wild": True}])
