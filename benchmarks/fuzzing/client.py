"""A connection that sends bytes as they are and reads what comes back; no HTTP library would let such requests out."""

import asyncio
import time
from dataclasses import dataclass
from typing import Self

STREAMS = ("text/event-stream", "application/jsonl")
"""Answers that go on for as long as their job does: only their head is read."""


@dataclass(frozen=True)
class Answer:
    """What came back. Status 0: the connection ended without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Connection:
    """One client that keeps its connection as long as the server does."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def exchange(self, data: bytes, *, is_head: bool, is_last: bool, timeout_seconds: float) -> Answer:
        """Sends one request and reads its answer. ``is_last``: nothing follows on the connection, and the server is told so.

        Raises:
            TimeoutError: The answer isn't complete in time.
            ConnectionError: The server closed the connection before the answer began, and again on a new connection.
        """
        began = time.monotonic()
        if is_last:
            self.close()
        async with asyncio.timeout(timeout_seconds):
            was_open = self._writer is not None
            try:
                status, headers, body = await self._attempt(data, is_head=is_head, is_last=is_last)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if is_last or not was_open:
                    return Answer(0, {}, b"", time.monotonic() - began)
                status, headers, body = await self._retry(data, is_head=is_head)  # it was closed while nothing was under way
        return Answer(status, headers, body, time.monotonic() - began)

    def close(self) -> None:
        """Ends the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _retry(self, data: bytes, *, is_head: bool) -> tuple[int, dict[str, str], bytes]:
        try:
            return await self._attempt(data, is_head=is_head, is_last=False)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            return 0, {}, b""

    async def _attempt(self, data: bytes, *, is_head: bool, is_last: bool) -> tuple[int, dict[str, str], bytes]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 20)
        self._writer.write(data)
        if is_last and self._writer.can_write_eof():
            self._writer.write_eof()
        status, headers = await _read_head(self._reader)
        while 100 <= status < 200:
            status, headers = await _read_head(self._reader)
        is_stream = headers.get("content-type", "").startswith(STREAMS) and "content-length" not in headers
        body = b"" if is_head or is_stream or status in (204, 304) else await _read_body(self._reader, headers)
        if is_last or is_stream or headers.get("connection", "").lower() == "close":
            self.close()
        return status, headers, body

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(lines[0].split()[1]), headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = headers.get("content-length")
        return await (reader.readexactly(int(length)) if length is not None else reader.read())
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body
