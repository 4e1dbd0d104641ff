"""The same image as each server wants it, and the probabilities as each server answers them."""

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

Image = np.ndarray[Any, Any]

PAYLOADS: dict[str, tuple[str, ...]] = {
    "json floats": ("snapcycle", "LitServe", "BentoML", "MLServer", "FastAPI", "null server"),
    "json ints": ("snapcycle", "LitServe", "BentoML", "MLServer", "FastAPI", "null server"),
    "bytes": ("snapcycle", "LitServe", "BentoML", "MLServer", "FastAPI", "null server"),
    "oip binary": ("snapcycle", "null server"),
}
"""Who takes what. Bytes are octet-stream for us and FastAPI, base64 within JSON for the three that take no raw bytes."""


@dataclass(frozen=True)
class Request:
    """A whole HTTP/1.1 request."""

    message: bytes


def requests(server: str, payload: str, image: Image, target: str) -> Request:
    """The request; ``target`` is our ensemble's id, or a peer's path where it has several for the same payload."""
    match server, payload:
        case "snapcycle", "bytes":
            headers = ("Content-Type: application/octet-stream", "X-Shape: 1,28,28", "X-Dtype: uint8")
            return _post(f"/v1/ensembles/{target}/predict", image.tobytes(), *headers)
        case (("snapcycle" | "null server"), "oip binary"):
            return _oip_binary(f"/v2/models/{target}/infer", image)
        case (("null server" | "FastAPI"), "bytes"):
            return _post("/predict_bytes", image.tobytes(), "Content-Type: application/octet-stream")
        case "LitServe", "bytes":
            return _json("/predict", {"image": base64.b64encode(image.tobytes()).decode()})
        case "BentoML", "bytes":
            return _json("/predict_bytes", {"images": [base64.b64encode(image.tobytes()).decode()]})
        case "MLServer", "bytes":
            encoded = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
            return _json("/v2/models/five/infer", {"inputs": [{**encoded, "data": [base64.b64encode(image.tobytes()).decode()]}]})
        case "MLServer", _:
            datatype = "FP32" if payload == "json floats" else "UINT8"
            tensor = {"name": "image", "shape": [1, 784], "datatype": datatype, "data": image.ravel().tolist()}
            return _json("/v2/models/five/infer", {"inputs": [tensor]})
        case "LitServe", _:
            return _json("/predict", {"input": image.tolist()})
        case "snapcycle", _:
            return _json(f"/v1/ensembles/{target}/predict", {"inputs": [image.tolist()]})
        case _:
            return _json(target, {"inputs": [image.tolist()]})


def probabilities(server: str, payload: str, body: bytes) -> Image:
    """The ten probabilities of an answer."""
    if server == "snapcycle" and payload == "oip binary":
        return _from_oip(body)
    document = json.loads(body)
    match server:
        case "snapcycle":
            return np.array(document["predictions"][0]["probabilities"])
        case "LitServe":
            return np.array(document["probabilities"])
        case "BentoML":
            return np.array(document[0])
        case "MLServer":
            return np.array(document["outputs"][0]["data"])
        case "FastAPI":
            return np.array(document["probabilities"][0])
        case _:
            raise ValueError(f"{server} predicts nothing")


def _json(path: str, document: Any) -> Request:
    return _post(path, json.dumps(document, separators=(",", ":")).encode(), "Content-Type: application/json")


def _post(path: str, body: bytes, *headers: str) -> Request:
    lines = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers, "", "")
    return Request("\r\n".join(lines).encode() + body)


def _oip_binary(path: str, image: Image) -> Request:
    """The Open Inference Protocol's binary tensor extension, both ways."""
    tensor = {"name": "input", "shape": [1, *image.shape], "datatype": "UINT8", "parameters": {"binary_data_size": image.nbytes}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}).encode()
    headers = ("Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {len(head)}")
    return _post(path, head + image.tobytes(), *headers)


def _from_oip(body: bytes) -> Image:
    """The last forty bytes are the ten probabilities."""
    return np.array(struct.unpack("<10f", body[-40:]))
