"""What a job says and leaves: events, training curve, result, snapshots."""

import re
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.authorization import PrincipalDep
from service.conditional_requests import IS_HEAD
from service.curves import thin_out
from service.dependencies import ServicesDep, StoreDep
from service.documents import list_bounds, snapshot_document
from service.errors import Problem, invalid_field, to_json
from service.event_streams import EventStream
from service.events import as_jsonl, as_sse, event_document, follow
from service.media import JSON, JSONL, SSE, negotiated
from service.openapi import reference
from service.request_schemas import EventQuery, MetricsQuery, SnapshotQuery
from service.routes.jobs import existing_job
from service.schemas import Event as EventDocument
from service.schemas import EventPage, Metrics, Result, SnapshotPage
from service.validation import shown
from worker.artifacts import ArtifactMissing
from worker.ids import parse_snapshot_id
from worker.job_store import Event
from worker.records import read_document, result_key
from worker.results import result_of

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

LEARNING_RATE, TRAIN_LOSS = "learning_rate", "train_loss"

STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": EventPage,
        "description": "A page, or a live stream up to the job's end.",
        "content": {
            SSE: {
                "schema": {"type": "string"},
                "example": 'event: snapshot\ndata: {"snapshot_id":"snap_…","cycle":2,"seq":119,…}\nid: 119\n\n',
            },
            JSONL: {"itemSchema": reference(EventDocument)},
        },
    }
}


@router.get("/events", summary="Follow a job", responses=STREAM_RESPONSES)
async def events(
    job_id: str,
    request: Request,
    *,
    query: Annotated[EventQuery, Query()],
    services: ServicesDep,
    principal: PrincipalDep,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="Where a stream goes on.")] = None,
) -> Response:
    """By Accept: a page (application/json), or all events live (text/event-stream, application/jsonl) until the job has ended.

    Sequence numbers have no gaps; a stream that is resumed by Last-Event-ID loses and repeats nothing. It ends before the job's end where
    the server stops, or its key is revoked or expires.
    """
    media_type = negotiated(request.headers.get("accept"), (JSON, SSE, JSONL))
    after = query.after if last_event_id is None else _sequence_number(last_event_id)
    types = query.types.split(",") if query.types else None
    store = services.store

    def check_and_read() -> Response | None:
        services.outage.check()
        existing_job(store, job_id)
        if media_type != JSON:
            return None
        found = store.events(job_id, after, query.limit + 1, types)
        page, has_more = found[: query.limit], len(found) > query.limit
        data = [event_document(event) for event in page]
        document = {"object": "list", "data": data, "has_more": has_more, **list_bounds(event.seq for event in page)}
        return Response(to_json(document), media_type=JSON)

    response = await run_in_threadpool(check_and_read)
    if response is not None:
        return response

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if request.scope["state"][IS_HEAD]:
        return Response(media_type=media_type, headers=headers)

    def is_wanted(event: Event) -> bool:
        return types is None or event.type in types or event.type == "end"

    live = follow(services.hub, store, job_id, after, may_go_on=partial(services.door.still_admits, principal))
    body = as_sse(live, is_wanted) if media_type == SSE else as_jsonl(live, is_wanted)
    return EventStream(body, media_type=media_type, headers=headers, allowance=services.streams, principal=principal)


def _sequence_number(last_event_id: str) -> int:
    if re.fullmatch(r"[0-9]{1,15}", last_event_id) is None:
        raise invalid_field(
            f"must be the id of the last event that arrived, a whole number of at most 15 digits, got {shown(last_event_id)}",
            parameter="Last-Event-ID",
            hint="leave it out to begin with the first event",
        )
    return int(last_event_id)


@router.get("/metrics", summary="Get the training curve")
def metrics(job_id: str, query: Annotated[MetricsQuery, Query()], store: StoreDep) -> Metrics:
    """Columns of the curve. Of many rows those remain that keep every bucket's smallest and largest loss and learning rate."""
    existing_job(store, job_id)
    found = store.metrics(job_id)
    step = found.columns.index("step")
    rows = [row for row in found.rows if (row[step] or 0) >= query.from_step]
    values = [found.columns.index(name) for name in (LEARNING_RATE, TRAIN_LOSS)]
    kept = thin_out(rows, values, query.max_points)
    marks = [
        {"snapshot_id": snapshot["id"], **{name: snapshot[name] for name in ("cycle", "step", "epoch", "learning_rate", "metrics")}}
        for snapshot in store.snapshots(job_id)
    ]
    return Metrics(
        job_id=job_id,
        columns={name: [row[index] for row in kept] for index, name in enumerate(found.columns)},
        snapshots=marks,
        total_rows=len(rows),
    )


@router.get("/result", summary="Get the result")
def result(job_id: str, services: ServicesDep, store: StoreDep) -> Result:
    """What the job came to, once it has ended; beside the members listed here stand those of its kind: TrainOutput, RangeTestOutput, …"""
    record = existing_job(store, job_id)
    if not record.status.is_terminal:
        raise Problem("not_ready", f"{job_id} is {record.status}: the result comes with its end", extra={"job_status": record.status})
    ended = {"status": record.status, "stop_reason": record.stop_reason, "error": record.error, "finished_at": record.finished_at}
    is_stored_soon = job_id in store.unfiled()  # by the reconciler
    stored = read_document(services.artifacts, result_key(job_id))
    if stored is None and not is_stored_soon:
        raise ArtifactMissing(f"{result_key(job_id)} is gone: restore it from a backup, or submit the job again")
    stored = stored or result_of(store, record)
    return Result(
        job_id=job_id,
        kind=record.kind,
        **ended,
        **{name: stored[name] for name in ("snapshots", "ensemble", "history")},
        config=stored["config"] or record.config,  # a job that failed before it began has none of its own
        **stored.get("output", {}),
    )


@router.get("/snapshots", summary="List a job's snapshots")
def snapshots(job_id: str, query: Annotated[SnapshotQuery, Query()], store: StoreDep) -> SnapshotPage:
    """The snapshots so far, in cycle order."""
    existing_job(store, job_id)
    after_job, after_cycle = (parse_snapshot_id(query.after) if query.after else None) or (job_id, -1)
    if after_job != job_id:
        raise invalid_field(f"must be a snapshot of {job_id}, got one of {after_job}", parameter="after")
    found = [manifest for manifest in store.snapshots(job_id) if manifest["cycle"] > after_cycle]
    data = [snapshot_document(manifest) for manifest in found[: query.limit]]
    return SnapshotPage(data=data, has_more=len(found) > query.limit, **list_bounds(snapshot.id for snapshot in data))
