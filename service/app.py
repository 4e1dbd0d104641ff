"""The application: middleware, routes, error handling, and the life of what they use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.capabilities import installed_version
from service.dependencies import Services
from service.errors import answer_problem, install_error_handling
from service.limits import RequestIds, RequestLimits, body_limit_of
from service.openapi import install_openapi, problem_responses
from service.routes import datasets, ensembles, job_outputs, jobs, schedules, snapshots, system
from worker.job_store import StoreUnavailable
from worker.settings import Settings

DESCRIPTION = """Trains one network with cosine annealing and warm restarts, keeps a snapshot at every cycle minimum, and serves the
averaged prediction of the snapshots. Errors are RFC 9457 problems; every code has a page under /problems/{code}."""


def create_app(settings: Settings) -> FastAPI:
    """The API for these settings. Stores are opened when the server starts, not here."""
    app = FastAPI(
        title="snapcycle",
        summary="Snapshot ensembles as a service: train one, get M for free.",
        description=DESCRIPTION,
        version=installed_version("snapcycle"),
        lifespan=partial(_lifespan, settings=settings),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        responses=problem_responses(),
    )
    app.add_middleware(RequestLimits, body_limit=body_limit_of(settings))
    app.add_middleware(RequestIds)
    install_error_handling(app)
    app.add_exception_handler(StoreUnavailable, _answer_outage)
    install_openapi(app)
    for module in (datasets, schedules, jobs, job_outputs, snapshots, ensembles, system):
        app.include_router(module.router)
    return app


async def _answer_outage(request: Request, exc: Exception) -> Response:
    request.app.state.services.outage.notice()
    return await answer_problem(request, exc)


@asynccontextmanager
async def _lifespan(app: FastAPI, *, settings: Settings) -> AsyncIterator[None]:
    services = await run_in_threadpool(Services.open, settings)
    app.state.services = services
    try:
        yield
    finally:
        await run_in_threadpool(services.close)
