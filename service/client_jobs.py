"""A job in the hands of a client: what can be done with it, and its events live, whatever becomes of the connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Self

import httpx2

from service import client_calls as calls
from service import client_figures
from service.client_core import POLL_SECONDS, JobFailedError, Json
from service.client_events import EventCursor, has_event, may_be_last, raise_for_stream, read_event
from service.client_methods import C, JobMethod, Method, Part, of_id
from service.client_parts import Ensemble

if TYPE_CHECKING:
    from service.client import AsyncClient, Client  # noqa: F401  (named in the text of generic bases)


class JobMethods(Part[C]):
    """A job as it was when it was read: ``data`` is the API's object, ``refresh`` reads it again."""

    def __init__(self, client: C, data: Json) -> None:
        super().__init__(client, data["id"])
        self.data = data
        self.id: str = data["id"]
        self.status: str = data["status"]

    refresh = JobMethod(of_id(calls.job))
    stop = JobMethod(of_id(calls.stop))
    cancel = JobMethod(of_id(calls.cancel))
    pause = JobMethod(of_id(calls.pause))
    resume = JobMethod(of_id(calls.resume))
    extend = JobMethod(of_id(calls.extend))
    delete = Method(of_id(calls.delete_job))
    snapshots = Method(of_id(calls.snapshots))
    metrics = Method(of_id(calls.metrics))
    result = Method(of_id(calls.result))
    figures = Method(of_id(client_figures.figures))
    figure = Method(of_id(client_figures.figure))

    @property
    def ensemble(self) -> Ensemble[C]:
        """The ensemble of its snapshots.

        Raises:
            ValueError: It takes none: it is of another kind than train.
        """
        ensemble_id = self.data["ensemble_id"]
        if ensemble_id is None:
            raise ValueError(f"{self.id} is of kind {self.data['kind']}, which takes no snapshots: its answer is result()")
        return Ensemble(self.client, ensemble_id)

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
                raise_for_stream(source.response)
            yield from map(read_event, filter(has_event, source))
        cursor.check_is_at_end()

    def _page(self, cursor: EventCursor) -> Iterator[Json]:
        events = self.client.send(cursor.page())
        if may_be_last(events):
            job = self.client.send(calls.job(self.id))
            later = self.client.send(cursor.page(behind=events)) if job["terminal"] else []
            events = cursor.settled(events, later, job)
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
                raise_for_stream(source.response)
            async for sent in source:
                if has_event(sent):
                    yield read_event(sent)
        cursor.check_is_at_end()

    async def _page(self, cursor: EventCursor) -> AsyncIterator[Json]:
        events = await self.client.send(cursor.page())
        if may_be_last(events):
            job = await self.client.send(calls.job(self.id))
            later = await self.client.send(cursor.page(behind=events)) if job["terminal"] else []
            events = cursor.settled(events, later, job)
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
