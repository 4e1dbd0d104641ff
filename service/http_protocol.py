"""uvicorn's HTTP protocol with bounds on connections, on what comes before a request begins, and on the time that a request may arrive in.

uvicorn 0.54 with httptools collects a request line and headers of any length, and waits for ever for the rest of a request; what ASGI
sees, and can refuse, comes after that.
"""

import math
from asyncio import BaseTransport, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import Problem, problem_response
from worker.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
IDLE_SECONDS = 75
"""How long an idle connection stays open: longer than load balancers keep one (60 s is usual), which else send requests into its end."""
END_STREAMS = "end_streams"
"""Key of the lifespan's state: the function that ends the event streams."""


@dataclass(frozen=True)
class Bounds:
    """What one connection, and all together, may take.

    Attributes:
        head_seconds: From the connection, or the first byte of a further request, to the end of its headers.
        stall_seconds: A body that is being waited for must bring ``stall_bytes`` in this time.
    """

    max_connections: int = 4096
    head_seconds: float = 10.0
    stall_seconds: float = 20.0
    stall_bytes: int = 4096

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the settings."""
        return cls(
            max_connections=settings.max_connections,
            head_seconds=settings.head_seconds,
            stall_seconds=settings.body_stall_seconds,
            stall_bytes=settings.min_body_bytes,
        )


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes a connection that is one too many, whose head goes on for too long, or whose body hardly arrives."""

    def __init__(self, *args: Any, bounds: Bounds | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds or Bounds()
        self._head_bytes = 0
        self._body_bytes = 0
        self._in_head = True
        self._is_between_requests = False
        self._timer: TimerHandle | None = None
        self._deadline = math.inf
        self._when_overdue: Callable[[], None] | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Takes the connection, or answers that there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn wants the narrower asyncio.Transport, which it is
        if len(self.connections) > self._bounds.max_connections:
            detail = (
                f"{self._bounds.max_connections} connections are open, the most that may be: repeat the request, and close what is idle"
            )
            self._answer(Problem("overloaded", detail))
        else:
            self._watch(self._bounds.head_seconds, self._end_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._watch(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes before the end of the headers, and of the body."""
        if self.transport.is_closing():  # one too many
            return
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._body_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Request line and headers must take less than {MAX_HEAD_BYTES} bytes.")

    def shutdown(self) -> None:
        """The server stops: it waits for open answers, and an event stream would never end by itself. Its reader resumes by id."""
        if END_STREAMS in self.app_state:
            self.app_state[END_STREAMS]()
        super().shutdown()

    def on_message_begin(self) -> None:
        """The first byte of a request; before that of a further one the keep-alive limits the wait."""
        super().on_message_begin()
        if self._is_between_requests:
            self._is_between_requests = False
            self._watch(self._bounds.head_seconds, self._end_slow_head)

    def on_headers_complete(self) -> None:
        """The head is over; a body is counted elsewhere."""
        self._in_head, self._head_bytes, self._body_bytes = False, 0, 0
        self._watch(self._bounds.stall_seconds, self._end_stalled_body)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes belong to another head."""
        self._in_head = self._is_between_requests = True
        self._watch(None)
        super().on_message_complete()

    def _watch(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        """Calls ``then`` in so many seconds unless this is called again before: None ends the watch.

        A timer that comes too early is set again, so that most requests of a busy connection make none.
        """
        self._when_overdue = then
        if seconds is None:
            return
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._deadline, self._look_at_clock)
        elif self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self.loop.call_at(self._deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer, then = None, self._when_overdue
        if then is None:
            return
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._look_at_clock)
        else:
            self._when_overdue = None
            then()

    def _end_slow_head(self) -> None:
        self._answer(Problem("request_timeout", f"the headers took longer than {self._bounds.head_seconds:g} s: send them at once"))

    def _end_stalled_body(self) -> None:
        """Ends a body that stalls; one that the application doesn't ask for yet may wait."""
        if self._body_bytes < self._bounds.stall_bytes and not self.flow.read_paused:
            self.transport.close()  # the application sees that the client went away; its answer may have begun
            return
        self._body_bytes = 0
        self._watch(self._bounds.stall_seconds, self._end_stalled_body)

    def _answer(self, problem: Problem) -> None:
        """Answers without the application and closes the connection."""
        if self.transport.is_closing():
            return
        response = problem_response({"path": "/"}, problem)
        head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        status = f"HTTP/1.1 {response.status_code} {problem.kind.title}\r\n".encode()
        self.transport.write(status + head + b"connection: close\r\n\r\n" + cast(bytes, response.body))
        self.transport.close()
