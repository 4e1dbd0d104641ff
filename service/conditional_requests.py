"""HEAD for every GET, and validators for those who poll: an answer that is the one they have is told in a 304, without its body.

The tag is the hash of the body, so it is true of whatever a route answers, and costs microseconds beside making that answer.
"""

import hashlib
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TAG = re.compile(rb'(?:W/)?("[^"]*")')
IS_HEAD = "is_head"
"""Name in the request's state: whether the answer's body will be dropped. Routes that would stream leave it out themselves."""


class ConditionalRequests:
    """Answers HEAD as GET without a body, and If-None-Match on answers that come in one piece (RFC 9110, sections 9.3.2 and 13.1.2).

    Args:
        app: What the request goes on to.
        own_head: The paths whose routes take HEAD themselves.
    """

    def __init__(self, app: ASGIApp, *, own_head: Sequence[re.Pattern[str]] = ()) -> None:
        self.app = app
        self.own_head = own_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD" and not any(path.match(scope["path"]) for path in self.own_head)
        scope.setdefault("state", {})[IS_HEAD] = is_head
        answer = _Answer(scope, send, without_body=is_head)
        if not is_head:
            await self.app(scope, receive, answer.send)
            return
        scope["method"] = "GET"
        try:
            await self.app(scope, receive, answer.send)
        finally:
            scope["method"] = "HEAD"  # also where nothing was answered: what is counted is what was asked


class _Answer:
    """One answer on its way: the head of one that may come in one piece is held back until the first part of the body has come.

    A stream has no length, and may be silent for long: its head goes at once.
    """

    def __init__(self, scope: Scope, send: Send, *, without_body: bool) -> None:
        self._scope = scope
        self._send = send
        self._without_body = without_body
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Passes a part of the answer on."""
        if self._without_body:
            self._scope["method"] = "HEAD"  # the server looks at it, and wants no body then
        if message["type"] == "http.response.start" and "content-length" in Headers(raw=message["headers"]):
            self._start = message
            return
        if self._start is not None and message["type"] == "http.response.body":
            start, self._start = self._start, None
            is_whole = not message.get("more_body", False)
            if is_whole and start["status"] == 200 and self._is_same(start, message.get("body", b"")):
                message = {**message, "body": b""}
            await self._send(start)
        if self._without_body and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    def _is_same(self, start: Message, body: bytes) -> bool:
        """Tags an answer that has no tag; makes it a 304 where the client has it already."""
        headers = MutableHeaders(scope=start)
        if "etag" in headers or "immutable" in headers.get("cache-control", ""):
            return False
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        headers["ETag"] = tag
        if not _matches(Headers(scope=self._scope).getlist("if-none-match"), tag):
            return False
        start["status"] = 304
        for name in ("content-length", "content-type"):
            del headers[name]
        return True


def _matches(conditions: Sequence[str], tag: str) -> bool:
    """Whether one of the If-None-Match headers names the tag, which is compared weakly."""
    return any(condition.strip() == "*" or tag.encode() in _TAG.findall(condition.encode("latin-1")) for condition in conditions)
