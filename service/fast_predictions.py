"""The short way for plain predictions, in front of everything else.

A small body without query parameters, from no browser, whose members are in memory: it is decoded, computed and answered here, without
routing, validation models or threads. Whatever is out of the ordinary, an error too, goes the long way through the application, with the
body that was read; so every rule and every error has one place, and this one only says yes. An answer is the same either way.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.authorization import DOOR_SAID
from service.dependencies import Services
from service.errors import Problem
from service.fast_answers import FastAnswer, FastRequest, fast_infer, fast_predict
from service.limits import MAX_HEADER_BYTES, MAX_URL_BYTES, request_id_of
from service.media import JSON
from service.metrics import OK, RequestCounts
from service.origins import is_loopback_host
from service.principals import Scope as KeyScope
from service.security_headers import SECURITY_HEADERS

MAX_JSON_BYTES = 1 << 16
MAX_BINARY_BYTES = 1 << 18
"""Bodies that are decoded in a fraction of a millisecond, so that the event loop does it itself."""

ROUTES = {"/predict": ("/v1/ensembles/", fast_predict), "/infer": ("/v2/models/", fast_infer)}
"""By the end of a path its beginning, between which the ensemble stands, and what answers there."""

UNUSUAL = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"origin", b"upgrade"})
"""Headers with rules of their own."""

_PROTECTIVE = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class FastPredictions:
    """ASGI middleware, the outermost.

    Args:
        app: What everything else goes on to.
        counts: Where its requests are counted, since those who count come behind it.
        serves_loopback: Whether the Host header must name this machine (service.origins).
        limit_bytes: SNAPCYCLE_MAX_PREDICT_BYTES.
    """

    def __init__(self, app: ASGIApp, *, counts: RequestCounts, serves_loopback: bool, limit_bytes: int) -> None:
        self.app = app
        self._counts = counts
        self._serves_loopback = serves_loopback
        self._max_bytes = {JSON.encode(): min(MAX_JSON_BYTES, limit_bytes)}
        self._max_binary_bytes = min(MAX_BINARY_BYTES, limit_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        route = _route(scope) if scope["type"] == "http" else None
        if route is None or (headers := self._plain(scope)) is None:
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        services: Services = scope["app"].state.services
        body = b""
        try:
            principal, rate_headers = services.door.admit(Headers(scope=scope), KeyScope.PREDICT)
            scope["state"][DOOR_SAID] = principal, rate_headers
            with services.predictor.admitted():
                body = await _whole_body(receive)
                request = FastRequest(route.ensemble_id, headers, body, begun)
                answer = await route.answer(request, services.seen_by(principal.tenant))
        except _GoneError:
            return
        except Exception as error:  # noqa: BLE001  # the long way meets it again, and says what it is
            if isinstance(error, Problem) and DOOR_SAID not in scope["state"]:
                scope["state"][DOOR_SAID] = error
            await self.app(scope, _again(body, receive), send)
            return
        raw = [
            (b"content-length", str(len(answer.body)).encode()),
            *answer.headers,
            (b"x-request-id", request_id_of(headers.get(b"x-request-id", b"").decode("latin-1")).encode()),
            *_PROTECTIVE,
            *((name.lower().encode(), value.encode()) for name, value in rate_headers.items()),
        ]
        await send({"type": "http.response.start", "status": OK, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})
        self._counts.add(method="POST", route=route.template, status=OK, seconds=time.perf_counter() - begun)

    def _plain(self, scope: Scope) -> dict[bytes, bytes] | None:
        """The headers of a request that nothing is unusual about."""
        raw = scope["headers"]
        headers: dict[bytes, bytes] = dict(raw)
        if len(headers) != len(raw) or not UNUSUAL.isdisjoint(headers):
            return None
        limit = self._max_bytes.get(headers.get(b"content-type", b""), self._max_binary_bytes)
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > len(str(limit)) or not 0 < int(length) <= limit:
            return None
        if self._serves_loopback and not is_loopback_host(headers.get(b"host", b"").decode("latin-1")):
            return None
        if sum(len(name) + len(value) for name, value in raw) > MAX_HEADER_BYTES:
            return None
        return headers


@dataclass(frozen=True)
class _Route:
    template: str
    ensemble_id: str
    answer: Callable[[FastRequest, Services], Awaitable[FastAnswer]]


def _route(scope: Scope) -> _Route | None:
    """Where the path leads without further parameters."""
    path: str = scope["path"]
    end = path[path.rfind("/") :]
    if end not in ROUTES or scope["method"] != "POST" or scope["query_string"] or len(path) > MAX_URL_BYTES:
        return None
    start, answer = ROUTES[end]
    ensemble_id = path[len(start) : -len(end)]
    if not path.startswith(start) or not ensemble_id or "/" in ensemble_id:
        return None
    return _Route(f"{start}{{ensemble_id}}{end}", ensemble_id, answer)


class _GoneError(Exception):
    """The client went away before the end of its body."""


async def _whole_body(receive: Receive) -> bytes:
    """The body; its size is known and small."""
    message = await receive()
    body: Any = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    if message["type"] != "http.request":
        raise _GoneError
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Receives the body that was read, and what comes after it; as it was where nothing was read."""
    if not body:
        return receive
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return parts.pop() if parts else await receive()

    return receive_again
