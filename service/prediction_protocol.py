"""The HTTP protocol that takes the short way: a plain prediction is answered from here, and never becomes an ASGI task.

uvicorn's protocol calls ``_start_asgi_task`` where it hands a request to the application. A request that is plain is held there until its
body is whole, and either answered in one write or handed on after all. A whole request whose head has come before, byte by byte, does not
even go through the parser, unless it turns out not to be plain.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.http_protocol import BoundedHttpProtocol, Bounds
from service.metrics import OK
from service.short_answers import PlainHead, PlainRequest
from service.short_way import SHORT_WAY, ShortWay
from worker.settings import Settings

_Held = tuple[RequestResponseCycle, PlainRequest]


@dataclass(eq=False)
class _Unparsed:
    """Stands where uvicorn has the cycle of the request that is being answered, and is all that uvicorn wants of it."""

    request: PlainRequest
    keep_alive: bool = True
    disconnected: bool = False
    response_complete: bool = False

    @property
    def message_event(self) -> Self:
        """Has ``set``: nobody waits for it."""
        return self

    def set(self) -> None:
        """Does nothing."""


class PredictionHttpProtocol(BoundedHttpProtocol):
    """``BoundedHttpProtocol`` with the short way. At most one request of a connection is on it."""

    _held: _Held | None = None
    _unparsed: _Unparsed | None = None
    _later: bytes = b""
    _said: dict[str, Any] | None = None
    _plain: PlainHead | None = None
    _has_begun: bool = False
    _num_begun: int = 0

    def data_received(self, data: bytes) -> None:
        """Answers a whole request with a known head; whatever else comes goes through the parser."""
        if self._unparsed is not None:
            self._later += data
            self.flow.pause_reading()
            return
        short_way: ShortWay | None = self.app_state.get(SHORT_WAY)
        is_at_head = self._is_between_requests or not self._has_begun
        if (
            is_at_head
            and short_way is not None
            and self._is_free()
            and (request := short_way.heads.request_of(data, self.loop)) is not None
        ):
            self._answer_unparsed(short_way, request, data)
            return
        self._has_begun, self._plain, self._num_begun = True, None, 0
        super().data_received(data)
        is_one_request = is_at_head and self._num_begun == 1 and self._is_between_requests
        if is_one_request and short_way is not None and self._plain is not None:
            short_way.heads.note(data, self._plain)
        self._plain = None  # it may hold a secret

    def on_message_begin(self) -> None:
        """Counts the requests that begin in what came."""
        self._num_begun += 1
        super().on_message_begin()

    def _is_free(self) -> bool:
        """Whether nothing is under way on the connection, and nothing about it is out of the ordinary."""
        return (
            self.cycle is not None
            and self.cycle.response_complete
            and not self.pipeline
            and not self.flow.write_paused
            and not self.config.access_log
            and not self.transport.is_closing()
        )

    def _answer_unparsed(self, short_way: ShortWay, request: PlainRequest, data: bytes) -> None:
        self._watch(None)
        self._unset_keepalive_if_required()
        self._unparsed = _Unparsed(request)
        self.cycle = cast(RequestResponseCycle, self._unparsed)
        short_way.answer(request, partial(self._told_unparsed, self._unparsed, data))

    def _told_unparsed(self, unparsed: _Unparsed, data: bytes, answer: tuple[bytes, bytes] | None) -> None:
        """Writes the answer, or lets the request come as if it were new; then goes on with what came behind it."""
        unparsed.response_complete, self._unparsed = True, None
        later, self._later = self._later, b""
        if unparsed.disconnected or self.transport.is_closing():
            return
        if answer is None:
            self._said = unparsed.request.state
            super().data_received(data)
            self._said = None
        else:
            self._write(*answer, keep_alive=unparsed.keep_alive)
            self.server_state.total_requests += 1
            if not unparsed.keep_alive:
                self.transport.close()
                return
            self._watch(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if later:
            self.flow.resume_reading()
            self.data_received(later)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self._said is not None:  # it has been on the short way
            cycle.scope["state"].update(self._said)
            self._said = None
            super()._start_asgi_task(cycle, app)
            return
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
        request = short_way.plain_request(cast(Scope, cycle.scope), self.loop)
        self._plain = request.head if request is not None and cycle.keep_alive else None
        return request

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
