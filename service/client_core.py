"""How a client talks to the service, without doing it: calls, errors, when to try again, how a broken event stream goes on.

``Client`` and ``AsyncClient`` only send; what could be decided differently in the two is decided here.

Exceptions: ``ClientError`` is the root of ``ApiError`` (the service refused), ``UnreachableError`` (no answer) and ``JobFailedError``.
"""

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx2

T = TypeVar("T")
Json = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_PAUSE_SECONDS = 30.0
"""Longest pause before another try, whatever ``Retry-After`` asks for."""
POLL_SECONDS = 1.0
"""Pause between pages of events where streams don't get through."""


class ClientError(Exception):
    """Root of what this client raises."""


class UnreachableError(ClientError):
    """No answer came: nothing listens, or the connection broke too often."""

    def __init__(self, url: str, reason: Exception) -> None:
        super().__init__(f"no answer from {url} ({reason}): start the service with 'snapcycle up', or set SNAPCYCLE_URL to where it runs")


class ApiError(ClientError):
    """The service refused; carries its problem document (RFC 9457).

    Attributes:
        status: The HTTP status.
        code: The short name of the problem, for example ``validation_error``.
        problem: The whole document.
    """

    def __init__(self, status: int, problem: Json) -> None:
        self.status = status
        self.code: str = problem.get("code", "unknown")
        self.problem = problem
        lines = [problem.get("detail") or problem.get("title") or f"HTTP status {status}"]
        if problem.get("hint"):
            lines.append(f"  hint: {problem['hint']}")
        for error in problem.get("errors", ()):
            lines.append(f"  {error.get('pointer') or error.get('parameter') or '#'}: {error.get('detail', '')}")
            if error.get("hint"):
                lines.append(f"    hint: {error['hint']}")
            if error.get("did_you_mean"):
                lines.append(f"    did you mean {' or '.join(error['did_you_mean'])}?")
        super().__init__("\n".join(lines))


class JobFailedError(ClientError):
    """The job that was waited for ended as ``failed``."""

    def __init__(self, job: Json) -> None:
        self.job = job
        error = job.get("error") or {}
        suggestion = f"\n  {error['suggestion']}" if error.get("suggestion") else ""
        super().__init__(f"{job['id']} failed: {error.get('message', 'no reason was recorded')}{suggestion}")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One request, and how its answer is read.

    Attributes:
        read: Makes the result of a 2xx answer.
        upload: A file or (name, bytes) to send as the ``file`` part of a form; ``fields`` are its other parts.
        is_repeatable: Whether sending it twice is harmless, so that it may be sent again after an answer was lost.
    """

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Json | None = None
    content: bytes | None = None
    upload: Path | tuple[str, bytes] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True

    @contextmanager
    def request_arguments(self) -> Iterator[dict[str, Any]]:
        """The arguments for ``httpx2``'s ``request``; an upload's file is open meanwhile."""
        arguments: dict[str, Any] = {"params": dict(self.params), "headers": dict(self.headers)}
        if self.json is not None:
            arguments["json"] = self.json
        if self.content is not None:
            arguments["content"] = self.content
        if isinstance(self.upload, tuple):
            yield {**arguments, "files": {"file": self.upload}, "data": dict(self.fields)}
        elif self.upload is not None:
            with self.upload.open("rb") as file:
                yield {**arguments, "files": {"file": (self.upload.name, file)}, "data": dict(self.fields)}
        else:
            yield arguments

    def result(self, outcome: httpx2.Response | httpx2.TransportError, *, url: str) -> T:
        """Reads the answer.

        Raises:
            ApiError: Its status is not 2xx.
            UnreachableError: There is none.
        """
        if isinstance(outcome, httpx2.TransportError):
            raise UnreachableError(url, outcome) from outcome
        raise_for_problem(outcome)
        return self.read(outcome)


def raise_for_problem(response: httpx2.Response) -> None:
    """Raises ``ApiError`` unless the status is 2xx; the body must have been read."""
    if response.is_success:
        return
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    raise ApiError(response.status_code, problem if isinstance(problem, dict) else {})


def seconds_before_retry(call: Call[Any], attempt: int, outcome: httpx2.Response | httpx2.TransportError) -> float | None:
    """How long to wait before sending ``call`` again after try number ``attempt`` (from 0); None: the outcome is final."""
    pause: float = min(5.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311  (spreads tries, hides nothing)
    match outcome:
        case httpx2.Response(status_code=429) if b'"quota_exceeded"' in outcome.content:
            return None  # it takes more than patience
        case httpx2.Response(status_code=429 | 503):
            asked: str = outcome.headers.get("Retry-After", "")
            return min(float(asked), MAX_PAUSE_SECONDS) if asked.isdecimal() else pause
        case httpx2.Response():
            return None
        case httpx2.ConnectError() | httpx2.ConnectTimeout():  # nothing was sent
            return pause
        case _:
            return pause if call.is_repeatable else None


def service_url(url: str | None) -> str:
    """The service's address: the argument, else ``SNAPCYCLE_URL``, else this machine's port 8000."""
    return (url or os.environ.get("SNAPCYCLE_URL") or DEFAULT_URL).rstrip("/")


def service_key(api_key: str | None) -> str | None:
    """The API key: the argument, else ``SNAPCYCLE_API_KEY``, else none.

    Raises:
        ClientError: It cannot stand in a header. Nothing of it is repeated.
    """
    key = (api_key or os.environ.get("SNAPCYCLE_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ClientError("an API key has the form sk_…, letters, digits, _ and - alone: see SNAPCYCLE_API_KEY and api_key=")
    return key or None


def http_options(url: str, *, timeout_seconds: float, api_key: str | None) -> dict[str, Any]:
    """The arguments that both of ``httpx2``'s clients are made with. A redirect to another host gets no key."""
    key = service_key(api_key)
    is_local = httpx2.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return {
        "base_url": url,
        "timeout": httpx2.Timeout(timeout_seconds, connect=5.0),
        "trust_env": not is_local,  # a proxy leads nowhere from this machine to itself
        "follow_redirects": True,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
    }


def next_page(call: Call[Json], page: Json) -> Call[Json] | None:
    """The call for the page after ``page`` of a list; None: it was the last."""
    return replace(call, params={**call.params, "after": page["last_id"]}) if page["has_more"] else None
