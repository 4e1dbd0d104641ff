"""Keep-alive HTTP/1.1 connections that cost the measuring side next to nothing."""

import asyncio
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """Status and body of a response."""

    status: int
    body: bytes


class HttpConnection:
    """One connection, one request at a time."""

    def __init__(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = f"{host}:{port}"
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """A connection to ``http://host:port``."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        port = parts.port or 80
        return cls(parts.hostname, port, *await asyncio.open_connection(parts.hostname, port))

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent; a server may close a connection that is idle."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def request(self, method: str, path: str, *, key: str | None = None, body: bytes = b"", headers: tuple[str, ...] = ()) -> Answer:
        """Sends one request and reads its whole answer.

        Raises:
            asyncio.IncompleteReadError: The server closed the connection.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}", *headers]
        lines += ["Content-Type: application/json"] if body else []
        lines += [f"Authorization: Bearer {key}"] if key else []
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = next(int(line.split(":")[1]) for line in head if line.lower().startswith("content-length:"))
        return Answer(int(head[0].split()[1]), await self._reader.readexactly(length))

    def close(self) -> None:
        """Ends it."""
        self._writer.close()
