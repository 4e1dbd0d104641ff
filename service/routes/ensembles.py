"""Ensembles and their predictions."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from torch import Tensor

from clr.ensemble import Ensemble as LoadedEnsemble
from service.authorization import PrincipalDep
from service.dependencies import ServicesDep, StoreDep
from service.documents import chosen_ensemble_document, job_ensemble_document
from service.ensembles import Members, unknown_ensemble
from service.errors import invalid
from service.idempotency import IdempotencyKey, body_hash, once
from service.json_bodies import json_document, validated
from service.media import JPEG, JSON, NPY, OCTETS, PNG, negotiated
from service.openapi import json_body
from service.predict_limits import check_size
from service.prediction_bodies import decode_inputs
from service.predictions import prediction_array, prediction_json
from service.receiving import received_body
from service.request_schemas import EnsembleRequest, PredictQuery
from service.schemas import Ensemble, Prediction
from service.validation import FieldError, shown
from worker.ids import is_id, job_id_of_ensemble, new_id
from worker.job_store import JobStore
from worker.jobs import JobKind, now_rfc3339
from worker.records import ensemble_key, write_document

router = APIRouter(prefix="/v1/ensembles", tags=["ensembles"])

PICTURE = "One picture of the training data's size, grey or RGB; its pixels are taken as 0 to 255, as in training data of uint8."
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        "inputs": {"type": "array", "items": {}, "description": "Rows of the training data's shape."},
                        "instances": {"type": "array", "items": {"type": "object"}, "description": "For tables: {column: value} per row."},
                    },
                },
                "examples": {
                    "array": {"value": {"inputs": [[5.1, 3.5, 1.4, 0.2]]}},
                    "table": {"value": {"instances": [{"sepal_length": 5.1, "species": "setosa"}]}},
                },
            },
            NPY: {"schema": {"type": "string", "format": "binary", "description": "One array, as numpy.save writes it."}},
            OCTETS: {"schema": {"type": "string", "format": "binary", "description": "Little-endian values in row-major order."}},
            **{picture: {"schema": {"type": "string", "format": "binary", "description": PICTURE}} for picture in (PNG, JPEG)},
        },
    },
    "parameters": [
        {
            "name": "X-Shape",
            "in": "header",
            "schema": {"type": "string"},
            "description": "For raw bytes: rows first.",
            "example": "64,28,28",
        },
        {"name": "X-Dtype", "in": "header", "schema": {"type": "string"}, "description": "For raw bytes.", "example": "uint8"},
    ],
}
PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Prediction,
        "description": "By Accept: the whole answer, or the bare matrix of mean probabilities as npy.",
        "content": {NPY: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"X-Ensemble": {"schema": {"type": "string"}, "description": "Ensemble and version: ens_…@5."}},
    }
}


@router.post(
    "",
    status_code=201,
    summary="Choose snapshots for an ensemble",
    openapi_extra=json_body(EnsembleRequest, {"members": ["snap_01JDEADBEEF0000000000000000_0", "snap_01JDEADBEEF0000000000000000_1"]}),
)
def create(
    document: Annotated[Any, Depends(json_document)], response: Response, services: ServicesDep, store: StoreDep, key: IdempotencyKey = None
) -> Ensemble:
    """An ensemble of any snapshots that have the same task, classes and input shape. A train job has one of its own."""
    request = validated(EnsembleRequest, document)

    def make() -> str:
        ensemble_id = new_id("ens")
        snapshots = _chosen_snapshots(store, request.members)
        loaded = services.predictor.load(Members(ensemble_id, 1, snapshots))
        stored = {
            "id": ensemble_id,
            "tenant": services.tenant,
            "name": request.name,
            "metadata": request.metadata,
            "snapshots": snapshots,
            "described": _described(loaded),
            "created_at": now_rfc3339(),
        }
        write_document(services.artifacts, ensemble_key(ensemble_id), stored)
        return ensemble_id

    made = once(
        services.artifacts,
        "ensembles",
        key,
        body_hash(document),
        tenant=services.tenant,
        make=make,
        discard=lambda ensemble_id: services.artifacts.delete(ensemble_key(ensemble_id)),
    )
    response.headers["Location"] = f"/v1/ensembles/{made.id}"
    if made.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    stored = services.ensembles.chosen(made.id)
    assert stored is not None, "it was made before its key was recorded, and is never deleted"
    return chosen_ensemble_document(stored)


@router.get("/{ensemble_id}", summary="Get an ensemble")
def get_one(ensemble_id: str, services: ServicesDep, store: StoreDep) -> Ensemble:
    """Its members, and its metrics after each of them. An alias stands for the id wherever there is one."""
    ensemble_id = services.ensembles.resolve(ensemble_id)
    if not is_id("ens", ensemble_id):
        raise unknown_ensemble(ensemble_id)
    job_id = job_id_of_ensemble(ensemble_id)
    if (record := store.get(job_id)) is not None and record.kind is JobKind.TRAIN:
        return job_ensemble_document(record, store.snapshots(job_id), services.datasets.load(record.dataset_id))
    if (stored := services.ensembles.chosen(ensemble_id)) is not None:
        return chosen_ensemble_document(stored)
    raise unknown_ensemble(ensemble_id)


@router.post("/{ensemble_id}/predict", summary="Predict", openapi_extra=PREDICT_BODY, responses=PREDICT_RESPONSES)
async def predict(
    ensemble_id: str, request: Request, query: Annotated[PredictQuery, Query()], services: ServicesDep, principal: PrincipalDep
) -> Response:
    """The mean of the members' probabilities for each row, with its uncertainty; for a regression mean and spread.

    A job's ensemble answers from its first snapshot on, and grows with each.
    """
    begun = time.perf_counter()
    media_type = negotiated(request.headers.get("accept"), (JSON, NPY))
    if media_type == NPY and (query.members or query.top_k is not None):
        raise invalid([FieldError("is for JSON answers, and Accept asks for npy", parameter="members" if query.members else "top_k")])
    stall_seconds = services.settings.body_stall_seconds
    async with received_body(request, principal, services.bodies, grace_seconds=stall_seconds) as body:
        with services.predictor.admitted():
            members = await services.ensembles.find_soon(ensemble_id, query.version)

            def prepare() -> tuple[LoadedEnsemble, Tensor]:
                ensemble = services.predictor.load(members)
                inputs = decode_inputs(body, request.headers, columns=ensemble.columns, input_shape=ensemble.input_shape)
                check_size(inputs, ensemble, with_members=query.members, settings=services.settings)
                return ensemble, ensemble.checked(inputs)

            ensemble, rows = await run_in_threadpool(prepare)
            timed = await services.predictor.predict(ensemble, rows, with_members=query.members)
            if media_type == NPY:
                pieces = [await run_in_threadpool(prediction_array, timed)]
            else:
                pieces = await run_in_threadpool(prediction_json, members, ensemble, timed, query, begun=begun)
    headers = {"X-Ensemble": members.origin, "Content-Length": str(sum(map(len, pieces)))}
    return StreamingResponse(_each(pieces), media_type=media_type, headers=headers)


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    """One after the other: to copy a large answer into one would hold up every other request."""
    for piece in pieces:
        yield piece


def _chosen_snapshots(store: JobStore, members: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    found = [store.snapshot(member) for member in members]
    errors = [
        FieldError(f"there is no snapshot {shown(member)}", pointer=f"#/members/{index}", hint="GET /v1/jobs/{id}/snapshots lists a job's")
        for index, (member, manifest) in enumerate(zip(members, found, strict=True))
        if manifest is None
    ]
    errors += [
        FieldError(f"{shown(member)} stands twice", pointer=f"#/members/{index}", hint="name each snapshot once")
        for index, member in enumerate(members)
        if member in members[:index]
    ]
    if errors:
        raise invalid(errors[:50])
    return tuple(manifest for manifest in found if manifest is not None)


def _described(ensemble: LoadedEnsemble) -> dict[str, Any]:
    return {
        "task": ensemble.task,
        "input_shape": list(ensemble.input_shape),
        "class_names": list(ensemble.class_names),
        "columns": [column.name for column in ensemble.columns],
    }
