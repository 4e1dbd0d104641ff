"""The short way for plain predictions: the HTTP protocol itself answers, without a task, routing, middleware or validation models.

A request is plain if its body is small, it has no query parameters and comes from no browser. Whatever turns out to be out of the ordinary,
an error too, goes the long way through the application, with the body that was read; so every rule and every error has one place, and this
one only says yes. An answer is the same either way.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from clr.ensemble import Ensemble
from service.authorization import DOOR_SAID
from service.batcher import Outcome
from service.dependencies import Services
from service.ensembles import Members
from service.errors import Problem
from service.known_heads import KnownHeads
from service.limits import MAX_HEADER_BYTES, MAX_URL_BYTES, own_request_id
from service.metrics import BEGUN, OK, RequestCounts
from service.origins import is_loopback, is_loopback_host
from service.principals import Scope as KeyScope
from service.security_headers import SECURITY_HEADERS
from service.short_answers import Answered, Begin, PlainHead, PlainRequest, infer, predict
from worker.ids import new_id

SHORT_WAY = "short_way"
"""Key of the lifespan's state: the ``ShortWay``."""

MAX_BYTES = HIGH_WATER_LIMIT
"""Bodies that uvicorn holds without a pause, whoever reads them; to decode one takes about a millisecond at most."""

MAX_LENGTH_DIGITS = 6

ROUTES: dict[str, tuple[str, Callable[[Headers], Begin | None]]] = {
    "/predict": ("/v1/ensembles/", predict),
    "/infer": ("/v2/models/", infer),
}
"""By the end of a path its beginning, between which the ensemble stands, and what answers there."""

UNUSUAL = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"origin", b"upgrade"})
"""Headers with rules of their own."""

_PROTECTIVE = "".join(f"{name.lower()}: {value}\r\n" for name, value in SECURITY_HEADERS.items())
_HEAD = b"content-length: %d\r\n%sx-request-id: %s\r\n" + _PROTECTIVE.replace("%", "%%").encode()

Head = bytes
"""Header lines of an answer, without those that the server itself adds."""
Tell = Callable[[tuple[Head, bytes] | None], None]
"""Gets head and body of a 200, or None for the long way."""


class ShortWay:
    """Answers plain requests.

    Args:
        services: The application's.
        counts: Where its requests are counted, since the application does not see them.

    Attributes:
        heads: Of those that came before.
    """

    def __init__(self, services: Services, counts: RequestCounts) -> None:
        self._services, self._counts = services, counts
        self._max_bytes = min(MAX_BYTES, services.settings.max_predict_bytes)
        self._serves_loopback = is_loopback(services.settings.host)
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads = KnownHeads()

    def plain_request(self, scope: Scope, loop: asyncio.AbstractEventLoop) -> PlainRequest | None:
        """The request with this head, whose body is still to come; None where it has to go the long way."""
        path: str = scope["path"]
        end = path[path.rfind("/") :]
        if end not in ROUTES or scope["method"] != "POST" or scope["query_string"] or len(path) > MAX_URL_BYTES:
            return None
        start, route = ROUTES[end]
        ensemble_id = path[len(start) : -len(end)]
        if not path.startswith(start) or not ensemble_id or "/" in ensemble_id:
            return None
        body_bytes = self._plain_body(scope["headers"])
        headers = Headers(raw=list(scope["headers"]))
        begin = route(headers) if body_bytes else None
        if begin is None:
            return None
        given = own_request_id(headers.get("x-request-id", ""))
        head = PlainHead(f"{start}{{ensemble_id}}{end}", ensemble_id, headers, body_bytes, given.encode() if given else None, begin)
        return PlainRequest(head, loop, scope["state"])

    def _plain_body(self, raw: list[tuple[bytes, bytes]]) -> int:
        """The length of the body where there is nothing unusual about it and the headers, else 0."""
        headers = dict(raw)
        if len(headers) != len(raw) or not UNUSUAL.isdisjoint(headers):
            return 0
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS or int(length) > self._max_bytes:
            return 0
        if self._serves_loopback and not is_loopback_host(headers.get(b"host", b"").decode("latin-1")):
            return 0
        if sum(map(len, headers)) + sum(map(len, headers.values())) > MAX_HEADER_BYTES:
            return 0
        return int(length)

    def answer(self, request: PlainRequest, tell: Tell) -> None:
        """Calls ``tell`` once, on the request's event loop, on which this is called too, now or later; the request has no body then."""
        state = request.state
        state[BEGUN] = request.begun
        try:
            principal, rate_headers = self._services.door.admit(request.head.headers, KeyScope.PREDICT)
            state[DOOR_SAID] = principal, rate_headers
            self._services.predictor.enter()
        except Exception as error:  # noqa: BLE001  # the long way meets it again, and says what it is
            if isinstance(error, Problem) and DOOR_SAID not in state:
                state[DOOR_SAID] = error
            request.body = b""
            tell(None)
            return
        finish = partial(self._finish, request, rate_headers, tell)
        try:
            services = self._services.seen_by(principal.tenant)
            members = services.ensembles.recent(request.head.ensemble_id) if services.predictor.has_company else None
            ensemble = services.predictor.loaded(members) if members is not None else None
        except Exception:  # noqa: BLE001  # as above; the place must be given back
            finish(None)
            return
        if members is not None and ensemble is not None:
            _compute(services, request, members, ensemble, finish)
            return
        task = request.loop.create_task(_look_and_compute(services, request, finish))
        self._tasks.add(task)  # the loop itself would not keep it alive
        task.add_done_callback(self._tasks.discard)

    def _finish(self, request: PlainRequest, rate_headers: dict[str, str], tell: Tell, answered: Answered | None) -> None:
        self._services.predictor.leave()
        request.body = b""  # an idle connection keeps its last request
        if answered is None:
            tell(None)
            return
        request_id = request.head.request_id or new_id("req").encode()
        head = _HEAD % (len(answered.body), answered.head, request_id)
        if rate_headers:
            head += "".join(f"{name.lower()}: {value}\r\n" for name, value in rate_headers.items()).encode()
        tell((head, answered.body))
        self._counts.add(method="POST", route=request.head.template, status=OK, seconds=time.perf_counter() - request.begun)


_Finish = Callable[[Answered | None], None]


async def _look_and_compute(services: Services, request: PlainRequest, finish: _Finish) -> None:
    """Answers where the members have to be looked up, or loaded, first."""
    try:
        members = await services.ensembles.find_soon(request.head.ensemble_id)
        ensemble = services.predictor.loaded(members)
        if ensemble is None:
            ensemble = await run_in_threadpool(services.predictor.load, members)
    except Exception:  # noqa: BLE001  # the long way meets it again, and says what it is
        finish(None)
        return
    _compute(services, request, members, ensemble, finish)


def _compute(services: Services, request: PlainRequest, members: Members, ensemble: Ensemble, finish: _Finish) -> None:
    """Decodes the body, has the rows computed, and hands the answer on; None in place of every error."""
    try:
        answering = request.head.begin(request, members, ensemble, services.settings)
    except Exception:  # noqa: BLE001  # as above
        finish(None)
        return

    def computed(outcome: Outcome) -> None:
        answered: Answered | None = None
        if not isinstance(outcome, Exception):
            with suppress(Exception):  # as above
                answered = answering.answered(outcome)
        finish(answered)

    services.predictor.submit(ensemble, answering.rows, computed, request.loop)
