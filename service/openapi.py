"""The OpenAPI document: FastAPI's own, completed by the bodies that the routes read themselves."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.field_descriptions import describe_fields
from service.key_schemas import ApiKeyRequest
from service.output_schemas import RangeTestOutput, TrainOutput
from service.request_schemas import (
    AliasRequest,
    BuiltinDatasetRequest,
    EnsembleRequest,
    ExtendRequest,
    NoFields,
    SchedulePreviewRequest,
    StopRequest,
)
from service.schemas import Event, Prediction, ProblemDocument
from service.study_schemas import StudyOutput
from worker.job_requests import REQUESTS

REF = "#/components/schemas/{model}"
HAND_READ = (
    *REQUESTS.values(),
    BuiltinDatasetRequest,
    SchedulePreviewRequest,
    StopRequest,
    ExtendRequest,
    NoFields,
    EnsembleRequest,
    AliasRequest,
    ApiKeyRequest,
)
HAND_WRITTEN = (Prediction, ProblemDocument, Event, TrainOutput, RangeTestOutput, StudyOutput)

Json = dict[str, Any]

SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service asks for one."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def json_body(model: type[BaseModel], example: Json, *, required: bool = True) -> Json:
    """``openapi_extra`` of a route that reads its JSON body itself."""
    return {"requestBody": {"required": required, "content": {"application/json": media(model, example)}}}


def json_bodies(models: Mapping[str, type[BaseModel]], discriminator: str, examples: Mapping[str, Json]) -> Json:
    """As ``json_body``, for a body that is one of several models, by the value of one field."""
    choice = {"propertyName": discriminator, "mapping": {tag: REF.format(model=model.__name__) for tag, model in models.items()}}
    content = {
        "schema": {"oneOf": [reference(model) for model in models.values()], "discriminator": choice},
        "examples": {tag: {"value": example} for tag, example in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def media(model: type[BaseModel], example: Json) -> Json:
    """A media type's entry: schema and example."""
    return {"schema": reference(model), "example": example}


def reference(model: type[BaseModel]) -> Json:
    """The reference to a schema of the document."""
    return {"$ref": REF.format(model=model.__name__)}


def problem_responses() -> dict[int | str, Json]:
    """What every path can answer besides its own."""
    content = {"application/problem+json": {"schema": reference(ProblemDocument)}}
    return {
        "4XX": {"description": "The request cannot be carried out; the problem says why and what to do.", "content": content},
        "503": {
            "description": "Storage is away or overloaded; the same request can succeed later.",
            "content": content,
            "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}},
        },
    }


def install_openapi(app: FastAPI) -> None:
    """Makes ``app.openapi()`` describe the whole API."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
            )
            inputs = models_json_schema([(model, "validation") for model in HAND_READ], ref_template=REF)[1]
            outputs = models_json_schema([(model, "serialization") for model in HAND_WRITTEN], ref_template=REF)[1]
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            document["components"]["schemas"] = {**inputs.get("$defs", {}), **outputs.get("$defs", {}), **schemas}
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
            document["security"] = [*({name: []} for name in SECURITY_SCHEMES), {}]
            describe_fields(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents
