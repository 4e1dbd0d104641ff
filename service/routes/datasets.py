"""Datasets: uploads, built-in ones, and what is known of them."""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from clr.datasets import Dataset as LoadedDataset
from clr.datasets import builtin_names, load_builtin, load_csv, load_npz, save_dataset, summarize
from service.authorization import PrincipalDep
from service.dependencies import Services, ServicesDep, StoreDep
from service.documents import dataset_document, list_bounds
from service.errors import Problem, invalid_field
from service.idempotency import IdempotencyKey, Made, body_hash, once, was_made
from service.json_bodies import decode_json, json_document, validated
from service.openapi import media
from service.quotas import check_dataset_quota, dataset_quota
from service.request_schemas import BuiltinDatasetRequest, DatasetQuery, UploadFields
from service.schemas import Dataset, DatasetPage, DatasetPreview
from service.upload_admission import DatasetQuota
from service.uploads import Upload, receive_upload, uploads_directory
from service.validation import shown, similar
from worker.ids import new_id

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

PREVIEW_ROWS = 5

Json = dict[str, Any]


@dataclass(frozen=True)
class DatasetRequest:
    """A dataset to make, with a directory to make it in."""

    content: Upload | BuiltinDatasetRequest
    directory: Path


async def dataset_request(request: Request, services: ServicesDep, principal: PrincipalDep) -> AsyncIterator[DatasetRequest]:
    """The form or JSON body; its files are gone after the request.

    Raises:
        Problem: There are too many uploads already, there is no room for this one, or the body is malformed.
    """
    parent = uploads_directory(services.settings.staging_dir)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        with tempfile.TemporaryDirectory(dir=parent) as directory:
            yield DatasetRequest(validated(BuiltinDatasetRequest, await json_document(request)), Path(directory))
        return
    quota = await run_in_threadpool(_quota, services, request.headers.get("idempotency-key"))
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else None
    with services.uploads.admitted(principal, length, quota, parent) as note, tempfile.TemporaryDirectory(dir=parent) as directory:
        yield DatasetRequest(await receive_upload(request, Path(directory), note), Path(directory))


def _quota(services: Services, key: str | None) -> DatasetQuota | None:
    """What an upload may add to; None for one that was made before under its Idempotency-Key, and is only answered again."""
    exists = services.datasets.get
    if key is not None and was_made(
        services.artifacts, "datasets", key, tenant=services.tenant, exists=lambda each: exists(each) is not None
    ):
        return None
    return dataset_quota(services)


FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "A .npz with x and y (and x_test, y_test), or a .csv."},
        "name": {"type": "string", "maxLength": 200},
        "task": {"enum": ["classification", "regression"]},
        "target": {"type": "string", "description": "For .csv: the column to predict."},
        "metadata": {"type": "string", "description": "A JSON object of texts."},
    },
    "additionalProperties": False,
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FORM},
            "application/json": media(BuiltinDatasetRequest, {"source": {"type": "builtin", "name": "digits"}}),
        },
    }
}


@router.post("", status_code=201, summary="Make a dataset", openapi_extra=BODY)
async def create(
    request: Annotated[DatasetRequest, Depends(dataset_request)], response: Response, services: ServicesDep, key: IdempotencyKey = None
) -> Dataset:
    """Reads a .npz or .csv file, or takes a built-in dataset. What cannot be trained on is refused here, and nothing is kept of it."""
    # The limiter's own threads: uploads that wait for their turn must not keep other requests from theirs.
    made, dataset = await to_thread.run_sync(_make, request, services, key, limiter=services.parsing)
    response.headers["Location"] = f"/v1/datasets/{made.id}"
    if made.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return dataset


def _make(request: DatasetRequest, services: Services, key: str | None) -> tuple[Made, Dataset]:
    content, fields = request.content, _fields(request.content)
    described = content.model_dump() if isinstance(content, BuiltinDatasetRequest) else {**fields.model_dump(), "file": content.sha256}

    def make() -> str:
        loaded = _load(content, fields, services)
        path = request.directory / "data.safetensors"
        save_dataset(loaded, path)
        check_dataset_quota(services, path.stat().st_size)
        source = content.source.model_dump() if isinstance(content, BuiltinDatasetRequest) else _source(content, fields)
        description = {"name": fields.name, "metadata": fields.metadata, "source": source, "summary": summarize(loaded)}
        return str(services.datasets.put(new_id("ds"), path, description)["id"])

    made = once(
        services.artifacts,
        "datasets",
        key,
        body_hash(described),
        tenant=services.tenant,
        make=make,
        discard=services.datasets.delete,
        exists=lambda dataset_id: services.datasets.get(dataset_id) is not None,
    )
    return made, dataset_document(_existing(services, made.id))


