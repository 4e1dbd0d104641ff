"""The service itself: is it alive, is it ready, what can it do, what do its errors mean."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service.capabilities import describe_choices, describe_limits, describe_versions
from service.dependencies import Services, ServicesDep, StoreDep
from service.errors import Problem
from service.metrics import exposition
from service.problem_kinds import PROBLEMS
from service.reference_page import reference_page
from service.validation import similar
from worker.job_store import JobStore, StoreUnavailable
from worker.jobs import JobStatus

router = APIRouter(tags=["service"])

Json = dict[str, Any]


@router.get("/livez", summary="Is the process alive")
async def livez() -> Json:
    """200 as long as the process answers at all."""
    return {"status": "alive"}


@router.get("/readyz", summary="Is the service ready")
def readyz(response: Response, services: ServicesDep) -> Json:
    """The state of each component; 503 when one is away that requests need. Workers are not: jobs wait for them."""
    try:
        workers = len(services.store.workers())
        redis: Json = {"status": "up", "required": True}
    except StoreUnavailable as error:
        workers = 0
        redis = {"status": "down", "required": True, "detail": str(error)}
    components = {
        "redis": redis,
        "artifacts": {"status": "up" if services.artifacts.available() else "down", "required": True},
        "workers": {"status": "up" if workers else "down", "required": False, "count": workers},
    }
    is_ready = all(component["status"] == "up" for component in components.values() if component["required"])
    if not is_ready:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return {"status": "ready" if is_ready else "not_ready", "components": components}


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus' text format."}},
)
def metrics(request: Request) -> Response:
    """Jobs, queue, requests, lease expiries, fenced commits, quarantine and memory: sums over all tenants, in Prometheus' text format."""
    services: Services = request.app.state.services
    return Response(exposition(request.app.state.request_counts, services.store, services.artifacts), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/v1/capabilities", summary="What the service can do")
def capabilities(services: ServicesDep) -> Json:
    """Architectures, schedules and optimizers with the schemas of their parameters; devices, limits, versions."""
    try:
        devices = sorted({str(worker["device"]) for worker in services.store.workers() if worker.get("device")})
    except StoreUnavailable:
        devices = []
    return {
        "object": "capabilities",
        **describe_choices(),
        "devices": devices,
        "limits": describe_limits(services.settings),
        "versions": describe_versions(),
    }


@router.get("/v1/queue", summary="Look at the queue")
def queue(store: StoreDep) -> Json:
    """How many jobs wait and run, the workers, and why jobs wait."""
    counts = store.counts()
    workers = [_shown_worker(worker, store) for worker in store.workers()]
    depth, running = counts[JobStatus.QUEUED], counts[JobStatus.RUNNING]
    if depth == 0:
        reason = None
    elif not workers:
        reason = "no worker is running: start one with `snapcycle worker`"
    else:
        reason = f"all {len(workers)} workers are busy" if running >= len(workers) else "a worker is about to take the next job"
    return {"object": "queue", "depth": depth, "running": running, "reason": reason, "workers": workers}


def _shown_worker(worker: Json, store: JobStore) -> Json:
    """A worker, without the id of a job that the sender doesn't see."""
    job_id = worker.get("job_id")
    return worker | {"job_id": None} if job_id and store.get(job_id) is None else worker


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The OpenAPI document, to read."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
    return HTMLResponse(reference_page(request.app.openapi()), headers=headers)


@router.get("/problems/{code}", summary="What an error code means")
async def problem_page(code: str) -> Json:
    """One entry of the list of problems."""
    if code not in PROBLEMS:
        known = similar(code, PROBLEMS)
        hint = f": did you mean {known[0]}?" if known else ""
        raise Problem("not_found", f"there is no problem code {code[:64]!r}{hint}")
    kind = PROBLEMS[code]
    return {
        "type": f"/problems/{code}",
        "code": code,
        "status": kind.status,
        "title": kind.title,
        "meaning": kind.meaning,
        "remedy": kind.remedy,
        "retryable": kind.retryable,
    }
