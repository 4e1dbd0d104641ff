"""Live events for any number of clients over one blocking reader.

A follower reads pages from the job store until it has caught up, then takes what the hub's reader thread hands out. Sequence
numbers have no gaps, so a follower notices whatever it missed, and reads that from the store again: a slow client costs a bounded
queue and loses nothing.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.errors import to_json
from worker.job_store import Event, JobStore, StoreUnavailable

PAGE_EVENTS = 500
MAX_WAITING_BATCHES = 64
READ_MILLISECONDS = 200
"""How long one read blocks, and so how long a job that gets its first follower can wait for the reader to notice."""

PING_SECONDS = 15.0
AWAY_SECONDS = 0.5
"""Pause before the store is asked again while it is away."""
LOOK_SECONDS = 0.5
"""How often followers that wait are asked whether they may see more. API keys are read once a second, so they end within two."""

MayGoOn = Callable[[], bool]
"""Whether a follower may see more; called from any thread."""


def _always() -> bool:
    return True


class Subscription:
    """One follower's bounded queue of batches; what does not fit is dropped and read from the store later.

    Args:
        may_go_on: Whether the follower may see more.
    """

    def __init__(self, may_go_on: MayGoOn = _always) -> None:
        self.may_go_on = may_go_on
        self._loop = asyncio.get_running_loop()
        self._batches: asyncio.Queue[Sequence[Event] | None] = asyncio.Queue(MAX_WAITING_BATCHES)
        self._has_dropped = False

    def offer(self, events: Sequence[Event] | None) -> None:
        """Hands over a batch, from any thread; None ends the wait for one."""
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._put, events)

    def _put(self, events: Sequence[Event] | None) -> None:
        try:
            self._batches.put_nowait(events)
        except asyncio.QueueFull:
            self._has_dropped = True

    async def next(self, seconds: float) -> Sequence[Event] | None:
        """The next batch, an empty one in place of those that were dropped; None when there is none for so long, or to look again."""
        if self._has_dropped and self._batches.empty():
            self._has_dropped = False
            return ()
        try:
            return await asyncio.wait_for(self._batches.get(), seconds)
        except TimeoutError:
            return None


class EventHub:
    """Reads the events of all followed jobs in one thread. Invariant: a job is read exactly while it has a subscription."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._positions: dict[str, int] = {}
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self.is_stopping = False
        self._looked_at = -math.inf
        self._thread = threading.Thread(target=self._read, name="event-reader", daemon=True)

    def start(self) -> None:
        """Starts the reader."""
        self._thread.start()

    def close(self) -> None:
        """Ends the reader."""
        self._closing.set()
        self._wanted.set()
        self._thread.join()

    def end_streams(self) -> None:
        """Ends all followers, since the server stops; call it in their event loop's thread."""
        self.is_stopping = True
        with self._lock:
            waiting = [subscription for subscriptions in self._subscriptions.values() for subscription in subscriptions]
        for subscription in waiting:
            subscription.offer(())

    @contextmanager
    def subscription(self, job_id: str, after: int, may_go_on: MayGoOn = _always) -> Iterator[Subscription]:
        """Every event after ``after``, and perhaps some before it where someone else follows the job from there."""
        subscription = Subscription(may_go_on)
        with self._lock:
            self._subscriptions.setdefault(job_id, set()).add(subscription)
            self._positions[job_id] = min(after, self._positions.get(job_id, after))
            self._wanted.set()
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions[job_id].remove(subscription)
                if not self._subscriptions[job_id]:
                    del self._subscriptions[job_id], self._positions[job_id]
                if not self._positions and not self._closing.is_set():
                    self._wanted.clear()

    def _read(self) -> None:
        while self._wanted.wait() and not self._closing.is_set():
            with self._lock:
                positions = dict(self._positions)
            if not positions:
                continue
            try:
                found = self._store.wait_events(positions, READ_MILLISECONDS)
            except StoreUnavailable:
                self._closing.wait(AWAY_SECONDS)
                found = {}
            for job_id, events in found.items():
                self._hand_out(job_id, events)
            self._wake_refused()

    def _wake_refused(self) -> None:
        """Lets those followers notice that may see no more; the others go on waiting."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        with self._lock:
            waiting = [subscription for subscriptions in self._subscriptions.values() for subscription in subscriptions]
        for subscription in waiting:
            if not subscription.may_go_on():
                subscription.offer(None)

    def _hand_out(self, job_id: str, events: Sequence[Event]) -> None:
        with self._lock:
            subscriptions = list(self._subscriptions.get(job_id, ()))
            if events and subscriptions:
                self._positions[job_id] = events[-1].seq
        for subscription in subscriptions:
            subscription.offer(events)


async def follow(hub: EventHub, store: JobStore, job_id: str, after: int, *, may_go_on: MayGoOn = _always) -> AsyncIterator[Event | None]:
    """All events after sequence number ``after``, each once and in order, up to the job's ``end`` or the server's.

    Yields None where nothing happened for ``PING_SECONDS``. A store that is away is waited for.

    Args:
        hub: Reads the events that are still to come.
        store: Has those before.
        job_id: Whose events.
        after: The last sequence number that is known.
        may_go_on: Whether the follower may see more: asked before each event and, where there is none, about every second.
    """
    async with aclosing(_followed(hub, store, job_id, after, may_go_on)) as events:
        async for event in events:
            if not may_go_on():
                return
            yield event


async def _followed(hub: EventHub, store: JobStore, job_id: str, after: int, may_go_on: MayGoOn) -> AsyncGenerator[Event | None]:
    live: Subscription | None = None
    with ExitStack() as stack:
        while not hub.is_stopping:
            page = await _page(store, job_id, after)
            if page is None:
                yield None
                await asyncio.sleep(AWAY_SECONDS)
                continue
            for event in page:
                after = event.seq
                if event.type == "end" and await _goes_on(store, job_id, event):
                    continue
                yield event
                if event.type == "end":
                    return
            if len(page) == PAGE_EVENTS:
                continue
            if not page and (end := await _end_behind(store, job_id, after)) is not None:
                yield end
                return
            if live is None:
                live = stack.enter_context(hub.subscription(job_id, after, may_go_on))
                continue  # reads again what came before the subscription
            async for live_event in _in_sequence(live, after):
                if live_event is not None:
                    after = live_event.seq
                    if live_event.type == "end" and await _goes_on(store, job_id, live_event):
                        continue
                yield live_event
                if live_event is not None and live_event.type == "end":
                    return


async def _in_sequence(live: Subscription, after: int) -> AsyncIterator[Event | None]:
    """Live events that continue ``after`` without a gap; returns at a gap, the server's end, and a silence, which it reports as None."""
    while (batch := await live.next(PING_SECONDS)) is not None:
        if not batch:
            return
        for event in batch:
            if event.seq > after + 1:
                return
            if event.seq == after + 1:
                after = event.seq
                yield event
    yield None


