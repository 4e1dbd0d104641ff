"""What a client says to the service and how it reads the answers, without any input or output.

``Client`` and ``AsyncClient`` send these calls; everything that could be decided differently in the two is decided here: paths, bodies,
errors, when to try again, how an interrupted event stream goes on.

Exceptions: ``ClientError`` is the root of ``ApiError`` (the service refused), ``ServiceUnreachable`` (no answer) and ``JobFailed``.
"""

import io
import os
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import httpx2
import numpy as np

T = TypeVar("T")
Json = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8000"
NPY = "application/x-npy"
MAX_WAIT_SECONDS = 30.0
"""Longest pause before another try, whatever ``Retry-After`` asks for."""


class ClientError(Exception):
    """Root of what this client raises."""


class ServiceUnreachable(ClientError):
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
        for error in problem.get("errors", ()):
            lines.append(f"  {error.get('pointer', '#')}: {error.get('detail', '')}")
            if error.get("hint"):
                lines.append(f"    hint: {error['hint']}")
            if error.get("did_you_mean"):
                lines.append(f"    did you mean {' or '.join(error['did_you_mean'])}?")
        super().__init__("\n".join(lines))


class JobFailed(ClientError):
    """The job that was waited for ended as ``failed``."""

    def __init__(self, job: Json) -> None:
        self.job = job
        error = job.get("error") or {}
        reason = error.get("detail") or error.get("message") or "no reason was recorded"
        suggestion = f"\n  {error['suggestion']}" if error.get("suggestion") else ""
        super().__init__(f"{job['id']} failed: {reason}{suggestion}")


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

    def result(self, response: httpx2.Response) -> T:
        """Reads an answer.

        Raises:
            ApiError: Its status is not 2xx.
        """
        raise_for_problem(response)
        return self.read(response)


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
    pause = min(5.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
    match outcome:
        case httpx2.Response(status_code=429 | 503):
            asked = outcome.headers.get("Retry-After", "")
            return min(float(asked), MAX_WAIT_SECONDS) if asked.isdigit() else pause
        case httpx2.Response():
            return None
        case httpx2.ConnectError() | httpx2.ConnectTimeout():  # nothing was sent
            return pause
        case _:
            return pause if call.is_repeatable else None


def service_url(url: str | None) -> str:
    """The service's address: the argument, else ``SNAPCYCLE_URL``, else this machine's port 8000."""
    return (url or os.environ.get("SNAPCYCLE_URL") or DEFAULT_URL).rstrip("/")


def http_options(url: str, timeout_seconds: float) -> dict[str, Any]:
    """The arguments that both of ``httpx2``'s clients are made with."""
    is_local = httpx2.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return {
        "base_url": url,
        "timeout": httpx2.Timeout(timeout_seconds, connect=5.0),
        "trust_env": not is_local,  # a proxy leads nowhere from this machine to itself
        "follow_redirects": True,
    }


def new_key() -> dict[str, str]:
    """A fresh idempotency key: every try of one call carries the same, so it takes effect once."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def read_json(response: httpx2.Response) -> Json:
    """An object of the API."""
    document: Json = response.json()
    return document


def read_npy(response: httpx2.Response) -> np.ndarray:
    """An array in NumPy's own format."""
    array: np.ndarray = np.load(io.BytesIO(response.content), allow_pickle=False)
    return array


def get(path: str, **params: str | int | None) -> Call[Json]:
    """A plain GET; parameters that are None are left out."""
    return Call(method="GET", path=path, read=read_json, params={name: value for name, value in params.items() if value is not None})


def next_page(call: Call[Json], page: Json) -> Call[Json] | None:
    """The call for the page after ``page`` of a list; None: it was the last."""
    return replace(call, params={**call.params, "after": page["last_id"]}) if page["has_more"] else None


def post(path: str, body: Json | None = None, **params: str | int) -> Call[Json]:
    """A POST that carries an idempotency key."""
    return Call(method="POST", path=path, read=read_json, params=params, json=body, headers=new_key())


def delete(path: str) -> Call[None]:
    """A DELETE; not repeated after a lost answer, since the second one would find nothing."""
    return Call(method="DELETE", path=path, read=lambda response: None, is_repeatable=False)


def upload_dataset(source: Path | tuple[str, bytes], *, target: str | None, task: str | None, name: str | None) -> Call[Json]:
    """Sends a ``.npz`` or ``.csv`` file."""
    fields = {"target": target, "task": task, "name": name}
    return Call(
        method="POST",
        path="/v1/datasets",
        read=read_json,
        headers=new_key(),
        upload=source,
        fields={name: value for name, value in fields.items() if value is not None},
    )


def npz(x: np.ndarray, y: np.ndarray, x_test: np.ndarray | None, y_test: np.ndarray | None) -> tuple[str, bytes]:
    """The arrays as an uploadable ``.npz``."""
    arrays = {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items() if array is not None})
    return "arrays.npz", file.getvalue()


class TrainOptions(TypedDict, total=False):
    """Keyword arguments of ``jobs.train``: fields of the request, with those of the model and of the schedule lifted to the top.

    What is left out gets the service's default; ``schedule`` gives a whole schedule in place of its lifted fields.
    """

    architecture: str
    params: Json
    schedule: Json
    cycles: int
    epochs_per_cycle: float
    epochs: float
    max_lr: float
    min_lr: float
    cycle_mult: float | str
    restart_decay: float
    warmup_steps: int
    boundaries: str
    optimizer: Json
    batch_size: int
    seed: int
    precision: str
    augmentation: str
    validation_fraction: float
    test_fraction: float
    name: str
    metadata: dict[str, str]


SCHEDULE_FIELDS = frozenset(
    ("cycles", "epochs_per_cycle", "epochs", "max_lr", "min_lr", "cycle_mult", "restart_decay", "warmup_steps", "boundaries")
)
MODEL_FIELDS = frozenset(("architecture", "params"))


def training_request(dataset: str | Mapping[str, Any], options: TrainOptions) -> Json:
    """The body of ``POST /v1/jobs``.

    Raises:
        ValueError: Both ``schedule`` and one of its fields were given.
    """
    given: Json = dict(options)
    model = {name: given.pop(name) for name in MODEL_FIELDS & given.keys()}
    schedule = {name: given.pop(name) for name in SCHEDULE_FIELDS & given.keys()}
    if schedule and "schedule" in given:
        raise ValueError(f"schedule and {', '.join(sorted(schedule))} were both given: put everything into schedule")
    body: Json = {"kind": "train", "dataset_id": dataset if isinstance(dataset, str) else dataset["id"], **given}
    if model:
        body["model"] = model
    if schedule:
        body["schedule"] = {"type": "warm_restarts", **schedule}
    return body


Inputs = np.ndarray | Sequence[Mapping[str, Any]]
"""What can be predicted: an array with a row per input, or a table's rows as ``{column: value}``."""


def predict(ensemble_id: str, inputs: Inputs, *, version: int | None) -> Call[np.ndarray]:
    """Asks for the bare array: probabilities (B, C) float32, or the means (B,) of a regression."""
    return replace(_prediction(ensemble_id, inputs, version=version, accept=NPY), read=read_npy)


def explain(ensemble_id: str, inputs: Inputs, *, version: int | None, **params: str | int) -> Call[Json]:
    """Asks for labels, probabilities and uncertainty as JSON."""
    return _prediction(ensemble_id, inputs, version=version, accept="application/json", **params)


def _prediction(ensemble_id: str, inputs: Inputs, *, version: int | None, accept: str, **params: str | int) -> Call[Any]:
    if version is not None:
        params["version"] = version
    call: Call[Any] = Call(
        method="POST", path=f"/v1/ensembles/{ensemble_id}/predict", read=read_json, params=params, headers={"Accept": accept}
    )
    if not isinstance(inputs, np.ndarray):
        return replace(call, json={"instances": [dict(row) for row in inputs]})
    file = io.BytesIO()
    np.save(file, inputs, allow_pickle=False)
    return replace(call, content=file.getvalue(), headers={"Accept": accept, "Content-Type": NPY})


class EventCursor:
    """Where a reader stands in a job's events, across reconnects.

    Invariant: every event is handed out once and in order, whether it came by stream or by page.
    """

    MAX_FAILURES = 8
    """Connections in a row that brought nothing; with the pauses between them, about 25 s without the service."""

    def __init__(self, job_id: str, after: int) -> None:
        self.path = f"/v1/jobs/{job_id}/events"
        self.seq = after
        self.is_at_end = False
        self.can_stream = True
        self._failures = 0

    @property
    def headers(self) -> dict[str, str]:
        """Asks a stream to go on where this reader stands."""
        return {"Last-Event-ID": str(self.seq)}

    def page(self) -> Call[Json]:
        """The next page, for where streams don't get through."""
        return get(self.path, after=self.seq, limit=500)

    def take(self, event: Json) -> bool:
        """Moves past ``event``; False when it was seen before."""
        if event["seq"] <= self.seq:
            return False
        self.seq = event["seq"]
        self._failures = 0
        self.is_at_end = self.is_at_end or event["type"] == "end"
        return True

    def seconds_before_reconnect(self, url: str, error: httpx2.TransportError) -> float:
        """The pause after a broken stream.

        Raises:
            ServiceUnreachable: It broke too often without an event in between.
        """
        if isinstance(error, httpx2.SSEError):  # something in between answers, but not with a stream
            self.can_stream = False
        self._failures += 1
        if self._failures > self.MAX_FAILURES:
            raise ServiceUnreachable(url, error) from error
        return float(min(5.0, 0.1 * 2**self._failures))
