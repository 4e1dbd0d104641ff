"""Jobs: submit, look at, end, delete."""

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Query, Response

from service.dependencies import Services, ServicesDep, StoreDep
from service.documents import job_document, list_bounds
from service.errors import Problem
from service.idempotency import IdempotencyKey
from service.job_extension import extend_job
from service.json_bodies import json_document, optional_json_document, validated
from service.media import JSON
from service.openapi import json_bodies, json_body
from service.request_schemas import ExtendRequest, JobQuery, NoFields, StopRequest, SubmitQuery
from service.schemas import Document, DryRun, Job, JobPage
from service.submission import announce, check_job, end_runs, read_request, submit_job
from worker.amendments import file_amendments
from worker.deletion import delete_job
from worker.failpoints import failpoint
from worker.ids import is_id
from worker.job_requests import REQUESTS
from worker.job_store import JobStore
from worker.jobs import Action, JobKind, JobRecord, JobStatus

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

TRAIN_EXAMPLE = {
    "kind": "train",
    "name": "first run",
    "dataset_id": "ds_01JDEADBEEF0000000000000000",
    "model": {"architecture": "small_cnn", "params": {"width": 16}},
    "schedule": {"type": "warm_restarts", "max_lr": 0.1, "min_lr": 0.0, "cycles": 5, "epochs_per_cycle": 4},
    "optimizer": {"type": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005},
    "batch_size": 128,
    "seed": 0,
    "validation_fraction": 0.1,
    "metadata": {"team": "vision"},
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "train": TRAIN_EXAMPLE,
    "range_test": {
        "kind": "range_test",
        "dataset_id": "ds_01JDEADBEEF0000000000000000",
        "model": {"architecture": "small_cnn", "params": {"width": 16}},
        "sweep": "exponential",
        "start_lr": 1e-5,
        "end_lr": 10.0,
        "repeats": 3,
    },
    "study": {
        "kind": "study",
        "dataset_id": "ds_01JDEADBEEF0000000000000000",
        "model": {"architecture": "small_cnn", "params": {"width": 16}},
        "max_lr": 0.1,
        "epochs": 20,
        "cycles": 5,
        "seeds": [0, 1, 2],
        "arms": ["snapshot_ensemble", "step", "cosine", "no_cycle", "independent"],
    },
    "evaluate": {
        "kind": "evaluate",
        "job_id": "job_01JDEADBEEF0000000000000000",
        "landscape": {"max_rows": 1024, "max_pairs": 28},
    },
}


@router.post(
    "",
    summary="Submit a job",
    status_code=202,
    response_model=Job,
    openapi_extra=json_bodies(REQUESTS, "kind", EXAMPLES),
    responses={200: {"model": DryRun, "description": "With dry_run=true: what the job would be. Nothing is made."}},
)
async def submit(
    *,
    document: Annotated[Any, Depends(json_document)],
    query: Annotated[SubmitQuery, Query()],
    services: ServicesDep,
    key: IdempotencyKey = None,
) -> Response:
    """202 means durable: whatever is killed afterwards, the job will run. The same Idempotency-Key and body make one job."""
    make = partial(_dry_run, services, document) if query.dry_run else partial(_submit, services, document, key)
    return await to_thread.run_sync(make, limiter=services.writing)


def _dry_run(services: Services, document: Any) -> Response:
    services.outage.check()
    return _answer(check_job(services, read_request(document)).dry_run())


def _submit(services: Services, document: Any, key: str | None) -> Response:
    services.outage.check()
    made = submit_job(services, services.store, document, key)
    record = made.record
    headers = {"Location": f"/v1/jobs/{record.id}"} | ({"Idempotency-Replayed": "true"} if made.replayed else {})
    background = BackgroundTasks()
    if not made.replayed or record.status is JobStatus.QUEUED:  # who repeats a request may do so because the first try died on the way
        background.add_task(announce, services, record)
    return _answer(job_document(record), status_code=202, headers=headers, background=background)


@router.get("", summary="List jobs", response_model=JobPage)
async def list_all(query: Annotated[JobQuery, Query()], services: ServicesDep) -> Response:
    """Jobs, the newest first."""
    return await to_thread.run_sync(_list, services, query, limiter=services.reading)


def _list(services: Services, query: JobQuery) -> Response:
    services.outage.check()
    page = services.store.list(**query.model_dump())
    data = [job_document(record) for record in page.records]
    return _answer(JobPage(data=data, has_more=page.has_more, **list_bounds(job.id for job in data)))


@router.get("/{job_id}", summary="Get a job", response_model=Job)
async def get_one(job_id: str, services: ServicesDep) -> Response:
    """A job as it is now."""
    return await to_thread.run_sync(_get, services, job_id, limiter=services.reading)


def _get(services: Services, job_id: str) -> Response:
    services.outage.check()
    return _answer(job_document(existing_job(services.store, job_id)))


def _answer(
    document: Document, *, status_code: int = 200, headers: dict[str, str] | None = None, background: BackgroundTasks | None = None
) -> Response:
    """The answer of a route that is asked often: made whole in the one thread that the request goes to, as JSON by its model.

    FastAPI takes a thread each for a dependency, the route, and the check of its result; each waits for the others' processor time.
    """
    return Response(document.model_dump_json(), status_code, headers, JSON, background)


