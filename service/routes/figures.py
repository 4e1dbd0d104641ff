"""A job's figures: as documents that Plotly draws, and as pages; and the scripts that those pages load."""

import gzip
import hashlib
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from service.dependencies import Services, ServicesDep, StoreDep
from service.documents import job_document, list_bounds
from service.errors import Problem, invalid_field, to_json
from service.figure_page import DRAWING_SCRIPT, POLICY, linked_page, plotly_script, plotly_version
from service.figures import FIGURES, FigureUnavailable, ForeignFigureError, JobDocuments, draw, figures_of
from service.media import HTML, JSON, negotiated
from service.openapi import reference
from service.request_schemas import FigureQuery, MetricsQuery, SnapshotQuery
from service.routes.job_outputs import metrics, result, snapshots
from service.routes.jobs import existing_job
from service.schemas import Figure, FigureEntry, FigurePage
from service.sign_in_page import SIGN_IN_SCRIPT, sign_in_path
from service.validation import similar
from worker.ids import is_id
from worker.job_store import JobStore

router = APIRouter(tags=["figures"])

Json = dict[str, Any]

FOR_EVER = "public, max-age=31536000, immutable"
"""Of the scripts, whose paths change with what is in them."""

PAGE = {HTML: {"schema": {"type": "string"}, "example": "<!doctype html>…"}}


@cache
def _drawing_path() -> str:
    return f"/assets/figures-{hashlib.sha256(DRAWING_SCRIPT.encode()).hexdigest()[:12]}.js"


def _plotly_path() -> str:
    return f"/assets/plotly-{plotly_version()}.min.js"


@router.get(
    "/v1/jobs/{job_id}/figures",
    summary="List a job's figures",
    responses={
        200: {"model": FigurePage, "description": "The figures that its kind of job has; as a page, all that are there.", "content": PAGE}
    },
)
def list_all(job_id: str, request: Request, query: Annotated[FigureQuery, Query()], services: ServicesDep, store: StoreDep) -> Response:
    """By Accept: a list (application/json), or one page with all that can be drawn (text/html)."""
    media_type = negotiated(request.headers.get("accept"), (JSON, HTML))
    documents, against = _both(services, store, job_id, query.against)
    drawn, missing = _draw_all(documents, against)
    if media_type == HTML:
        return _page(documents.label, drawn, missing)
    suffix = f"?against={query.against}" if query.against else ""
    data = [
        FigureEntry(
            name=kind.name,
            shows=kind.shows,
            available=kind.name in drawn,
            reason=missing.get(kind.name),
            links={"self": f"/v1/jobs/{job_id}/figures/{kind.name}{suffix}"},
        )
        for kind in figures_of(documents.job["kind"])
    ]
    page = FigurePage(data=data, has_more=False, **list_bounds(entry.name for entry in data))
    return Response(to_json(page.model_dump()), media_type=JSON)


@router.get(
    "/v1/jobs/{job_id}/figures/{name}",
    summary="Draw a figure of a job",
    responses={
        200: {
            "model": Figure,
            "description": "What Plotly draws, or a page with it.",
            "content": {JSON: {"schema": reference(Figure)}, **PAGE},
        }
    },
)
def get_one(
    *, job_id: str, name: str, request: Request, query: Annotated[FigureQuery, Query()], services: ServicesDep, store: StoreDep
) -> Response:
    """By Accept: the figure's data and layout (application/json), or a page with it (text/html).

    It shows the job as it is now. ``against`` shows another job beside it, such as the control without restarts.
    """
    media_type = negotiated(request.headers.get("accept"), (JSON, HTML))
    documents, against = _both(services, store, job_id, query.against)
    if name not in FIGURES:
        meant = similar(name, FIGURES)
        hint = f": did you mean {meant[0]}?" if meant else f": there are {', '.join(FIGURES)}"
        raise Problem("not_found", f"there is no figure {name[:64]!r}{hint}")
    try:
        figure = draw(name, documents, against)
    except FigureUnavailable as error:
        is_final = isinstance(error, ForeignFigureError) or all(job.job["terminal"] for job in (documents, against) if job is not None)
        raise Problem("not_found" if is_final else "not_ready", str(error)) from error
    if media_type == HTML:
        return _page(f"{documents.label}: {name}", {name: figure}, {})
    return Response(to_json(figure), media_type=JSON)


@router.get("/assets/{name}", include_in_schema=False)
def asset(name: str, request: Request) -> Response:
    """A script that the pages load, from this service and nowhere else."""
    found = _packed_scripts().get(f"/assets/{name}")
    if found is None:
        raise Problem("not_found", f"there is no script {name[:64]!r}: load the page again, which names those there are")
    headers = {"Cache-Control": FOR_EVER, "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found, media_type="text/javascript", headers=headers | {"Content-Encoding": "gzip"})
    return Response(gzip.decompress(found), media_type="text/javascript", headers=headers)


@cache
def _packed_scripts() -> dict[str, bytes]:
    """The scripts by path, each packed once."""
    scripts = {_plotly_path(): plotly_script(), _drawing_path(): DRAWING_SCRIPT, sign_in_path(): SIGN_IN_SCRIPT}
    return {path: gzip.compress(script.encode(), mtime=0) for path, script in scripts.items()}


def _both(services: Services, store: JobStore, job_id: str, against: str | None) -> tuple[JobDocuments, JobDocuments | None]:
    """The job, and the one that it is shown beside."""
    documents = _documents(services, store, job_id)
    if against is None:
        return documents, None
    if not is_id("job", against) or store.get(against) is None:
        raise invalid_field(f"there is no job {against}", parameter="against", hint="GET /v1/jobs lists them")
    return documents, _documents(services, store, against)


def _documents(services: Services, store: JobStore, job_id: str) -> JobDocuments:
    """What the API says of the job, from the functions that answer its other paths."""
    record = existing_job(store, job_id)
    return JobDocuments(
        job=job_document(record).model_dump(mode="json"),
        metrics=metrics(job_id, MetricsQuery.model_validate({}), store).model_dump(mode="json"),
        snapshots=[each.model_dump(mode="json") for each in snapshots(job_id, SnapshotQuery.model_validate({}), store).data],
        result=result(job_id, services, store).model_dump(mode="json") if record.status.is_terminal else None,
    )


def _draw_all(documents: JobDocuments, against: JobDocuments | None) -> tuple[dict[str, Json], dict[str, str]]:
    """The figures that can be drawn, and why the others cannot."""
    drawn: dict[str, Json] = {}
    missing: dict[str, str] = {}
    for kind in figures_of(documents.job["kind"]):
        try:
            drawn[kind.name] = draw(kind.name, documents, against)
        except FigureUnavailable as error:
            missing[kind.name] = str(error)
    return drawn, missing


def _page(title: str, figures: dict[str, Json], missing: dict[str, str]) -> Response:
    page = linked_page(title, figures, missing=missing, plotly_path=_plotly_path(), drawing_path=_drawing_path())
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})
