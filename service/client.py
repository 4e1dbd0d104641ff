"""The Python client: ``Client`` and, with the same methods to await, ``AsyncClient``.

    with Client() as client:
        dataset = client.datasets.upload("train.csv", target="species")
        job = client.jobs.train(dataset, architecture="mlp", cycles=5).wait(progress=True)
        probabilities = job.ensemble.predict(x)

Objects of the API are dictionaries, as the API documents them; a ``Job`` adds what can be done with one. Every call is described once,
in ``service.client_calls``, and becomes a method of both clients; this module does the sending.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from service import client_calls as calls
from service.client_core import (
    POLL_SECONDS,
    ApiError,
    Call,
    ClientError,
    JobFailedError,
    Json,
    UnreachableError,
    http_options,
    next_page,
    raise_for_problem,
    seconds_before_retry,
    service_url,
)
from service.client_events import EventCursor, has_event, read_event
from service.client_methods import C, JobMethod, ListMethod, Method, Part, of_id

__all__ = ["ApiError", "AsyncClient", "AsyncJob", "Client", "ClientError", "Job", "JobFailedError", "UnreachableError"]

T = TypeVar("T")


class Datasets(Part[C]):
    """``client.datasets``."""

    upload = Method(calls.upload)
    upload_arrays = Method(calls.upload_arrays)
    builtin = Method(calls.builtin)
    get = Method(calls.dataset)
    list = ListMethod(calls.datasets)
    delete = Method(calls.delete_dataset)


class Schedules(Part[C]):
    """``client.schedules``."""

    preview = Method(calls.preview_schedule)


class Jobs(Part[C]):
    """``client.jobs``."""

    train = JobMethod(calls.train)
    submit = JobMethod(calls.submit)
    get = JobMethod(calls.job)
    list = ListMethod(calls.jobs)
    dry_run = Method(calls.dry_run)
    check = Method(calls.check)


class Snapshots(Part[C]):
    """``client.snapshots``."""

    get = Method(calls.snapshot)
    download = Method(calls.download)


class Ensembles(Part[C]):
    """``client.ensembles``."""

    create = Method(calls.create_ensemble)

    def get(self, ensemble_id: str) -> "Ensemble[C]":
        """The ensemble of that id; asks nothing yet."""
        return Ensemble(self.client, ensemble_id)


class Ensemble(Part[C]):
    """Averages its members' predictions; a job's ensemble answers from the first snapshot on and grows."""

    describe = Method(of_id(calls.ensemble))
    predict = Method(of_id(calls.predict))
    explain = Method(of_id(calls.explain))


class JobMethods(Part[C]):
    """A job as it was when it was read: ``data`` is the API's object, ``refresh`` reads it again."""

    def __init__(self, client: C, data: Json) -> None:
        super().__init__(client, data["id"])
        self.data = data
        self.id: str = data["id"]
        self.status: str = data["status"]
        self.ensemble: Ensemble[C] = Ensemble(client, data["ensemble_id"])

    refresh = JobMethod(of_id(calls.job))
    stop = JobMethod(of_id(calls.stop))
    cancel = JobMethod(of_id(calls.cancel))
    delete = Method(of_id(calls.delete_job))
    snapshots = Method(of_id(calls.snapshots))
    metrics = Method(of_id(calls.metrics))
    result = Method(of_id(calls.result))

    def raise_if_failed(self) -> Self:
        """Returns itself.

        Raises:
            JobFailedError: Its status is ``failed``.
        """
        if self.status == "failed":
            raise JobFailedError(self.data)
        return self


class Job(JobMethods["Client"]):
    """A job under a ``Client``."""

    def follow(self, *, after: int = 0) -> Iterator[Json]:
        """Its events after sequence number ``after``, live, until it has ended; goes on after a lost connection."""
        cursor = EventCursor(self.id, after=after)
        while not cursor.is_at_end:
            try:
                yield from filter(cursor.take, self._stream(cursor) if cursor.can_stream else self._page(cursor))
            except httpx2.TransportError as error:
                time.sleep(cursor.seconds_before_reconnect(self.client.url, error))

    def _stream(self, cursor: EventCursor) -> Iterator[Json]:
        with self.client.http.sse(cursor.path, headers=cursor.headers) as source:
            if source.response.is_error:
                source.response.read()
                raise_for_problem(source.response)
            yield from map(read_event, filter(has_event, source))
        cursor.check_is_at_end()

    def _page(self, cursor: EventCursor) -> Iterator[Json]:
        events = self.client.send(cursor.page())
        if not events:
            time.sleep(POLL_SECONDS)
        yield from events

    def wait(self, *, progress: bool = False) -> "Job":
        """The job as it ended; ``progress`` draws bars meanwhile.

        Raises:
            JobFailedError: It failed.
        """
        if progress:
            from service.job_display import JobDisplay  # here, since most scripts never draw

            with JobDisplay(self.data) as display:
                for event in self.follow():
                    display.show(event)
        else:
            for _ in self.follow():
                pass
        return self.refresh().raise_if_failed()


