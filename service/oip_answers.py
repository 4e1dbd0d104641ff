"""The answer to an inference: one JSON object and, behind it, the bytes of the outputs that were wanted as such."""

import struct
from dataclasses import dataclass

from clr.combination import EnsemblePrediction, RegressionPrediction
from service.errors import to_json
from service.oip import Array, Json, datatype_of, output_values
from service.oip_requests import InferenceRequest
from service.predictions import PART_VALUES


@dataclass(frozen=True)
class InferenceAnswer:
    """The body, and how much of it is JSON: None where all of it is."""

    body: bytes
    head_bytes: int | None


def inference_answer(
    request: InferenceRequest,
    prediction: EnsemblePrediction | RegressionPrediction,
    *,
    class_names: tuple[str, ...],
    model_name: str,
    model_version: int,
) -> InferenceAnswer:
    """The answer with the outputs of the request, in its order. For a thread where there are many numbers: it may take a second."""
    document: Json = {"model_name": model_name, "model_version": str(model_version)}
    if request.id is not None:
        document["id"] = request.id
    head, tail = [to_json(document)[:-1] + b',"outputs":['], list[bytes]()
    for index, (name, is_binary) in enumerate(request.outputs.items()):
        values = output_values(name, prediction, class_names)
        tensor: Json = {"name": name, "datatype": datatype_of(name), "shape": [len(values)]}
        if not isinstance(values, list):
            tensor["shape"] = list(values.shape)
        separator = b"," if index else b""
        if is_binary:
            tail.append(_texts(values) if isinstance(values, list) else values.astype("<f4", copy=False).tobytes())
            head.append(separator + to_json(tensor | {"parameters": {"binary_data_size": len(tail[-1])}}))
        else:
            head += [separator + to_json(tensor)[:-1] + b',"data":[', *_numbers(values), b"]}"]
    head.append(b"]}")
    return InferenceAnswer(b"".join([*head, *tail]), sum(map(len, head)) if tail else None)


def _texts(labels: list[str]) -> bytes:
    """BYTES in binary form: the length of each text in four bytes before it."""
    texts = {label: label.encode("utf-8", "backslashreplace") for label in set(labels)}
    packed = {label: struct.pack("<I", len(text)) + text for label, text in texts.items()}
    return b"".join(packed[label] for label in labels)


def _numbers(values: Array | list[str]) -> list[bytes]:
    """The values as the inside of a JSON list, a part at a time: orjson lets no other thread run while it writes."""
    flat = values if isinstance(values, list) else values.reshape(-1)
    parts = [to_json(flat[start : start + PART_VALUES])[1:-1] for start in range(0, len(flat), PART_VALUES)]
    return [b"," * bool(index) + part for index, part in enumerate(parts)]
