"""uvicorn's HTTP protocol with a bound on what a client can send before its request begins, and an end for streams.

uvicorn 0.54 with httptools collects a request line and headers of any length; what ASGI sees, and can refuse, comes after that.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
END_STREAMS = "end_streams"
"""Key of the lifespan's state: the function that ends the event streams."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose request line and headers go on for too long; ``uvicorn.Config(http=BoundedHttpProtocol)``."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Counts what comes before the end of the headers."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Request line and headers must take less than {MAX_HEAD_BYTES} bytes.")

    def shutdown(self) -> None:
        """The server stops: it waits for open answers, and an event stream would never end by itself. Its reader resumes by id."""
        if END_STREAMS in self.app_state:
            self.app_state[END_STREAMS]()
        super().shutdown()

    def on_headers_complete(self) -> None:
        """The head is over; a body is counted elsewhere."""
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes belong to another head."""
        self._in_head = True
        super().on_message_complete()
