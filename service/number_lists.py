"""Nested lists of numbers, as orjson makes them, become an array in half of the time that numpy takes."""

import struct
from itertools import chain
from typing import Any

import numpy as np

MAX_DEPTH = 32
"""Of lists in lists."""

Array = np.ndarray[Any, Any]


def number_array(lists: list[Any], text: bytes) -> Array | None:
    """The numbers as uint8 where all are whole and fit, else as int64, or as float32, which all fractions are computed in.

    What float32 cannot hold is infinite in it.

    Args:
        lists: Equally long at each depth.
        text: The JSON that they were read from.

    Returns:
        None where they may be anything else: of different lengths, empty, beyond 64 bits, with true or false among them.
    """
    if _has_booleans(text):  # which struct takes for numbers
        return None
    shape, values = [len(lists)], lists
    try:
        while isinstance(values[0], list):
            lengths = set(map(len, values))
            if len(lengths) > 1 or len(shape) == MAX_DEPTH:
                return None
            shape += lengths
            values = list(chain.from_iterable(values))
        return _flat_array(values).reshape(shape)
    except (IndexError, TypeError, OverflowError, struct.error):
        return None


def _has_booleans(text: bytes) -> bool:
    """Whether true or false may stand in a text; to look for one letter first takes a thirtieth of the time."""
    return (b"r" in text and b"true" in text) or (b"f" in text and b"false" in text)


def _flat_array(values: list[Any]) -> Array:
    """In memory that may be written to, which torch asks for."""
    if isinstance(values[0], int):
        try:
            return np.frombuffer(bytearray(values), np.uint8)
        except (TypeError, ValueError):  # fractions among them, or beyond 0 to 255
            if not any(isinstance(value, float) for value in values):
                return _packed(values, "q", np.int64)
    return _packed(values, "f", np.float32)


def _packed(values: list[Any], letter: str, dtype: type[np.generic]) -> Array:
    room = bytearray(len(values) * np.dtype(dtype).itemsize)
    struct.pack_into(f"{len(values)}{letter}", room, 0, *values)
    return np.frombuffer(room, dtype)
