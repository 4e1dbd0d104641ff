"""Lists of numbers as arrays: the same values as numpy's, or none at all."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.number_lists import MAX_DEPTH, number_array

NUMBERS = st.one_of(
    st.integers(0, 255),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 0.0, -0.0, 255, 256, -1, 5e-324, 1 + 2**-24, 16777217.0]),
)
ODD: st.SearchStrategy[Any] = st.sampled_from([True, False, None, {}, [], [1], "1", 2**63, 2**64 - 1, 1e300])


def arrays_of(items: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of one to three dimensions, equally long."""

    def of_shape(shape: list[int]) -> st.SearchStrategy[list[Any]]:
        found = items
        for size in reversed(shape):
            found = st.lists(found, min_size=size, max_size=size)
        return found

    return st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(of_shape)


@given(st.one_of(arrays_of(NUMBERS), arrays_of(st.integers(0, 255)), arrays_of(st.integers(-(2**63), 2**63 - 1))))
def test_the_values_are_those_of_numpy(lists: list[Any]) -> None:
    text = orjson.dumps(lists)
    found = number_array(orjson.loads(text), text)
    expected = np.array(lists)
    assert found is not None
    assert found.shape == expected.shape
    assert found.dtype in (np.uint8, np.int64, np.float32)
    assert same_values(found, expected)


def same_values(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    """To the bit; fractions as float32."""
    if expected.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
            return found.dtype == np.float32 and found.tobytes() == expected.astype(np.float32).tobytes()
    return found.dtype.kind in "iu" and found.astype(expected.dtype).tobytes() == expected.tobytes()


@given(arrays_of(st.one_of(NUMBERS, ODD)))
def test_whatever_is_no_array_of_numbers_is_none(lists: list[Any]) -> None:
    text = orjson.dumps(lists)
    found = number_array(orjson.loads(text), text)
    if found is None:
        return
    expected = np.array(lists)
    assert expected.dtype.kind in "iuf"
    assert same_values(found, expected)
    assert found.shape == expected.shape


NO_ARRAYS = """
    []  [[]]  [[1,2],[3]]  [[1],2]  [1,[2]]  [[[1],[2]],[[3]]]  [true]  [[1.5,false]]  [null]  [{}]  [[1],{}]  ["1"]
    [9223372036854775808]  [-1,18446744073709551615]
"""


@pytest.mark.parametrize("text", [*NO_ARRAYS.split(), "[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1)])
def test_what_is_left_to_numpy(text: str) -> None:
    assert number_array(orjson.loads(text), text.encode()) is None


def test_depth_is_bounded() -> None:
    text = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
    found = number_array(orjson.loads(text), text)
    assert found is not None
    assert found.shape == (1,) * MAX_DEPTH


def test_large_whole_numbers_beside_fractions_are_fractions_as_of_numpy() -> None:
    text = b"[18446744073709551615,0.5]"
    found = number_array(orjson.loads(text), text)
    assert found is not None
    assert same_values(found, np.array([18446744073709551615, 0.5]))
