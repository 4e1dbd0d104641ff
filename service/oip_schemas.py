"""What the paths of the Open Inference Protocol take and answer, for the OpenAPI document."""

from typing import Any

from pydantic import Field

from service.media import JSON, OCTETS
from service.oip_requests import HEAD_LENGTH
from service.schemas import Document, Json


class InferenceServer(Document):
    """Metadata of the server."""

    name: str
    version: str = Field(description="Of snapcycle.")
    extensions: list[str] = Field(description="What the server knows beside the protocol: binary_tensor_data.")


class ServerLive(Document):
    """Liveness."""

    live: bool = Field(description="Whether the process answers.")


class ServerReady(Document):
    """Readiness."""

    ready: bool = Field(description="Whether predictions can be asked for.")


class ModelReady(ServerReady):
    """Readiness of a model: its weights are in memory."""

    name: str


class TensorDescription(Document):
    """An input or output."""

    name: str
    datatype: str = Field(description="Of its values: FP32, or BYTES for texts. Inputs may also have another one.")
    shape: list[int] = Field(description="Length of each axis, rows first; -1 stands for any.")


class InferenceModel(Document):
    """Metadata of an ensemble as a model."""

    name: str = Field(description="The id or alias of the path.")
    versions: list[str] = Field(description="The versions that can be asked for; the last is the latest.")
    platform: str = Field(description="What runs it.")
    inputs: list[TensorDescription] = Field(description="The one input: the rows.")
    outputs: list[TensorDescription] = Field(description="What it answers; members only where it is asked for by name.")


class InferenceTensor(Document):
    """An output of an inference."""

    name: str
    datatype: str = Field(description="FP32, or BYTES for texts.")
    shape: list[int] = Field(description="Length of each axis, rows first.")
    data: list[Any] = Field([], description="The values in row-major order; left out where they follow as bytes.")
    parameters: Json = Field({}, description="binary_data_size: how many bytes of the rest are this tensor's.")


class Inference(Document):
    """The answer to an inference."""

    id: str = Field("", description="As the request gave it; left out where it gave none.")
    model_name: str = Field(description="The id or alias of the path.")
    model_version: str = Field(description="The version that has answered.")
    outputs: list[InferenceTensor] = Field(description="In the order of the request.")


_EXAMPLE = {
    "id": "42",
    "inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2, 6.2, 2.9, 4.3, 1.3]}],
    "outputs": [{"name": "probabilities"}],
}
_PARAMETERS: Json = {"type": "object", "description": "See the protocol's binary tensor data extension."}


def _objects(required: list[str], **properties: Json) -> Json:
    """A list of objects without further names."""
    items = {"type": "object", "additionalProperties": False, "required": required, "properties": properties}
    return {"type": "array", "items": items}


INFER_BODY: Json = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string", "description": "Sent back as it is."},
                        "parameters": {**_PARAMETERS, "properties": {"binary_data_output": {"type": "boolean"}}},
                        "inputs": _objects(
                            ["name", "shape", "datatype"],
                            name={"type": "string", "const": "input"},
                            shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
                            datatype={"type": "string"},
                            data={"type": "array", "items": {}},
                            parameters={**_PARAMETERS, "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
                        ),
                        "outputs": _objects(
                            ["name"],
                            name={"type": "string"},
                            parameters={**_PARAMETERS, "properties": {"binary_data": {"type": "boolean"}}},
                        ),
                    },
                },
                "example": _EXAMPLE,
            },
            OCTETS: {"schema": {"type": "string", "format": "binary", "description": "The JSON object, then the tensor's bytes."}},
        },
    },
    "parameters": [
        {
            "name": HEAD_LENGTH,
            "in": "header",
            "schema": {"type": "string"},
            "description": "Length of the JSON object where bytes follow it.",
            "example": "148",
        },
    ],
}
INFER_RESPONSES: dict[int | str, Json] = {
    200: {
        "model": Inference,
        "description": "JSON, or JSON and the bytes of the outputs that were asked for as such.",
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "X-Ensemble": {"schema": {"type": "string"}, "description": "Ensemble and version: ens_…@5."},
            HEAD_LENGTH: {"schema": {"type": "string"}, "description": "Length of the JSON object where bytes follow it."},
        },
    }
}
