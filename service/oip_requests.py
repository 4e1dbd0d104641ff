"""The body of an inference: a JSON object and, behind it, the bytes of its tensor; pydantic never walks the numbers.

Everything is checked against the shape that the ensemble takes before anything is made of it, so no size that a client writes decides
how much memory is used. Parameters that are not known here are refused: each of them would change the answer where it is known.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.datastructures import Headers

from service import media
from service.errors import Problem, invalid, invalid_field
from service.json_bodies import JsonBudget, decode_json
from service.number_lists import number_array
from service.oip import DATATYPES, INPUT, MEMBERS, Array, Json
from service.validation import FieldError, pointer_to, shown, similar

HEAD_LENGTH = "Inference-Header-Content-Length"
INPUTS = JsonBudget(values=4_000_000, containers=500_000, texts=10_000)
"""As for predictions in JSON; there are fewer texts, since no tensor here has any."""

CONTENT_TYPES = ("", media.JSON, media.OCTETS)
"""Triton's client names none."""

_DIGITS = re.compile(r"[0-9]{1,18}")
_NAMED_LEVELS = 4
"""Depth of the deepest known name: request, tensor, its parameters, the parameter."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """What was asked.

    Attributes:
        id: The client's own name for the request, sent back with the answer.
        inputs: The rows, in the machine's byte order.
        outputs: Whether each output is wanted as bytes, by name, in the order of the answer.
    """

    id: str | None
    inputs: Array
    outputs: Mapping[str, bool]

    @property
    def with_members(self) -> bool:
        """Whether each member's answer is wanted."""
        return MEMBERS in self.outputs