@router.delete("/{job_id}", status_code=204, summary="Delete a job")
def delete(job_id: str, services: ServicesDep, store: StoreDep) -> None:
    """Removes a job that has ended, with its snapshots, or a study with its runs. Ensembles of those snapshots stop working."""
    existing_job(store, job_id)
    delete_job(store, services.artifacts, job_id)


@router.post("/{job_id}/cancel", summary="Cancel a job", openapi_extra=json_body(NoFields, {}, required=False))
def cancel(job_id: str, document: Annotated[Any, Depends(optional_json_document)], background: BackgroundTasks, store: StoreDep) -> Job:
    """Ends the job as cancelled, and the runs of a study with it; snapshots taken so far stay usable. Repeating it changes nothing."""
    validated(NoFields, document)
    existing_job(store, job_id)
    record = store.request(job_id, Action.CANCEL)
    failpoint("request.recorded")
    if record.kind is JobKind.STUDY:
        background.add_task(end_runs, store, job_id)
    return job_document(record)


@router.post(
    "/{job_id}/stop",
    summary="Stop a job and keep what there is",
    openapi_extra=json_body(StopRequest, {"when": "cycle_end"}, required=False),
)
def stop(
    job_id: str,
    document: Annotated[Any, Depends(optional_json_document)],
    background: BackgroundTasks,
    services: ServicesDep,
    store: StoreDep,
) -> Job:
    """Ends a running or paused job early as succeeded, now or with the current cycle's snapshot. Repeating it changes nothing."""
    request = validated(StopRequest, document)
    existing_job(store, job_id)
    action = Action.STOP_NOW if request.when == "now" else Action.STOP_CYCLE_END
    record = store.request(job_id, action)
    if record.status is JobStatus.QUEUED:  # it was paused, and a worker is to end it
        _file_amendments(services, store, record)
        background.add_task(announce, services, record)
    return job_document(record)


@router.post("/{job_id}/pause", summary="Pause a job", openapi_extra=json_body(NoFields, {}, required=False))
def pause(job_id: str, document: Annotated[Any, Depends(optional_json_document)], services: ServicesDep, store: StoreDep) -> Job:
    """Has a job rest until it is resumed; one that runs is checkpointed and gives its device back within seconds.

    A study pauses with its runs. Repeating it changes nothing.
    """
    validated(NoFields, document)
    existing_job(store, job_id)
    record = store.request(job_id, Action.PAUSE)
    _file_amendments(services, store, record)
    return job_document(record)


@router.post("/{job_id}/resume", summary="Resume a paused job", openapi_extra=json_body(NoFields, {}, required=False))
def resume(
    job_id: str,
    document: Annotated[Any, Depends(optional_json_document)],
    background: BackgroundTasks,
    services: ServicesDep,
    store: StoreDep,
) -> Job:
    """Queues a paused job again, a study with its runs; it goes on bit for bit where it was. Repeating it changes nothing."""
    validated(NoFields, document)
    existing_job(store, job_id)
    record = store.resume(job_id)
    failpoint("resume.recorded")
    for resumed in _file_amendments(services, store, record):
        background.add_task(services.publish, resumed)
    return job_document(record)


@router.post("/{job_id}/extend", summary="Append cycles to a training", openapi_extra=json_body(ExtendRequest, {"cycles": 2}))
def extend(
    *,
    job_id: str,
    document: Annotated[Any, Depends(json_document)],
    response: Response,
    background: BackgroundTasks,
    services: ServicesDep,
    store: StoreDep,
    key: IdempotencyKey = None,
) -> Job:
    """Appends cycles to a train job that runs or has succeeded; its ensemble grows, and no earlier rate or snapshot changes.

    The number of cycles must have been given, with cycles of a fixed length. The same Idempotency-Key and body extend it once.
    """
    request = validated(ExtendRequest, document)
    existing_job(store, job_id)
    if extend_job(services, store, job_id, request.cycles, key):
        response.headers["Idempotency-Replayed"] = "true"
    failpoint("extend.recorded")
    record = existing_job(store, job_id)
    _file_amendments(services, store, record)
    background.add_task(announce, services, record)
    return job_document(record)


def _file_amendments(services: Services, store: JobStore, record: JobRecord) -> list[str]:
    """Makes durable what was asked of a job, and of a study's runs with it; what this process doesn't come to the reconciler does.

    Returns:
        The jobs whose amendments were stored.
    """
    job_ids = store.unamended() if record.kind is JobKind.STUDY else [record.id]
    for job_id in job_ids:
        file_amendments(store, services.artifacts, job_id)
    return job_ids


def existing_job(store: JobStore, job_id: str) -> JobRecord:
    """The job's record; a 404 ``Problem`` where there is none."""
    record = store.get(job_id) if is_id("job", job_id) else None
    if record is None:
        raise Problem("not_found", f"there is no job {job_id[:64]!r}: GET /v1/jobs lists them")
    return record
