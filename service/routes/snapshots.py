"""Snapshots and their weights."""

import base64
import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from service.dependencies import ServicesDep, StoreDep
from service.documents import snapshot_document
from service.errors import Problem
from service.media import OCTETS
from service.schemas import Snapshot
from worker.job_store import JobStore
from worker.records import file_path

router = APIRouter(prefix="/v1/snapshots", tags=["snapshots"])

_RANGES = re.compile(r"bytes=\s*(\d*-\d*)(\s*,\s*\d*-\d*)*\s*")
MAX_DIGITS = 18


@router.get("/{snapshot_id}", summary="Get a snapshot")
def get_one(snapshot_id: str, store: StoreDep) -> Snapshot:
    """What is known of a snapshot."""
    return snapshot_document(_existing(store, snapshot_id))


@router.head("/{snapshot_id}/weights", include_in_schema=False)
@router.get(
    "/{snapshot_id}/weights",
    summary="Download a snapshot's weights",
    response_class=FileResponse,
    responses={200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}, "description": "A safetensors file."}},
)
def weights(snapshot_id: str, request: Request, services: ServicesDep, store: StoreDep) -> Response:
    """The safetensors file: ``safetensors.torch.load_file`` gives a state_dict. Range requests and If-None-Match are honoured."""
    file = _existing(store, snapshot_id)["files"]["weights"]
    etag = f'"{file["sha256"]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "private, max-age=31536000, immutable",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file['sha256'])).decode()}:",
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    _check_range(request, file["size_bytes"])
    path = file_path(services.artifacts, file)
    return FileResponse(path, headers=headers, media_type=OCTETS, filename=f"{snapshot_id}.safetensors")


def _existing(store: JobStore, snapshot_id: str) -> dict[str, Any]:
    manifest = store.snapshot(snapshot_id)
    if manifest is None:
        raise Problem("not_found", f"there is no snapshot {snapshot_id[:64]!r}: GET /v1/jobs/{{id}}/snapshots lists a job's")
    return manifest


def _check_range(request: Request, size_bytes: int) -> None:
    """Leaves to ``FileResponse`` only ranges that it answers: it has errors of its own for the others.

    A Range that is malformed is ignored, as RFC 9110, section 14.2 wants; one behind the end is a problem.
    """
    value = request.headers.get("range")
    if value is None:
        return
    parts = re.findall(r"(\d*)-(\d*)", value) if _RANGES.fullmatch(value) else []
    is_valid = parts and all(
        (first or last) and len(first) <= MAX_DIGITS and len(last) <= MAX_DIGITS and not (first and last and int(first) > int(last))
        for first, last in parts
    )
    if not is_valid:
        request.scope["headers"] = [(name, text) for name, text in request.scope["headers"] if name != b"range"]
    elif any(int(first) >= size_bytes if first else int(last) == 0 for first, last in parts):
        raise Problem(
            "range_not_satisfiable",
            f"the file has {size_bytes} bytes, got Range {value[:100]}",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
