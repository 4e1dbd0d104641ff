"""Heads of plain requests, byte by byte as they came: who sends the same one again needs no parser.

Clients send the same request line and headers with every prediction, and to parse them takes longer than anything else that is done for a
small one. What a head means depends on its bytes alone, so it is remembered, for all connections.
"""

from dataclasses import dataclass

from service.short_answers import PlainRequest

MAX_HEADS = 1000
MAX_HEAD_BYTES = 2048
END = b"\r\n\r\n"

SINGULAR = frozenset({b"authorization", b"cookie", b"x-api-key", b"x-request-id"})
"""Heads with these are not kept: secrets stay in memory no longer than their request, and ids are different each time."""


@dataclass(frozen=True)
class KnownHead:
    """What a head has turned out to mean.

    Attributes:
        request: The request that it began; only its body, time and state are its own.
        body_bytes: The length of the body behind it.
    """

    request: PlainRequest
    body_bytes: int


class KnownHeads:
    """At most ``MAX_HEADS`` of them."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def request_of(self, data: bytes) -> PlainRequest | None:
        """The request that ``data`` is, where that is one whole request with a known head."""
        end = data.find(END, 0, MAX_HEAD_BYTES + len(END))
        known = self._heads.get(data[:end]) if end > 0 else None
        start = end + len(END)
        if known is None or len(data) - start != known.body_bytes:
            return None
        like = known.request
        scope = {"headers": like.scope["headers"], "state": {}}
        return PlainRequest(scope, like.template, like.ensemble_id, like.begin, like.headers, like.loop, body=data[start:])

    def note(self, data: bytes, request: PlainRequest) -> None:
        """Remembers the head of ``data`` where that was, from its first byte to its last, the request."""
        end = data.find(END, 0, MAX_HEAD_BYTES + len(END))
        body_bytes = int(request.headers[b"content-length"])
        if end < 0 or len(data) != end + len(END) + body_bytes or not SINGULAR.isdisjoint(request.headers):
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        like = PlainRequest(
            {"headers": request.scope["headers"]}, request.template, request.ensemble_id, request.begin, request.headers, request.loop
        )
        self._heads[data[:end]] = KnownHead(like, body_bytes)
