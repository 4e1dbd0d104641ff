"""What every request passes first: its id, the limits of its URL, headers and body, and the headers of every answer.

Pure ASGI, so that a body that is too large is refused before it is read, and nothing is buffered twice.
"""

import asyncio
import re
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, problem_response
from service.oip_paths import ENCODINGS, is_inference_path
from service.security_headers import SECURITY_HEADERS
from worker.ids import new_id
from worker.settings import Settings

MAX_HEADER_BYTES = 32 * 1024
MAX_URL_BYTES = 8 * 1024
MULTIPART_OVERHEAD_BYTES = 64 * 1024
"""What a form adds to its file: boundaries, part headers, the other fields."""

DRAIN_BYTES = 64 * 1024
"""An unread rest up to this size is read and dropped, so that the connection can go on."""

LINGER_SECONDS = 2.0
"""How long an unread body may go on after its refusal; closing at once would reset the answer away (RFC 9112, section 9.6)."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def own_request_id(given: str) -> str | None:
    """The request's own id, where it has a usable one."""
    return given if given and _REQUEST_ID.fullmatch(given) else None


class RequestIds:
    """Takes the request's ``X-Request-ID`` or makes one, and puts it and the protective headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = own_request_id(Headers(scope=scope).get("x-request-id", "")) or new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in (SECURITY_HEADERS | scope["state"].get("answer_headers", {})).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RequestLimits:
    """Refuses what is too large: by its declared size before anything is read, else while it is read."""

    def __init__(self, app: ASGIApp, body_limit: Callable[[Scope], int]) -> None:
        self.app = app
        self.body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self.body_limit(scope))
        refusal = _refuse_head(scope) or body.refuse_declared()
        if refusal is not None:
            await problem_response(scope, refusal)(scope, body.receive, body.send)
        else:
            await self.app(scope, body.receive, body.send)


class _Body:
    """One request's body: counts what is read, and ends the connection when an answer leaves a large rest unread."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        self._length = int(declared) if declared.isdecimal() else None
        self._ended = self._length == 0 or (self._length is None and "transfer-encoding" not in headers)
        self._encoding = headers.get("content-encoding", "identity")
        self._encodings = ("identity", *(ENCODINGS if is_inference_path(scope["path"]) else ()))
        self._receive, self._send, self._limit = receive, send, limit
        self._received = 0

    def refuse_declared(self) -> Problem | None:
        """The refusal that the headers alone justify."""
        if self._length is not None and self._length > self._limit:
            return self._too_large(f"{self._length} bytes")
        if self._encoding.lower() not in self._encodings and not self._ended:
            return Problem("unsupported_media_type", f"Content-Encoding {self._encoding[:40]} is not supported: send the body as it is")
        return None

    async def receive(self) -> Message:
        """The next part of the body; raises ``Problem`` when the parts add up to more than the limit."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self._received > self._limit:
                raise self._too_large("more")
        return message

    async def send(self, message: Message) -> None:
        """Passes the answer on; an answer that comes before the body's end closes the connection after a while."""
        if message["type"] == "http.response.start" and self._rest_is_large():
            MutableHeaders(scope=message)["Connection"] = "close"
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and self._rest_is_large():
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _rest_is_large(self) -> bool:
        return not self._ended and (self._length is None or self._length - self._received > DRAIN_BYTES)

    async def _linger(self) -> None:
        """Drops what still arrives until the client has had time to see the answer."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._ended:
                    message = await self._receive()
                    self._ended = message["type"] != "http.request" or not message.get("more_body", False)
                    await asyncio.sleep(0.01)  # a fast sender gets 64 KiB each time: about 12 MB in all, not its gigabytes
        except TimeoutError:
            self._ended = True

    def _too_large(self, size: str) -> Problem:
        return Problem(
            "too_large", f"the body may have at most {self._limit} bytes here, got {size}: send less", extra={"limit_bytes": self._limit}
        )


def body_limit_of(settings: Settings) -> Callable[[Scope], int]:
    """The function that says how many bytes the body of a request may have."""

    def limit(scope: Scope) -> int:
        path = scope["path"]
        if path == "/v1/datasets" and Headers(scope=scope).get("content-type", "").startswith("multipart/"):
            return settings.max_upload_bytes + MULTIPART_OVERHEAD_BYTES
        if (path.startswith("/v1/ensembles/") and path.endswith("/predict")) or is_inference_path(path):
            return settings.max_predict_bytes
        return settings.max_json_bytes

    return limit


def _refuse_head(scope: MutableMapping[str, Any]) -> Problem | None:
    url_bytes = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if url_bytes > MAX_URL_BYTES:
        return Problem("uri_too_long", f"path and query may have at most {MAX_URL_BYTES} bytes, got {url_bytes}: shorten the query")
    header_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
    if header_bytes > MAX_HEADER_BYTES:
        return Problem("headers_too_large", f"the headers may have at most {MAX_HEADER_BYTES} bytes, got {header_bytes}: send fewer")
    return None