def read_inference(body: bytes, headers: Headers, *, input_shape: tuple[int, ...], outputs: Sequence[str]) -> InferenceRequest:
    """The request of a body.

    Args:
        body: All of it, uncompressed.
        headers: The request's.
        input_shape: The shape of a row.
        outputs: The names of what the model can answer.

    Raises:
        Problem: The body is malformed, or is no request that this model can answer.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in CONTENT_TYPES:
        raise Problem("unsupported_media_type", f"Content-Type must be {media.JSON} or {media.OCTETS}, got {shown(content_type)}: set it")
    head_bytes = _head_bytes(headers, len(body))
    document = _document(body[:head_bytes])
    request = _object(document, (), ("id", "parameters", "inputs", "outputs"))
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise _wrong(f"must be a text, got {shown(request_id)}", "id", hint="it is sent back as it is")
    all_binary = _parameter(request, (), "binary_data_output", bool) or False
    return InferenceRequest(
        id=request_id,
        inputs=_input(request.get("inputs"), body, head_bytes, input_shape),
        outputs=_outputs(request.get("outputs"), outputs, all_binary=all_binary),
    )


def _head_bytes(headers: Headers, body_bytes: int) -> int:
    """The length of the JSON object; it is the whole body where no header says otherwise."""
    given = headers.getlist(HEAD_LENGTH)
    if not given:
        return body_bytes
    if len(given) != 1 or not _DIGITS.fullmatch(given[0]) or not 1 <= int(given[0]) <= body_bytes:
        raise invalid_field(
            f"must be the length of the JSON object, from 1 to the body's {body_bytes} bytes, got {shown(', '.join(given))}",
            parameter=HEAD_LENGTH,
            hint="leave it out where the body is JSON alone",
        )
    return int(given[0])


def _document(head: bytes) -> Any:
    """The JSON object, read strictly: names that stand twice, and texts within data, leave more signs than the names and texts found."""
    INPUTS.check(head)
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError:
        return _without_texts(decode_json(head, INPUTS))  # says what is wrong, or reads what only orjson refuses
    names, texts = _named(document)
    if head.count(b":") == names and head.count(b'"') == 2 * (names + texts):
        return document
    return _without_texts(decode_json(head, INPUTS))


def _named(value: Any, levels: int = _NAMED_LEVELS) -> tuple[int, int]:
    """How many names the objects of a document have, and how many texts; lists that begin with something else are not looked into."""
    match value:
        case dict() if levels:
            found = [_named(item, levels - 1) for item in value.values()]
            return len(value) + sum(names for names, _ in found), sum(texts for _, texts in found)
        case [dict(), *_] if levels:
            found = [_named(item, levels) for item in value if isinstance(item, dict)]
            return sum(names for names, _ in found), sum(texts for _, texts in found)
        case str():
            return 0, 1
    return 0, 0


def _without_texts(document: Any) -> Any:
    """The document, whose data holds no texts: numpy would give every number as much room as the longest of them takes."""
    tensors = document.get("inputs") if isinstance(document, dict) else None
    for index, tensor in enumerate(tensors if isinstance(tensors, list) else ()):
        stack = [tensor.get("data")] if isinstance(tensor, dict) else []
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack.extend(value)
            elif isinstance(value, str | dict):
                raise _wrong(f"must be numbers, got {shown(value)}", "inputs", index, "data")
    return document


def _input(tensors: Any, body: bytes, head_bytes: int, input_shape: tuple[int, ...]) -> Array:
    if not isinstance(tensors, list) or len(tensors) != 1:
        found = f"{len(tensors)} tensors" if isinstance(tensors, list) else shown(tensors)
        raise _wrong(f"must be a list of one tensor, {INPUT!r}, got {found}", "inputs")
    path: Path = ("inputs", 0)
    tensor = _object(tensors[0], path, ("name", "shape", "datatype", "parameters", "data"))
    if tensor.get("name") != INPUT:
        raise _wrong(f"the model's only input is {INPUT!r}, got {shown(tensor.get('name'))}", *path, "name", hint="its metadata names it")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise _wrong(f"must be one of {', '.join(DATATYPES)}, got {shown(datatype)}", *path, "datatype")
    num_rows = _num_rows(tensor.get("shape"), input_shape, path)
    num_bytes = _parameter(tensor, path, "binary_data_size", int)
    shape, tail = (num_rows, *input_shape), memoryview(body)[head_bytes:]
    if (num_bytes is None) is ("data" not in tensor):
        found = "neither" if num_bytes is None else "both"
        raise _wrong(f"needs exactly one of data and the parameter binary_data_size, got {found}", *path, hint="data for JSON")
    if num_bytes is not None:
        return _from_bytes(tail, num_bytes, datatype, shape)
    if tail:
        raise _wrong(f"{len(tail)} bytes follow the JSON object, but no tensor has the parameter binary_data_size", *path, "parameters")
    data = tensor["data"]
    takes_float32 = datatype != "FP16"  # which would be rounded twice
    numbers = number_array(data, body[:head_bytes]) if isinstance(data, list) and takes_float32 else None
    return _from_json(data, numbers, datatype, shape)


def _num_rows(shape: Any, input_shape: tuple[int, ...], path: Path) -> int:
    """The first number of a shape that fits; none of the others can be anything else than the ensemble's."""
    is_shape = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**63 for size in shape)
    if not is_shape or tuple(shape[1:]) != input_shape or not shape:
        expected = f"[rows, {', '.join(map(str, input_shape))}]"
        detail = f"the shape must be {expected}, got {shown(shape)}: reshape the rows"
        raise Problem("shape_mismatch", detail, errors=[FieldError(detail, pointer=pointer_to((*path, "shape")))])
    return int(shape[0])


