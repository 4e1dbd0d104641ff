"""A network that fails: a proxy between clients and a Redis server, on unix sockets, whose behaviour can be changed while it runs."""

import asyncio
import threading
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

CHUNK_BYTES = 65_536
DELAY_SECONDS = 0.5
SLOW_BYTES_PER_SECOND = 1024


class Weather(StrEnum):
    """What the network does."""

    FAIR = "fair"
    """It passes on what it is given."""
    DELAY = "delay"
    """Every piece comes half a second late."""
    SLOW = "slow"
    """A kilobyte a second."""
    HALF_OPEN = "half_open"
    """Connections stay open and nothing arrives, in either direction; new ones are accepted, too."""
    CUT = "cut"
    """Connections are reset, new ones refused."""


class FaultProxy:
    """Passes connections to ``directory``/proxy.sock on to ``server``; a thread of its own does the work."""

    def __init__(self, server: Path, directory: Path) -> None:
        self.path = directory / "proxy.sock"
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._weather = Weather.FAIR
        self._connections: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self.num_resets = 0

    @property
    def url(self) -> str:
        """For SNAPCYCLE_REDIS_URL."""
        return f"unix://{quote(str(self.path))}?db=0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = self._call(asyncio.start_unix_server(self._serve, str(self.path)))
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def become(self, weather: Weather) -> None:
        """Changes the behaviour, for open connections too. The end of HALF_OPEN resets those whose bytes it has swallowed."""
        was, self._weather = self._weather, weather
        if weather is Weather.CUT or was is Weather.HALF_OPEN:
            self.reset()

    def reset(self) -> None:
        """Breaks every connection."""
        self._call(self._reset())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _reset(self) -> None:
        self.num_resets += len(self._connections) // 2
        for writer in list(self._connections):
            writer.transport.abort()

    async def _end(self) -> None:
        assert self._listener is not None
        self._listener.close()
        await self._reset()
        self._weather = Weather.FAIR
        while self._connections:  # each ends by itself, now that its sockets are closed
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather is Weather.CUT:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_unix_connection(str(self._server))
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, upstream}
        try:
            await asyncio.gather(self._pipe(reader, upstream), self._pipe(upstream_reader, writer))
        finally:
            self._connections -= {writer, upstream}

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes bytes on until one side ends; then the other ends, too."""
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await self._pass_on(chunk, writer)
        except ConnectionError:
            return
        finally:
            writer.transport.abort()

    async def _pass_on(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        match self._weather:
            case Weather.HALF_OPEN:
                return
            case Weather.DELAY:
                await asyncio.sleep(DELAY_SECONDS)
            case Weather.SLOW:
                await asyncio.sleep(len(chunk) / SLOW_BYTES_PER_SECOND)
        writer.write(chunk)
        await writer.drain()
