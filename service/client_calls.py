"""The calls of the API, one function each: what they take and what comes back. They become the methods of the client."""

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import httpx2
import numpy as np

from service.client_core import Call, Json
from service.client_requests import MODEL_FIELDS, DatasetRef, RangeTestOptions, StudyOptions, TrainOptions, id_of, training_request

NPY = "application/x-npy"

Inputs = np.ndarray | Sequence[Mapping[str, Any]]
"""What can be predicted: an array with a row per input, or a table's rows as ``{column: value}``."""


def read_json(response: httpx2.Response) -> Json:
    """An object of the API."""
    document: Json = response.json()
    return document


def read_list(response: httpx2.Response) -> list[Json]:
    """The objects of a list that is always complete."""
    objects: list[Json] = response.json()["data"]
    return objects


def read_npy(response: httpx2.Response) -> np.ndarray:
    """An array in NumPy's own format."""
    array: np.ndarray = np.load(io.BytesIO(response.content), allow_pickle=False)
    return array


def read_nothing(response: httpx2.Response) -> None:
    """For answers without a body."""


def _get(path: str, **params: str | int | None) -> Call[Json]:
    return Call(method="GET", path=path, read=read_json, params={name: value for name, value in params.items() if value is not None})


def _post(path: str, body: Json | None = None, **params: str | int) -> Call[Json]:
    """Every try of one POST carries the same idempotency key, so it takes effect once."""
    return Call(method="POST", path=path, read=read_json, params=params, json=body, headers={"Idempotency-Key": uuid.uuid4().hex})


def _delete(path: str) -> Call[None]:
    """Not repeated after a lost answer: the second one would find nothing."""
    return Call(method="DELETE", path=path, read=read_nothing, is_repeatable=False)


def capabilities() -> Call[Json]:
    """Architectures, schedules, limits and versions."""
    return _get("/v1/capabilities")


def queue() -> Call[Json]:
    """Depth, running jobs and workers."""
    return _get("/v1/queue")


def upload(path: Path | str, *, target: str | None = None, task: str | None = None, name: str | None = None) -> Call[Json]:
    """Uploads a ``.npz`` (arrays ``x``, ``y``) or a ``.csv`` with its ``target`` column; comes back as a dataset."""
    return _upload(Path(path), target=target, task=task, name=name)


def upload_arrays(
    x: np.ndarray,
    y: np.ndarray,
    *,
    x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None,
    task: str | None = None,
    name: str | None = None,
) -> Call[Json]:
    """Uploads rows ``x`` with their labels or values ``y``; comes back as a dataset."""
    arrays = {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{key: np.asarray(array) for key, array in arrays.items() if array is not None})
    return _upload(("arrays.npz", file.getvalue()), task=task, name=name)


def _upload(source: Path | tuple[str, bytes], **fields: str | None) -> Call[Json]:
    return replace(_post("/v1/datasets"), upload=source, fields={key: value for key, value in fields.items() if value is not None})


def builtin(source: str, *, name: str | None = None) -> Call[Json]:
    """Makes a dataset of one that the service brings along: ``digits`` or ``fashion-mnist``."""
    return _post("/v1/datasets", {"source": {"type": "builtin", "name": source}, "name": name})


def dataset(dataset_id: str) -> Call[Json]:
    """One dataset."""
    return _get(f"/v1/datasets/{dataset_id}")


def datasets() -> Call[Json]:
    """The first page of the datasets, the newest first."""
    return _get("/v1/datasets")


def delete_dataset(dataset_id: str) -> Call[None]:
    """Deletes a dataset that no job uses."""
    return _delete(f"/v1/datasets/{dataset_id}")


def preview_schedule(schedule: Json, *, steps_per_epoch: int, epochs: float | None = None) -> Call[Json]:
    """The exact curve of a schedule and its cycle ends, without any job."""
    return _post("/v1/schedules/preview", {"schedule": schedule, "steps_per_epoch": steps_per_epoch, "epochs": epochs})


def range_test(dataset: DatasetRef, **options: Unpack[RangeTestOptions]) -> Call[Json]:
    """Submits a learning-rate range test; its ``result()`` has ``min_lr``, ``max_lr`` and the reason, or why there is none."""
    given: Json = dict(options)
    model = {name: given.pop(name) for name in MODEL_FIELDS if name in given}
    body = {"kind": "range_test", "dataset_id": id_of(dataset), **given}
    return submit(body | {"model": model} if model else body)


def study(dataset: DatasetRef, *, seeds: Sequence[int], **options: Unpack[StudyOptions]) -> Call[Json]:
    """Submits a study; its ``result()`` compares snapshot ensemble and controls, with intervals over the seeds."""
    given: Json = dict(options)
    model = {name: given.pop(name) for name in MODEL_FIELDS if name in given}
    body = {"kind": "study", "dataset_id": id_of(dataset), "seeds": list(seeds), **given}
    return submit(body | {"model": model} if model else body)


def train(dataset: DatasetRef, **options: Unpack[TrainOptions]) -> Call[Json]:
    """Submits a training job; it is durable when this returns."""
    return submit(training_request(dataset, options))


def dry_run(dataset: DatasetRef, **options: Unpack[TrainOptions]) -> Call[Json]:
    """What ``train`` would run: the whole config, its steps and warnings. Creates nothing."""
    return check(training_request(dataset, options))


def check(body: Json) -> Call[Json]:
    """What ``submit`` would run. Creates nothing."""
    return _post("/v1/jobs", body, dry_run="true")