def _from_bytes(tail: memoryview, num_bytes: int, datatype: str, shape: tuple[int, ...]) -> Array:
    """A view of the body's bytes, or a copy in the machine's byte order where that is another."""
    dtype = DATATYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    place: Path = ("inputs", 0, "parameters", "binary_data_size")
    if num_bytes != expected:
        raise _wrong(f"shape {list(shape)} of {datatype} takes {expected} bytes, got {num_bytes}", *place)
    if len(tail) != num_bytes:
        raise _wrong(f"the tensor takes {num_bytes} bytes, but {len(tail)} follow the JSON object", *place, hint=f"see {HEAD_LENGTH}")
    if dtype.kind == "b" and num_bytes and np.frombuffer(tail, np.uint8).max() > 1:
        raise _wrong("BOOL takes bytes of 0 and 1, got others", "inputs", 0, "datatype", hint="use UINT8")
    return np.frombuffer(tail, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _from_json(data: Any, numbers: Array | None, datatype: str, shape: tuple[int, ...]) -> Array:
    """The numbers of a list, which is flat or nested as the shape is; ``numbers`` where they are known to be nothing else."""
    try:
        array = np.array(data) if numbers is None and isinstance(data, list) else numbers
    except (ValueError, OverflowError, RecursionError):
        array = None  # ragged
    place: Path = ("inputs", 0, "data")
    if array is None or array.dtype.kind not in "biuf":
        raise _wrong("must be numbers in one list, or in lists nested as the shape is; all of 64 bits at most", *place)
    count = math.prod(shape)
    if array.shape not in ((count,), shape):
        raise _wrong(f"shape {list(shape)} takes {count} numbers, got the shape {list(array.shape)}", *place)
    dtype = DATATYPES[datatype].newbyteorder("=")
    kinds = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if count and (array.dtype.kind not in kinds or (dtype.kind != "b" and numbers is None and _has_booleans(data))):
        expected = {"b": "true and false", "f": "numbers"}.get(dtype.kind, "whole numbers")
        raise _wrong(f"{datatype} takes {expected}, got others", *place)
    if count and dtype.kind in "iu" and not np.iinfo(dtype).min <= int(array.min()) <= int(array.max()) <= np.iinfo(dtype).max:
        raise _wrong(f"{datatype} takes {np.iinfo(dtype).min} to {np.iinfo(dtype).max}, got {array.min()} to {array.max()}", *place)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return array.reshape(shape).astype(dtype, copy=False)


def _has_booleans(data: list[Any]) -> bool:
    """Whether some of the values are no numbers: numpy makes 1 of true where numbers stand beside it."""
    kinds = set(map(type, data))
    return bool in kinds or (list in kinds and any(map(_has_booleans, data)))


def _outputs(wanted: Any, known: Sequence[str], *, all_binary: bool) -> Mapping[str, bool]:
    if wanted is None or wanted == []:
        return {name: all_binary for name in known if name != MEMBERS}
    if not isinstance(wanted, list):
        raise _wrong(f"must be a list of objects with a name, got {shown(wanted)}", "outputs", hint="leave it out for all but members")
    found: dict[str, bool] = {}
    for index, item in enumerate(wanted):
        path: Path = ("outputs", index)
        output = _object(item, path, ("name", "parameters"))
        name = output.get("name")
        if not isinstance(name, str) or name not in known:
            close = similar(name, known) if isinstance(name, str) else ()
            detail = f"the model has the outputs {', '.join(known)}, got {shown(name)}"
            raise invalid([FieldError(detail, pointer=pointer_to((*path, "name")), did_you_mean=close)])
        if name in found:
            raise _wrong(f"{shown(name)} stands twice", *path, "name", hint="name each output once")
        is_binary = _parameter(output, path, "binary_data", bool)
        found[name] = all_binary if is_binary is None else is_binary
    return found


def _object(value: Any, path: Path, known: Sequence[str]) -> Json:
    """An object without other names than the known ones."""
    if not isinstance(value, dict):
        raise _wrong(f"must be a JSON object, got {shown(value)}", *path)
    for name in value:
        if name not in known:
            hint = f"remove it, or use one of: {', '.join(known)}"
            error = FieldError(f"unknown field {shown(name)}", pointer_to((*path, name)), hint=hint, did_you_mean=similar(name, known))
            raise invalid([error])
    return value


def _parameter(owner: Json, path: Path, name: str, kind: type[bool] | type[int]) -> Any:
    """The one parameter that an object may have; None where it has not."""
    parameters = _object(owner.get("parameters", {}), (*path, "parameters"), (name,))
    value = parameters.get(name)
    if name in parameters and (type(value) is not kind or value < 0):
        expected = "true or false" if kind is bool else "a number of bytes"
        raise _wrong(f"must be {expected}, got {shown(value)}", *path, "parameters", name)
    return value


def _wrong(detail: str, *path: str | int, hint: str | None = None) -> Problem:
    return invalid_field(detail, pointer=pointer_to(path), hint=hint)
