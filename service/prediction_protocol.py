"""The HTTP protocol that takes the short way: a plain prediction is answered from here, and never becomes an ASGI task.

uvicorn's protocol calls ``_start_asgi_task`` where it hands a request to the application. A request that is plain is held there until its
body is whole, and either answered in one write or handed on after all.
"""

from functools import partial
from typing import Any, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.http_protocol import BoundedHttpProtocol, Bounds
from service.metrics import OK
from service.short_answers import PlainRequest
from service.short_way import SHORT_WAY, ShortWay
from worker.settings import Settings

_Held = tuple[RequestResponseCycle, PlainRequest]


class PredictionHttpProtocol(BoundedHttpProtocol):
    """``BoundedHttpProtocol`` with the short way. At most one request of a connection is on it."""

    _held: _Held | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        request = self._plain_request(cycle, app)
        if request is None:
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._held = cycle, request
        else:  # it came whole while an earlier request was answered
            self._predict(cycle, request)

    def on_message_complete(self) -> None:
        """Answers the held request, which this must be the end of: what comes behind it on the connection is not read yet."""
        super().on_message_complete()
        if self._held is not None:
            held, self._held = self._held, None
            self._predict(*held)

    def _plain_request(self, cycle: RequestResponseCycle, app: ASGI3Application) -> PlainRequest | None:
        """The request where the short way takes it: nothing about the connection may be out of the ordinary either."""
        short_way: ShortWay | None = self.app_state.get(SHORT_WAY)
        if short_way is None or app is not self.app or self.config.access_log or self.flow.write_paused:
            return None
        return short_way.plain_request(cast(Scope, cycle.scope), self.loop)

    def _predict(self, cycle: RequestResponseCycle, request: PlainRequest) -> None:
        request.body = bytes(cycle.body)
        self.app_state[SHORT_WAY].answer(request, partial(self._told, cycle))

    def _told(self, cycle: RequestResponseCycle, answer: tuple[bytes, bytes] | None) -> None:
        """Writes the answer, or hands the request to the application."""
        is_gone = cycle.disconnected or self.transport.is_closing()
        if answer is None and not is_gone:
            super()._start_asgi_task(cycle, self.app)
            return
        if answer is not None and not is_gone:
            self._write(*answer, keep_alive=cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        cycle.body, cycle.on_response = bytearray(), _nothing  # else an idle connection keeps them, and a closed one itself
        if is_gone:
            return
        if not cycle.keep_alive:
            self.transport.close()
        if self.pipeline or not cycle.keep_alive:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if self._is_between_requests:  # else a part of the next head is here, and its time runs
            self._watch(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _write(self, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        lines = [STATUS_LINE[OK]]
        for name, value in self.server_state.default_headers:
            lines += [name, b": ", value, b"\r\n"]
        lines += [head, b"\r\n" if keep_alive else b"connection: close\r\n\r\n", body]
        self.transport.write(b"".join(lines))


def _nothing() -> None:
    """What happens after an answer that has been completed."""


def http_protocol(settings: Settings) -> Any:
    """The protocol with the bounds of the settings, for ``uvicorn.Config(http=…)``, which calls it as a class."""
    return partial(PredictionHttpProtocol, bounds=Bounds.of(settings))
