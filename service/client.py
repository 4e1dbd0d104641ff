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
    ApiError,
    Call,
    ClientError,
    JobFailedError,
    Json,
    UnreachableError,
    http_options,
    next_page,
    seconds_before_retry,
    service_url,
)
from service.client_jobs import AsyncJob, Job
from service.client_parts import Datasets, Ensembles, Jobs, Schedules, Snapshots

__all__ = ["ApiError", "AsyncClient", "AsyncJob", "Client", "ClientError", "Job", "JobFailedError", "UnreachableError"]

T = TypeVar("T")


class Client:
    """A connection to the service: a context manager, or to be closed with ``close``.

    Args:
        url: Where the service is. None: ``SNAPCYCLE_URL``, else http://127.0.0.1:8000.
        api_key: sk_…, where the service asks for one. None: ``SNAPCYCLE_API_KEY``. It is sent to this host alone and never shown.
        timeout_seconds: Longest silence of the service within one answer.
        max_retries: Tries after the first where the service is away (connection refused, 429, 503).
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        max_retries: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = service_url(url)
        self.max_retries = max_retries
        self.http = httpx2.Client(**http_options(self.url, timeout_seconds=timeout_seconds, api_key=api_key), transport=transport)
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
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        max_retries: int = 4,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = service_url(url)
        self.max_retries = max_retries
        self.http = httpx2.AsyncClient(**http_options(self.url, timeout_seconds=timeout_seconds, api_key=api_key), transport=transport)
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
