"""Strict JSON: what two parsers could read differently is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Problem
from service.json_bodies import MAX_DEPTH, decode_json


def refusal(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        decode_json(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "empty"),
        (b"{", "line 1, column 2"),
        (b"{} {}", "Extra data"),
        (b'{"a":\n nope}', "line 2, column 2"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'{"a": 1, "a": 2}', 'key "a" stands twice'),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ("{}".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\\ud800"}', "#/a has half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a": "tab\tinside"}', "Invalid control character"),
        (b"9" * 5000, "4300 digits"),
        (b"[" * 10_000, "levels"),
        (b"[" * 10_000 + b"]" * 10_000, "levels"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "levels"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "levels"),
    ],
)
def test_malformed_json_is_refused_with_its_place(body: bytes, part: str) -> None:
    problem = refusal(body)
    assert problem.code == "malformed_json"
    assert part in problem.detail


def test_number_beyond_float64_is_named_by_its_pointer() -> None:
    problem = refusal(b'{"a": [1, 1e999]}')
    assert problem.code == "validation_error"
    assert problem.errors[0].pointer == "#/a/1"


def test_surrogate_pair_is_one_character() -> None:
    assert decode_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_deepest_allowed_document_is_read() -> None:
    assert decode_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(documents)
def test_every_json_document_is_read_as_the_json_module_reads_it(document: object) -> None:
    assert decode_json(json.dumps(document).encode()) == document


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    refusal = None
    try:
        decode_json(body)
    except Problem as problem:
        refusal = problem
    assert refusal is None or refusal.kind.status in (400, 422)
