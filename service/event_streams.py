"""The answer that brings events: counted while it is open, since it takes a connection for as long as its reader wants."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.allowances import Allowance
from service.principals import Principal

RETRY_SECONDS = 5


def stream_allowance(max_connections: int) -> Allowance:
    """Half of the connections for all, of which a tenant has a quarter, and a key a quarter of that."""
    total = max(1, max_connections // 2)
    return Allowance(
        "event streams",
        total=total,
        of_tenant=max(1, total // 4),
        of_key=max(1, total // 16),
        remedy="close those that nobody reads, or ask for pages of events (Accept: application/json)",
        retry_seconds=RETRY_SECONDS,
    )


class EventStream(StreamingResponse):
    """A stream of events that counts as open until it ends, however it ends.

    Args:
        content: What is sent.
        media_type: Its type.
        headers: Further ones.
        allowance: What it is counted in.
        principal: Its reader.
    """

    def __init__(
        self, content: AsyncIterator[bytes], *, media_type: str, headers: dict[str, str], allowance: Allowance, principal: Principal
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._allowance, self._principal = allowance, principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, or raises ``Problem`` before its first byte where too many are open."""
        with self._allowance.holding(self._principal) as take:
            take(1)
            await super().__call__(scope, receive, send)