async def _page(store: JobStore, job_id: str, after: int) -> Sequence[Event] | None:
    try:
        return await run_in_threadpool(store.events, job_id, after, PAGE_EVENTS)
    except StoreUnavailable:
        return None


async def _goes_on(store: JobStore, job_id: str, end: Event) -> bool:
    """Whether a job was extended after this end of it, so that its stream has another one."""
    try:
        return bool(await run_in_threadpool(store.events, job_id, end.seq, 1))
    except StoreUnavailable:
        return False


async def _end_behind(store: JobStore, job_id: str, after: int) -> Event | None:
    """The end of a stream that was resumed behind its last event, or whose job is deleted; None while the job can go on."""
    try:
        record = await run_in_threadpool(store.get, job_id)
    except StoreUnavailable:
        return None
    if record is None:
        return Event(after, "end", "", {"status": "deleted"})
    end = Event(after, "end", record.finished_at or "", {"status": record.status.value})
    if not record.status.is_terminal or await _goes_on(store, job_id, end):  # what it did since the last look comes first
        return None
    return end


def event_document(event: Event) -> dict[str, object]:
    """An event as it is sent in every representation: its own fields beside seq, type and at."""
    return {**event.data, "seq": event.seq, "type": event.type, "at": event.at}


async def as_sse(events: AsyncIterator[Event | None], wanted: Callable[[Event], bool]) -> AsyncIterator[bytes]:
    """The events as ``text/event-stream``, with a comment in every silence."""
    yield format_sse_event(retry=1000)
    async for event in events:
        if event is None:
            yield KEEPALIVE_COMMENT
        elif wanted(event):
            yield format_sse_event(data_str=to_json(event_document(event)).decode(), event=event.type, id=str(event.seq))


async def as_jsonl(events: AsyncIterator[Event | None], wanted: Callable[[Event], bool]) -> AsyncIterator[bytes]:
    """The events as lines of JSON, with an empty line in every silence, so that a dead connection is noticed."""
    async for event in events:
        if event is None:
            yield b"\n"
        elif wanted(event):
            yield to_json(event_document(event)) + b"\n"
