"""The body of a prediction becomes one array, or a table's rows; pydantic never walks the numbers.

Five forms: JSON ``inputs``, JSON ``instances``, ``application/x-npy``, raw bytes with ``X-Shape`` and ``X-Dtype``, one picture. Whether the
rows fit is the ensemble's business (``clr.ensemble``), but for pictures, and columns by name, which become an array there as well.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from clr.errors import DatasetError
from clr.npy import read_npy
from clr.tables import encode_instances
from service import media
from service.errors import Problem, invalid_field
from service.images import read_image
from service.json_bodies import JsonBudget, decode_json
from service.number_lists import number_array
from service.number_text import array_of_text
from service.validation import FieldError, shown, similar

CONTENT_TYPES = (media.JSON, media.NPY, media.OCTETS, media.PNG, media.JPEG)
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "bool")

INPUTS = JsonBudget(values=4_000_000, containers=500_000, texts=2_000_000)
"""Numbers as JSON take a second or two up to here, in which other requests wait for a moment at a time; npy takes a hundredth."""

_SHAPE = re.compile(r"\s*\d{1,18}\s*(,\s*\d{1,18}\s*){0,7}")


def decode_inputs(body: bytes, headers: Mapping[str, str], *, columns: Sequence[Any], input_shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """The rows of a prediction.

    Args:
        body: The whole body.
        headers: The request's headers, by lower-case name.
        columns: The ensemble's columns (``clr.tables``); empty where it was not trained on a table.
        input_shape: The shape of its rows.

    Raises:
        Problem: The body is of no known type, malformed, or not an array of numbers.
        InputError, NpyError: As ``clr`` finds.
    """
    match headers.get("content-type", "").partition(";")[0].strip().lower():
        case media.JSON:
            return _from_json(body, columns)
        case media.NPY:
            return read_npy(body)
        case media.OCTETS:
            return _from_octets(body, headers)
        case (media.PNG | media.JPEG) as picture:
            return read_image(body, picture, input_shape)
        case other:
            raise Problem(
                "unsupported_media_type",
                f"Content-Type must be one of {', '.join(CONTENT_TYPES)}, got {shown(other) if other else 'none'}: set the header",
            )


def _from_json(body: bytes, columns: Sequence[Any]) -> np.ndarray[Any, Any]:
    INPUTS.check(body)
    if (array := array_of_text(body)) is not None:
        return array
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = decode_json(body, INPUTS)  # says what is wrong, or reads what only orjson refuses
    known = ("inputs", "instances")
    if not isinstance(document, dict):
        raise invalid_field(f"must be a JSON object, got {shown(document)}", pointer="#", hint='send {"inputs": [[…], …]}')
    unknown = next((name for name in document if name not in known), None)
    if unknown is not None:
        hint = f"did you mean {similar(unknown, known)[0]}?" if similar(unknown, known) else "use inputs or instances"
        raise invalid_field(f"unknown field {shown(unknown)}", pointer=f"#/{unknown}", hint=hint)
    if len(document) != 1:
        raise invalid_field(f"needs exactly one of inputs and instances, got {len(document)}", pointer="#", hint="inputs for arrays")
    if "instances" in document:
        return _from_instances(decode_json(body, INPUTS)["instances"], columns)
    if _has_one_text(body):
        array = number_array(document["inputs"], body) if isinstance(document["inputs"], list) else None
        return array if array is not None else _from_lists(document["inputs"], has_texts=False)
    if body.count(b'"inputs"') != 1 or b"\\" in body:  # perhaps a repeated key, which orjson passes over
        document = decode_json(body, INPUTS)
    return _from_lists(document["inputs"], has_texts=True)


def _has_one_text(body: bytes) -> bool:
    """Whether the document, which has a name, has no second text: no other name, and none among the numbers."""
    return body.find(b'"', body.find(b'"', body.find(b'"') + 1) + 1) < 0


def _from_lists(inputs: Any, *, has_texts: bool) -> np.ndarray[Any, Any]:
    """Nested lists of numbers as an array; texts among them, to each of which numpy would give the room of the longest, are no numbers."""
    try:
        array = np.array(inputs) if isinstance(inputs, list) and not has_texts else None
    except (ValueError, OverflowError, RecursionError):
        array = None  # ragged
    if array is None or array.dtype.kind not in "iuf" or array.ndim == 0:
        raise invalid_field(
            f"must be a list of rows, equally long lists of numbers, got {_trouble(inputs)}", pointer="#/inputs", hint="one row: [[…]]"
        )
    return array


def _trouble(inputs: Any) -> str:
    """What is not a number, or that the lists are not equally long."""
    if not isinstance(inputs, list):
        return shown(inputs)
    stack = [inputs]
    while stack:
        for item in stack.pop():
            if isinstance(item, list):
                stack.append(item)
            elif isinstance(item, bool) or not isinstance(item, int | float):
                return shown(item)
    return "lists of different lengths, or numbers beyond 64 bits"


def _from_instances(instances: Any, columns: Sequence[Any]) -> np.ndarray[Any, Any]:
    if not columns:
        raise invalid_field("this ensemble was trained on arrays, which have no columns", pointer="#/instances", hint="send inputs")
    if not isinstance(instances, list) or not instances or not all(isinstance(row, dict) for row in instances):
        raise invalid_field("must be a list of objects {column: value}, one for each row", pointer="#/instances")
    try:
        return encode_instances(columns, instances)
    except DatasetError as error:
        raise Problem("shape_mismatch", str(error), errors=[FieldError(str(error), pointer=error.pointer)]) from error


def _from_octets(body: bytes, headers: Mapping[str, str]) -> np.ndarray[Any, Any]:
    """Raw little-endian values in row-major order."""
    shape_text, dtype_text = headers.get("x-shape", ""), headers.get("x-dtype", "")
    shape, dtype, expected = _described(shape_text, dtype_text)
    if expected != len(body):
        raise invalid_field(
            f"shape {shape} of {dtype_text} takes {expected} bytes, but the body has {len(body)}",
            parameter="X-Shape",
            hint="correct X-Shape or X-Dtype",
        )
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


@lru_cache(maxsize=256)
def _described(shape_text: str, dtype_text: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type that the headers give, and how many bytes that takes; they are the same in most requests."""
    if not _SHAPE.fullmatch(shape_text):
        raise invalid_field(
            f"must be up to eight whole numbers, got {shown(shape_text)}", parameter="X-Shape", hint="rows first, such as 64,28,28"
        )
    if dtype_text not in DTYPES:
        raise invalid_field(f"must be one of {', '.join(DTYPES)}, got {shown(dtype_text)}", parameter="X-Dtype")
    shape = tuple(int(size) for size in shape_text.split(","))
    dtype = np.dtype(dtype_text).newbyteorder("<")
    return shape, dtype, math.prod(shape) * dtype.itemsize