class AsyncJob(JobMethods["AsyncClient"]):
    """A job under an ``AsyncClient``."""

    async def follow(self, *, after: int = 0) -> AsyncIterator[Json]:
        """Its events after sequence number ``after``, live, until it has ended; goes on after a lost connection."""
        cursor = EventCursor(self.id, after=after)
        while not cursor.is_at_end:
            try:
                async for event in self._stream(cursor) if cursor.can_stream else self._page(cursor):
                    if cursor.take(event):
                        yield event
            except httpx2.TransportError as error:
                await asyncio.sleep(cursor.seconds_before_reconnect(self.client.url, error))

    async def _stream(self, cursor: EventCursor) -> AsyncIterator[Json]:
        async with self.client.http.sse(cursor.path, headers=cursor.headers) as source:
            if source.response.is_error:
                await source.response.aread()
                raise_for_problem(source.response)
            async for sent in source:
                if has_event(sent):
                    yield read_event(sent)
        cursor.check_is_at_end()

    async def _page(self, cursor: EventCursor) -> AsyncIterator[Json]:
        events = await self.client.send(cursor.page())
        if not events:
            await asyncio.sleep(POLL_SECONDS)
        for event in events:
            yield event

    async def wait(self) -> "AsyncJob":
        """The job as it ended.

        Raises:
            JobFailedError: It failed.
        """
        async for _ in self.follow():
            pass
        return (await self.refresh()).raise_if_failed()


class Client:
    """A connection to the service: a context manager, or to be closed with ``close``.

    Args:
        url: Where the service is. None: ``SNAPCYCLE_URL``, else http://127.0.0.1:8000.
        timeout_seconds: Longest silence of the service within one answer.
        max_retries: Tries after the first where the service is away (connection refused, 429, 503).
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_seconds: float = 60.0,
        max_retries: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = service_url(url)
        self.max_retries = max_retries
        self.http = httpx2.Client(**http_options(self.url, timeout_seconds=timeout_seconds), transport=transport)
        self.datasets = Datasets(self)
        self.schedules = Schedules(self)
        self.jobs = Jobs(self)
        self.snapshots = Snapshots(self)
        self.ensembles = Ensembles(self)

    def send(self, call: Call[T]) -> T:
        """Sends one call, again where that is safe and of use."""
        for attempt in count():
            outcome: httpx2.Response | httpx2.TransportError
            try:
                with call.request_arguments() as arguments:
                    outcome = self.http.request(call.method, call.path, **arguments)
            except httpx2.TransportError as error:
                outcome = error
            pause = seconds_before_retry(call, attempt, outcome)
            if pause is None or attempt == self.max_retries:
                break
            time.sleep(pause)
        return call.result(outcome, url=self.url)

    def send_for_job(self, call: Call[Json]) -> Job:
        """Sends a call that brings a job."""
        return Job(self, self.send(call))

    def pages(self, call: Call[Json] | None) -> Iterator[Json]:
        """The objects of a list, page after page from ``call`` on."""
        while call is not None:
            page = self.send(call)
            yield from page["data"]
            call = next_page(call, page)

    def capabilities(self) -> Json:
        """Architectures, schedules, limits and versions."""
        return self.send(calls.capabilities())

    def queue(self) -> Json:
        """Depth, running jobs and workers."""
        return self.send(calls.queue())

    def close(self) -> None:
        """Closes the connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """``Client``, with everything to await; the arguments are the same."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_seconds: float = 60.0,
        max_retries: int = 4,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = service_url(url)
        self.max_retries = max_retries
        self.http = httpx2.AsyncClient(**http_options(self.url, timeout_seconds=timeout_seconds), transport=transport)
        self.datasets = Datasets(self)
        self.schedules = Schedules(self)
        self.jobs = Jobs(self)
        self.snapshots = Snapshots(self)
        self.ensembles = Ensembles(self)

    async def send(self, call: Call[T]) -> T:
        """Sends one call, again where that is safe and of use."""
        for attempt in count():
            outcome: httpx2.Response | httpx2.TransportError
            try:
                with call.request_arguments() as arguments:
                    outcome = await self.http.request(call.method, call.path, **arguments)
            except httpx2.TransportError as error:
                outcome = error
            pause = seconds_before_retry(call, attempt, outcome)
            if pause is None or attempt == self.max_retries:
                break
            await asyncio.sleep(pause)
        return call.result(outcome, url=self.url)

    async def send_for_job(self, call: Call[Json]) -> AsyncJob:
        """Sends a call that brings a job."""
        return AsyncJob(self, await self.send(call))

    async def pages(self, call: Call[Json] | None) -> AsyncIterator[Json]:
        """The objects of a list, page after page from ``call`` on."""
        while call is not None:
            page = await self.send(call)
            for item in page["data"]:
                yield item
            call = next_page(call, page)

    async def capabilities(self) -> Json:
        """Architectures, schedules, limits and versions."""
        return await self.send(calls.capabilities())

    async def queue(self) -> Json:
        """Depth, running jobs and workers."""
        return await self.send(calls.queue())

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
