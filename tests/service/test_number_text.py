"""Text of numbers as arrays: the same as by the long way, or none at all."""

import json
import threading
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import prediction_bodies
from service.number_lists import MAX_DEPTH, number_array
from service.number_text import KEPT_BYTES, SIZES, array_of_text
from service.prediction_bodies import decode_inputs
from tests.service.test_number_lists import NO_ARRAYS, NUMBERS, ODD, arrays_of

pytest.importorskip("simdjson")

PADDING = b" " * SIZES.start
"""Makes the smallest texts large enough."""


def by_the_long_way(text: bytes) -> Any:
    """What ``number_lists`` makes of it."""
    return number_array(orjson.loads(text)["inputs"], text)


@given(
    st.one_of(arrays_of(NUMBERS), arrays_of(st.integers(0, 255)), arrays_of(st.floats(allow_nan=False, allow_infinity=False, width=32))),
    st.booleans(),
)
def test_the_values_are_those_of_the_long_way(lists: list[Any], has_spaces: bool) -> None:
    text = (json.dumps if has_spaces else lambda value: orjson.dumps(value).decode())({"inputs": lists}).encode() + PADDING
    expected = by_the_long_way(text)
    found = array_of_text(text)
    if found is None:
        assert expected is None or expected.dtype == np.int64 or b"." not in text
    elif expected is None:  # there are numbers beyond float32
        assert not np.isfinite(found).all()
    else:
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
        assert found.flags.writeable


@given(arrays_of(st.integers(0, 255)))
def test_bytes_are_read_here(lists: list[Any]) -> None:
    text = orjson.dumps({"inputs": lists}) + PADDING
    found = array_of_text(text)
    assert found is not None
    assert found.dtype == np.uint8
    assert found.tolist() == lists


@given(arrays_of(st.one_of(NUMBERS, ODD)))
def test_whatever_is_no_array_of_numbers_is_none(lists: list[Any]) -> None:
    text = orjson.dumps({"inputs": lists}) + PADDING
    found, expected = array_of_text(text), by_the_long_way(text)
    if found is None or (expected is None and not np.isfinite(found).all()):
        return
    assert expected is not None
    assert found.tobytes() == expected.tobytes()


NOT_READ = """
    [[1.5,2],[3]]  [[1.5,2],[3],[4,5,6]]  [[1.5],2]  [1.5,[2]]  [[0.5,[2]]]  [[[1.5],[2]],[[3]]]  [[1.5],[]]  1.5  {"x":1.5}
    [1.5,true]  [[1.5,false]]  [1.5,null]  [1.5,{}]  [[1.5],{}]  [1.5,99999999999999999999]
    [[1,2],[3]]  [[1],2]  [1,[2]]  [[1],[]]  [[],[1]]  [[],[]]  [[]]  []  1  {"x":1}  [1,true]  [1,null]  [1,{}]  [256]  [-1]  [1e2]
    [18446744073709551616]
"""
"""All but the objects and the negative number reach the parser."""


@pytest.mark.parametrize("text", [*NOT_READ.split(), *NO_ARRAYS.split()])
def test_what_is_left_to_the_long_way(text: str) -> None:
    assert array_of_text(f'{{"inputs":{text}}}'.encode() + PADDING) is None


MALFORMED = (
    "[1.5,]",
    "[1.5",
    "[1.5]]",
    "[01.5]",
    "[1.]",
    "[.5,1.5]",
    "[1.5,NaN]",
    "[1.5] 1",
    "[1.5,1e999]",
    "[1.5\x00]",
    "[+1.5]",
    "[1.5,-]",
)


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_text_is_left_to_who_says_what_is_wrong(text: str) -> None:
    assert array_of_text(f'{{"inputs":{text}}}'.encode() + PADDING) is None
    assert array_of_text(b'{"inputs":[0.5]}' + PADDING) is not None, "the parser can be used again"


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[0.5],"inputs":[1]}',
        b'{"instances":[0.5]}',
        b'\xef\xbb\xbf{"inputs":[0.5]}',
        b'{"inputs":["0.5"]}',
        b'[{"inputs":[0.5]}]',
    ],
)
def test_other_documents_are_left_to_the_long_way(body: bytes) -> None:
    assert array_of_text(body + PADDING) is None


def test_depth_is_bounded() -> None:
    for depth, is_read in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        found = array_of_text(b'{"inputs":' + b"[" * depth + b"1.5" + b"]" * depth + b"}" + PADDING)
        assert (found is not None) == is_read


@pytest.mark.parametrize("num_rows", [1, 30, 120])
def test_bodies_of_all_sizes_in_several_threads(num_rows: int) -> None:
    values = np.random.default_rng(num_rows).random((num_rows, 784)).astype(np.float32)
    body = orjson.dumps({"inputs": values.tolist()})
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.extend(array_of_text(body) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_read = len(body) in SIZES
    assert is_read == (num_rows < 120)
    assert (len(body) > KEPT_BYTES) == (num_rows > 1)
    assert [each is not None and np.array_equal(each, values) for each in found] == [is_read] * 80


def test_decoding_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = np.zeros((1, 500), np.float32)
    monkeypatch.setattr(prediction_bodies, "array_of_text", lambda _: made)
    body = orjson.dumps({"inputs": [[0.5] * 500]})
    assert decode_inputs(body, {"content-type": "application/json"}, columns=(), input_shape=(500,)) is made
