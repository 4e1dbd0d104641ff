"""The application: middleware, routes, error handling, and the life of what they use."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from service.authorization import SignInNeeded, authorized
from service.capabilities import installed_version
from service.conditional_requests import ConditionalRequests
from service.dependencies import Services
from service.errors import answer_problem, install_error_handling, problem_of
from service.http_protocol import END_STREAMS
from service.limits import RequestIds, RequestLimits, body_limit_of
from service.metrics import CountRequests, RequestCounts
from service.openapi import install_openapi, problem_responses
from service.origins import OwnPagesOnly, is_loopback
from service.query_parameters import refuse_undeclared_parameters
from service.routes import aliases, api_keys, datasets, ensembles, figures, job_outputs, jobs, oip, schedules, snapshots, system
from service.short_way import SHORT_WAY, ShortWay
from service.sign_in_page import POLICY as SIGN_IN_POLICY
from service.sign_in_page import sign_in_page
from worker.job_store import StoreUnavailable
from worker.settings import Settings

ROUTE_MODULES = (datasets, schedules, jobs, job_outputs, figures, snapshots, ensembles, aliases, oip, api_keys, system)

GC_THRESHOLDS = (10_000, 20, 20)
"""Python's own (700, 10, 10) look for cycles several times in the answers to a few dozen predictions, which took a third of their time."""

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
        dependencies=[Depends(authorized), Depends(refuse_undeclared_parameters)],
    )
    own_head = [route.path_regex for route in _api_routes() if "HEAD" in (route.methods or ())]
    app.add_middleware(ConditionalRequests, own_head=own_head)
    app.add_middleware(OwnPagesOnly, is_loopback=is_loopback(settings.host))
    app.add_middleware(RequestLimits, body_limit=body_limit_of(settings))
    app.add_middleware(RequestIds)
    app.state.request_counts = RequestCounts()
    app.add_middleware(CountRequests, counts=app.state.request_counts)
    install_error_handling(app)
    app.add_exception_handler(StoreUnavailable, _answer_outage)
    app.add_exception_handler(405, _answer_wrong_method)
    app.add_exception_handler(SignInNeeded, _answer_with_sign_in_page)
    install_openapi(app)
    for module in ROUTE_MODULES:
        app.include_router(module.router)
    return app


async def _answer_wrong_method(request: Request, exc: Exception) -> Response:
    """The 405 with the methods of all routes of the path; Starlette names those of the first."""
    response = await answer_problem(request, exc)
    methods = {method for route in _api_routes() if route.path_regex.match(request.url.path) for method in route.methods or ()}
    if "GET" in methods:
        methods.add("HEAD")
    if methods:  # else it is one of FastAPI's own paths
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response


async def _answer_with_sign_in_page(_request: Request, exc: Exception) -> Response:
    """The 401 as a page that asks for the key."""
    headers = {**problem_of(exc).headers, "Content-Security-Policy": SIGN_IN_POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(sign_in_page(), status_code=401, headers=headers)


def _api_routes() -> list[APIRoute]:
    return [route for module in ROUTE_MODULES for route in module.router.routes if isinstance(route, APIRoute)]


async def _answer_outage(request: Request, exc: Exception) -> Response:
    request.app.state.services.outage.notice()
    return await answer_problem(request, exc)


@asynccontextmanager
async def _lifespan(app: FastAPI, *, settings: Settings) -> AsyncIterator[dict[str, object]]:
    services = await run_in_threadpool(Services.open, settings)
    app.state.services = services
    gc.collect()
    gc.freeze()  # the modules stay: to go through them again stops every thread for 0.2 s in the middle of a large answer
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield {END_STREAMS: services.hub.end_streams, SHORT_WAY: ShortWay(services, app.state.request_counts)}
    finally:
        await run_in_threadpool(services.close)
