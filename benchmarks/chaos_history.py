"""What the clients of a chaos run did and were told: every request with its answer and its times, kept as it happens.

A client never gives up on a request: it repeats it, with its Idempotency-Key, until there is an answer that is not "later". Each try is an
exchange of its own in the history.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2

Json = dict[str, Any]

LATER = frozenset({429, 503})
MAX_PAUSE_SECONDS = 2.0
REQUEST_SECONDS = 30.0
"""A request without an answer for so long has none, which is a finding by itself: the slowest promise is six seconds."""


@dataclass(frozen=True)
class Exchange:
    """One request and what came back.

    Attributes:
        client: Who asked.
        began_at: Seconds since 1970.
        ended_at: When the answer was complete, or the connection failed.
        key: The Idempotency-Key.
        status: None: there was no answer, ``error`` says why.
        document: The members of the answer that the checker looks at.
    """

    client: str
    began_at: float
    ended_at: float
    method: str
    path: str
    key: str | None
    status: int | None
    error: str | None
    retry_after: str | None
    document: Json


KEPT = ("id", "status", "attempt", "snapshot_count", "terminal", "code", "detail")


class History:
    """All exchanges of a run, in memory and in a file of lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._lock = threading.Lock()
        self.exchanges: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        """Keeps an exchange."""
        with self._lock:
            self.exchanges.append(exchange)
            self._file.write(json.dumps(asdict(exchange)) + "\n")

    def flush(self) -> None:
        """Has everything in the file."""
        with self._lock:
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class GaveUpError(AssertionError):
    """A request got no final answer in the time that a run has for it."""


class RecordingClient:
    """One user: a name, the credentials of a tenant, and the history."""

    def __init__(self, name: str, url: str, history: History, *, headers: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._http = httpx2.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False, headers=dict(headers or {}))
        self._history = history

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(self, method: str, path: str, *, body: Json | None = None, key: str | None = None, seconds: float = 180.0) -> httpx2.Response:
        """The first answer that isn't "later" or a broken connection.

        Raises:
            GaveUpError: There was none within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            response = self.call_once(method, path, body=body, key=key)
            if response is not None and response.status_code not in LATER and response.status_code < 500:
                return response
            if time.monotonic() > deadline:
                raise GaveUpError(f"{self.name}: {method} {path} got no final answer within {seconds:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def call_once(self, method: str, path: str, *, body: Json | None = None, key: str | None = None) -> httpx2.Response | None:
        """The answer to one try; None where there is none."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        began_at = time.time()
        response, error = None, None
        try:
            response = (
                self._http.request(method, path, json=body, headers=headers)
                if body is not None
                else self._http.request(method, path, headers=headers)
            )
        except httpx2.TransportError as failure:
            error = f"{type(failure).__name__}: {failure}"
        self._history.add(
            Exchange(
                client=self.name,
                began_at=began_at,
                ended_at=time.time(),
                method=method,
                path=path,
                key=key,
                status=response.status_code if response is not None else None,
                error=error,
                retry_after=response.headers.get("Retry-After") if response is not None else None,
                document=_kept(response) if response is not None else {},
            )
        )
        return response


def _kept(response: httpx2.Response) -> Json:
    if not response.content or "json" not in response.headers.get("Content-Type", ""):
        return {}
    document = response.json()
    return {name: document[name] for name in KEPT if name in document} if isinstance(document, dict) else {}
