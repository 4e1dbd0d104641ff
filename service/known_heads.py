"""Heads of plain requests, byte by byte as they came: who sends the same one again needs no parser.

Clients send the same request line and headers with every prediction, and to parse them takes longer than anything else that is done for a
small one. What a head means depends on its bytes alone, so it is remembered, for all connections.
"""

import asyncio

from service.short_answers import PlainHead, PlainRequest

MAX_HEADS = 1000
MAX_HEAD_BYTES = 2048
END = b"\r\n\r\n"

SINGULAR = ("authorization", "cookie", "x-api-key", "x-request-id")
"""Heads with these are not kept: secrets stay in memory no longer than their request, and ids are different each time."""


class KnownHeads:
    """At most ``MAX_HEADS`` of them."""

    def __init__(self) -> None:
        self._heads: dict[bytes, PlainHead] = {}

    def request_of(self, data: bytes, loop: asyncio.AbstractEventLoop) -> PlainRequest | None:
        """The request that ``data`` is, where that is one whole request with a known head."""
        end = data.find(END, 0, MAX_HEAD_BYTES + len(END))
        head = self._heads.get(data[:end]) if end > 0 else None
        start = end + len(END)
        return PlainRequest(head, loop, {}, data[start:]) if head is not None and len(data) - start == head.body_bytes else None

    def note(self, data: bytes, head: PlainHead) -> None:
        """Remembers the head of ``data`` where that was, from its first byte to its last, one request with this head."""
        end = data.find(END, 0, MAX_HEAD_BYTES + len(END))
        if end < 0 or len(data) != end + len(END) + head.body_bytes or any(name in head.headers for name in SINGULAR):
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[data[:end]] = head
