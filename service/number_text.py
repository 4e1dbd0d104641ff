"""The JSON text of nested lists of numbers becomes an array without a Python object for any of the numbers.

simdjson reads them into memory of its own and copies them out as machine numbers, which takes two thirds of the time of
``service.number_lists`` for fractions, a little less of it for bytes, and leaves the processor's caches to others. Only the form that
clients send is read here; whatever is out of the ordinary, an error too, is None, and left to the parsers that say what is wrong.
"""

import threading
from typing import Any

import numpy as np

from service.number_lists import MAX_DEPTH

try:
    import simdjson
except ImportError:  # it has wheels for fewer systems than we run on
    simdjson = None  # type: ignore[assignment]

BEGINNING = b'{"inputs":'
SIZES = range(2000, (1 << 20) + 1)
"""Bytes of the bodies that are read here: of few numbers nothing is gained, and the parser takes ten times as much as a body, in which it
reserves room for the worst."""
COUNTED_BYTES = 5000
"""Up to here Python counts a sign sooner than numpy."""
MAX_BYTE = 255
KEPT_BYTES = 64 * 1024
"""Bodies up to here share a thread's parser, whose memory stays."""

Array = np.ndarray[Any, Any]
_threads = threading.local()


def array_of_text(body: bytes) -> Array | None:
    """The numbers of ``{"inputs": …}``: float32 where there are fractions among them, else uint8; what float32 cannot hold is infinite.

    Returns:
        None where it may be anything else: other names, texts or values, lists of different lengths, whole numbers beyond 0 to 255, or
        text that is too short or too long.
    """
    if simdjson is None or len(body) not in SIZES or not body.startswith(BEGINNING) or body.find(b'"', len(BEGINNING)) >= 0:
        return None
    has_fractions = b"." in body
    if not has_fractions and b"-" in body:
        return None
    parser: Any = _kept_parser() if len(body) <= KEPT_BYTES else simdjson.Parser()
    try:
        lists = parser.parse(body)["inputs"]
        values = _fractions(lists) if has_fractions else _bytes(lists)
        if values is None or (shape := _shape(lists, body)) is None:
            return None
        return values.reshape(shape)
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError):
        return None


def _kept_parser() -> "simdjson.Parser":
    """The thread's; it may be used again as soon as nothing of the last document is left."""
    try:
        kept: simdjson.Parser = _threads.parser
    except AttributeError:
        kept = _threads.parser = simdjson.Parser()
    return kept


@np.errstate(over="ignore")
def _fractions(lists: Any) -> Array:
    return np.frombuffer(lists.as_buffer(of_type="d"), np.float64).astype(np.float32)


def _bytes(lists: Any) -> Array | None:
    values = np.frombuffer(lists.as_buffer(of_type="u"), np.uint64)
    return values.astype(np.uint8) if values.max() <= MAX_BYTE else None


def _shape(lists: Any, body: bytes) -> tuple[int, ...] | None:
    """How long the lists are at each depth, where all are equally long and none stands beside a number."""
    shape, level, num_lists = [len(lists)], [lists], 1
    while isinstance(level[0][0], simdjson.Array):
        level = [inner for outer in level for inner in outer]
        lengths = set(map(len, level))
        if len(lengths) > 1 or len(shape) == MAX_DEPTH:
            return None
        shape += lengths
        num_lists += len(level)
    num_brackets = np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")) if len(body) > COUNTED_BYTES else body.count(b"[")
    return tuple(shape) if num_brackets == num_lists else None
