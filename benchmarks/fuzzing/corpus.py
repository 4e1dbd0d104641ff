"""What valid requests are made of: every operation of the OpenAPI document, ids that exist, and bodies that are right."""

import io
import json
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Json = dict[str, Any]

BODY_TYPES = ("application/json", "multipart/form-data", "application/x-npy", "application/octet-stream", "image/png")
MAX_MADE = 200
"""Objects of one kind that requests have made and that are remembered; the oldest are the first to be deleted."""


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    template: str
    queries: tuple[str, ...]
    headers: tuple[str, ...]
    body_types: tuple[str, ...]
    examples: tuple[Any, ...]

    @property
    def name(self) -> str:
        """As the table of figures names it."""
        return f"{self.method} {self.template}"


@dataclass
class Corpus:
    """Operations and ids of a running service.

    Attributes:
        fixed: Ids by path parameter, of objects that stay.
        made: Ids of objects that the requests have made, oldest first.
        table_rows: Rows for the ensembles that were trained on a table.
        input_shape: The shape of a row of the other ensembles.
    """

    operations: tuple[Operation, ...]
    fixed: Mapping[str, tuple[str, ...]]
    table_rows: tuple[Json, ...] = ()
    input_shape: tuple[int, ...] = (8, 8)
    made: dict[str, list[str]] = field(default_factory=lambda: {"job_id": [], "dataset_id": []})

    def ids(self, parameter: str) -> tuple[str, ...]:
        """What a path parameter may be."""
        return (*self.fixed.get(parameter, ()), *self.made.get(parameter, ()))

    def remember(self, location: str) -> None:
        """Notes an object that an answer's ``Location`` names."""
        for prefix, parameter in (("/v1/jobs/", "job_id"), ("/v1/datasets/", "dataset_id")):
            if location.startswith(prefix):
                self.made[parameter].append(location.removeprefix(prefix))

    def surplus(self) -> tuple[str, str] | None:
        """Parameter and id of an object that ought to be deleted now, which is forgotten thereby."""
        for parameter, ids in self.made.items():
            if len(ids) > MAX_MADE:
                return parameter, ids.pop(0)
        return None


def read_corpus(url: str, *, headers: Mapping[str, str] | None = None) -> Corpus:
    """The corpus of the service at ``url``, which must have at least one finished train job."""

    def get(path: str) -> Any:
        request = urllib.request.Request(url + path, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    datasets = get("/v1/datasets")["data"]
    jobs = get("/v1/jobs?status=succeeded")["data"]
    snapshots = [snapshot for job in jobs for snapshot in get(f"/v1/jobs/{job['id']}/snapshots")["data"]]
    ensembles = [get(f"/v1/ensembles/{job['ensemble_id']}") for job in jobs if job["snapshot_count"]]
    figures = [figure["name"] for job in jobs[:1] for figure in get(f"/v1/jobs/{job['id']}/figures")["data"]]
    document = get("/openapi.json")
    ids = {
        "job_id": tuple(job["id"] for job in jobs),
        "dataset_id": tuple(dataset["id"] for dataset in datasets),
        "snapshot_id": tuple(snapshot["id"] for snapshot in snapshots),
        "ensemble_id": tuple(ensemble["id"] for ensemble in ensembles),
        "name": (*figures, "prod"),
        "code": ("not_found", "validation_error"),
        "version": ("1",),
    }
    tables = [ensemble for ensemble in ensembles if ensemble.get("columns")]
    arrays = [ensemble for ensemble in ensembles if not ensemble.get("columns")]
    rows = tuple(dict.fromkeys(ensemble["columns"], 1.5) for ensemble in tables)
    return Corpus(
        operations=tuple(_operations(document, ids)),
        fixed=ids,
        table_rows=rows,
        input_shape=tuple(arrays[0]["input_shape"]) if arrays else (8, 8),
    )


def _operations(document: Json, ids: Mapping[str, tuple[str, ...]]) -> list[Operation]:
    found = []
    for template, methods in document["paths"].items():
        for method, description in methods.items():
            parameters = description.get("parameters", [])
            content = description.get("requestBody", {}).get("content", {})
            found.append(
                Operation(
                    method=method.upper(),
                    template=template,
                    queries=tuple(parameter["name"] for parameter in parameters if parameter["in"] == "query"),
                    headers=tuple(parameter["name"] for parameter in parameters if parameter["in"] == "header"),
                    body_types=tuple(name for name in content if name in BODY_TYPES),
                    examples=tuple(_existing(example, ids) for example in _examples(content.get("application/json", {}))),
                )
            )
    return found


def _examples(content: Json) -> list[Any]:
    """The examples of a JSON body, or an empty object where the document has none."""
    named = [example["value"] for example in content.get("examples", {}).values()]
    return named or [content.get("example", {})]


def _existing(value: Any, ids: Mapping[str, tuple[str, ...]]) -> Any:
    """The example with ids that exist in place of invented ones."""
    match value:
        case dict():
            return {name: _existing(item, ids) for name, item in value.items()}
        case list():
            known = ids["snapshot_id"]
            if len(known) >= len(value) and all(isinstance(item, str) and item.startswith("snap_") for item in value):
                return list(known[: len(value)])
            return [_existing(item, ids) for item in value]
        case str() if parameter := {"ds": "dataset_id", "job": "job_id", "ens": "ensemble_id"}.get(value.partition("_")[0]):
            return next(iter(ids[parameter]), value)
        case _:
            return value


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The array as an npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def npz_bytes(*, rows: int = 12) -> bytes:
    """A small dataset as an npz file."""
    file = io.BytesIO()
    x = (np.arange(rows * 4, dtype=np.float32) % 7).reshape(rows, 4)
    np.savez_compressed(file, allow_pickle=False, x=x, y=np.arange(rows) % 3)
    return file.getvalue()


def csv_bytes(*, rows: int = 12) -> bytes:
    """A small table as a CSV file."""
    lines = [f"{row}.5,{'red' if row % 2 else 'blue'},true,{'rose' if row % 3 else 'iris'}" for row in range(rows)]
    return "\n".join(["width,colour,wild,species", *lines, ""]).encode()


def png_bytes(width: int = 8, height: int = 8, *, grey: bool = True) -> bytes:
    """A picture, written by hand so that its parts are known."""
    depth = 1 if grey else 3
    raw = b"".join(b"\0" + bytes((row * 8 + column) % 256 for column in range(width * depth)) for row in range(height))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 0 if grey else 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    parts = (len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