def submit(body: Json) -> Call[Json]:
    """Submits a request as the API documents it."""
    return _post("/v1/jobs", body)


def job(job_id: str) -> Call[Json]:
    """One job."""
    return _get(f"/v1/jobs/{job_id}")


def jobs(*, status: str | None = None, kind: str | None = None, limit: int = 100) -> Call[Json]:
    """The first page of the jobs, the newest first."""
    return _get("/v1/jobs", status=status, kind=kind, limit=limit)


def stop(job_id: str, when: Literal["now", "cycle_end"] = "now") -> Call[Json]:
    """Ends the training early and keeps what there is."""
    return _post(f"/v1/jobs/{job_id}/stop", {"when": when})


def cancel(job_id: str) -> Call[Json]:
    """Ends the job as ``cancelled``; its snapshots stay usable."""
    return _post(f"/v1/jobs/{job_id}/cancel")


def pause(job_id: str) -> Call[Json]:
    """Has the job rest, with a checkpoint, until it is resumed."""
    return _post(f"/v1/jobs/{job_id}/pause")


def resume(job_id: str) -> Call[Json]:
    """Queues a paused job again; it goes on bit for bit where it was."""
    return _post(f"/v1/jobs/{job_id}/resume")


def extend(job_id: str, cycles: int) -> Call[Json]:
    """Appends cycles to a training that runs or has succeeded; its ensemble grows."""
    return _post(f"/v1/jobs/{job_id}/extend", {"cycles": cycles})


def delete_job(job_id: str) -> Call[None]:
    """Deletes the job, which must have ended, with its snapshots."""
    return _delete(f"/v1/jobs/{job_id}")


def events(job_id: str, *, after: int = 0, limit: int = 500) -> Call[list[Json]]:
    """A page of the job's events, from sequence number ``after`` on."""
    return Call(method="GET", path=f"/v1/jobs/{job_id}/events", read=read_list, params={"after": after, "limit": limit})


def snapshots(job_id: str) -> Call[list[Json]]:
    """The job's snapshots so far, in cycle order."""
    return Call(method="GET", path=f"/v1/jobs/{job_id}/snapshots", read=read_list)


def metrics(job_id: str, *, max_points: int = 1000) -> Call[Json]:
    """The columns of its training curve."""
    return _get(f"/v1/jobs/{job_id}/metrics", max_points=max_points)


def result(job_id: str) -> Call[Json]:
    """What the job came to, once it has ended."""
    return _get(f"/v1/jobs/{job_id}/result")


def snapshot(snapshot_id: str) -> Call[Json]:
    """One snapshot."""
    return _get(f"/v1/snapshots/{snapshot_id}")


def download(snapshot_id: str, path: Path | str) -> Call[Path]:
    """Writes a snapshot's weights (safetensors) to ``path``."""

    def write(response: httpx2.Response) -> Path:
        Path(path).write_bytes(response.content)
        return Path(path)

    return Call(method="GET", path=f"/v1/snapshots/{snapshot_id}/weights", read=write)


def create_ensemble(members: Sequence[str]) -> Call[Json]:
    """Makes an ensemble of chosen snapshots."""
    return _post("/v1/ensembles", {"members": list(members)})


def alias(name: str) -> Call[Json]:
    """Where a name points, and where it pointed before."""
    return _get(f"/v1/aliases/{name}")


def aliases() -> Call[Json]:
    """All aliases."""
    return _get("/v1/aliases")


def point_alias(name: str, ensemble_id: str) -> Call[Json]:
    """Has a name stand for this ensemble, in every path that takes an ensemble's id."""
    return Call(method="PUT", path=f"/v1/aliases/{name}", read=read_json, json={"ensemble_id": ensemble_id})


def delete_alias(name: str) -> Call[None]:
    """Has a name stand for nothing any more."""
    return _delete(f"/v1/aliases/{name}")


def ensemble(ensemble_id: str) -> Call[Json]:
    """Its members and versions."""
    return _get(f"/v1/ensembles/{ensemble_id}")


def predict(ensemble_id: str, inputs: Inputs, *, version: int | None = None) -> Call[np.ndarray]:
    """Mean probabilities (B, C) float32; of a regression the means (B,)."""
    arguments = _prediction(inputs, accept=NPY, version=version)
    return Call(method="POST", path=f"/v1/ensembles/{ensemble_id}/predict", read=read_npy, **arguments)


def explain(ensemble_id: str, inputs: Inputs, *, version: int | None = None, top_k: int | None = None, members: bool = False) -> Call[Json]:
    """The whole answer: labels, probabilities, uncertainty, members used, timing."""
    arguments = _prediction(inputs, accept="application/json", version=version, top_k=top_k, members="true" if members else None)
    return Call(method="POST", path=f"/v1/ensembles/{ensemble_id}/predict", read=read_json, **arguments)


def _prediction(inputs: Inputs, *, accept: str, **params: str | int | None) -> Json:
    """The arguments of a ``Call`` that carries ``inputs``: arrays as npy, rows of a table as JSON."""
    arguments: Json = {"params": {name: value for name, value in params.items() if value is not None}, "headers": {"Accept": accept}}
    if not isinstance(inputs, np.ndarray):
        return {**arguments, "json": {"instances": [dict(row) for row in inputs]}}
    file = io.BytesIO()
    np.save(file, inputs, allow_pickle=False)
    return {**arguments, "content": file.getvalue(), "headers": {"Accept": accept, "Content-Type": NPY}}