@router.get("", summary="List datasets")
def list_all(query: Annotated[DatasetQuery, Query()], services: ServicesDep) -> DatasetPage:
    """Datasets, the newest first."""
    page = services.datasets.list(after=query.after, limit=query.limit, order=query.order)
    data = [dataset_document(manifest) for manifest in page.datasets]
    return DatasetPage(data=data, has_more=page.has_more, **list_bounds(dataset.id for dataset in data))


@router.get("/{dataset_id}", summary="Get a dataset")
def get_one(dataset_id: str, services: ServicesDep) -> Dataset:
    """What is known of a dataset."""
    return dataset_document(_existing(services, dataset_id))


@router.get("/{dataset_id}/preview", summary="Look at the first rows")
def preview(dataset_id: str, services: ServicesDep) -> DatasetPreview:
    """The first rows as they will be trained on."""
    loaded = services.datasets.load(dataset_id)
    if loaded is None:
        raise _unknown(dataset_id)
    targets = loaded.targets[:PREVIEW_ROWS].tolist()
    return DatasetPreview(
        dataset_id=dataset_id,
        inputs=loaded.inputs[:PREVIEW_ROWS].numpy().astype(np.float64).tolist(),
        targets=[loaded.class_names[index] for index in targets] if loaded.class_names else targets,
        columns=[column.name for column in loaded.columns],
    )


@router.delete("/{dataset_id}", status_code=204, summary="Delete a dataset")
def delete(dataset_id: str, services: ServicesDep, store: StoreDep) -> None:
    """Removes a dataset that no job uses."""
    _existing(services, dataset_id)
    store.delete_dataset_guard(dataset_id)
    services.datasets.delete(dataset_id)


def _existing(services: Services, dataset_id: str) -> Json:
    manifest = services.datasets.get(dataset_id)
    if manifest is None:
        raise _unknown(dataset_id)
    return manifest


def _unknown(dataset_id: str) -> Problem:
    return Problem("not_found", f"there is no dataset {dataset_id[:64]!r}: GET /v1/datasets lists them")


def _fields(content: Upload | BuiltinDatasetRequest) -> UploadFields:
    """The fields that both kinds of request have, and those of an upload."""
    if isinstance(content, BuiltinDatasetRequest):
        return UploadFields(name=content.name, metadata=content.metadata)
    document: Json = {name: text for name, text in content.fields.items() if text or name not in UploadFields.model_fields}
    if "metadata" in document:
        document["metadata"] = decode_json(document["metadata"].encode())
    fields = validated(UploadFields, document)
    if content.path.suffix == ".csv" and fields.target is None:
        raise invalid_field("is required for a .csv file, but missing", pointer="#/target", hint="the name of the column to predict")
    if content.path.suffix == ".npz" and fields.target is not None:
        raise invalid_field(
            f"is for .csv files, got {shown(fields.target)} with a .npz file",
            pointer="#/target",
            hint="leave it out: the array y is the target",
        )
    return fields


def _load(content: Upload | BuiltinDatasetRequest, fields: UploadFields, services: Services) -> LoadedDataset:
    if isinstance(content, BuiltinDatasetRequest):
        name = content.source.name
        if name not in builtin_names():
            known = similar(name, builtin_names())
            hint = f"did you mean {known[0]}?" if known else None
            raise invalid_field(f"must be one of {', '.join(builtin_names())}, got {shown(name)}", pointer="#/source/name", hint=hint)
        return load_builtin(name, fashion_mnist_dir=services.settings.fashion_mnist_dir)
    if content.path.suffix == ".csv":
        assert fields.target is not None, "checked with the fields"
        return load_csv(content.path, target=fields.target, task=fields.task, max_bytes=services.settings.dataset_bytes)
    return load_npz(content.path, task=fields.task, max_bytes=services.settings.dataset_bytes)


def _source(content: Upload, fields: UploadFields) -> Json:
    return {"type": "upload", "filename": content.filename, "sha256": content.sha256, "target": fields.target}
