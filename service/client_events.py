"""Where a reader stands in a job's events, so that a lost connection loses none."""

import json
from collections.abc import Sequence

import httpx2

from service import client_calls as calls
from service.client_core import Call, Json, UnreachableError, raise_for_problem

MAX_FAILURES = 12
"""Connections in a row that brought no event; with the pauses between them about half a minute."""


class EventCursor:
    """Invariant: every event is handed out once and in order, whether it came by stream or by page."""

    def __init__(self, job_id: str, *, after: int) -> None:
        self.job_id = job_id
        self.seq = after
        self.is_at_end = False
        self.can_stream = True
        self._failures = 0

    @property
    def path(self) -> str:
        """The job's events."""
        return f"/v1/jobs/{self.job_id}/events"

    @property
    def headers(self) -> dict[str, str]:
        """Asks a stream to go on where this reader stands."""
        return {"Last-Event-ID": str(self.seq)}

    def page(self, *, behind: Sequence[Json] = ()) -> Call[list[Json]]:
        """The next page, or the one ``behind`` it, for where streams don't get through."""
        return calls.events(self.job_id, after=behind[-1]["seq"] if behind else self.seq)

    def settled(self, page: Sequence[Json], later: Sequence[Json], job: Json) -> list[Json]:
        """The events of a page that may be the last one, as a stream would bring them: an ``end`` only where nothing follows it.

        A job that was extended has an ``end`` for each time it had ended.

        Args:
            page: A page for which ``may_be_last`` holds.
            later: The page behind it, asked for after ``job``; empty where the job goes on.
            job: The job, read after ``page``.
        """
        is_over = job["terminal"] and not later
        if is_over and not page:  # whoever read up to the end, and comes back, is told that it was the end
            return [{"seq": self.seq, "type": "end", "at": job["finished_at"], "status": job["status"]}]
        events = [*page, *later]
        return [event for event in events if event["type"] != "end" or (is_over and event is events[-1])]

    def take(self, event: Json) -> bool:
        """Moves past ``event``; False when it was seen before."""
        if event["seq"] <= self.seq:
            self.is_at_end = event["type"] == "end" and event["seq"] == self.seq  # of a stream that was resumed behind its last event
            return self.is_at_end
        self.seq = event["seq"]
        self._failures = 0
        self.is_at_end = event["type"] == "end"
        return True

    def check_is_at_end(self) -> None:
        """Raises ``TransportError`` where the stream was closed before the job's end, as by a server that restarts."""
        if not self.is_at_end:
            raise httpx2.RemoteProtocolError(f"the stream ended after event {self.seq}, before the job did")

    def seconds_before_reconnect(self, url: str, error: httpx2.TransportError) -> float:
        """The pause after a broken stream.

        Raises:
            UnreachableError: It broke too often without an event in between.
        """
        if isinstance(error, httpx2.SSEError):  # something in between answers, but not with a stream
            self.can_stream = False
        self._failures += 1
        if self._failures > MAX_FAILURES:
            raise UnreachableError(url, error) from error
        return float(min(5.0, 0.1 * 2**self._failures))


def may_be_last(page: Sequence[Json]) -> bool:
    """Whether a job's events may end with this page, or have seemed to: it is empty, or has an ``end``."""
    return not page or any(event["type"] == "end" for event in page)


def raise_for_stream(response: httpx2.Response) -> None:
    """Raises ``ApiError`` for an answer, read already, that is no stream; ``TransportError`` where the service will have one soon."""
    if response.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
        raise httpx2.RemoteProtocolError(f"the service answered {response.status_code}")
    raise_for_problem(response)


def has_event(sent: httpx2.ServerSentEvent) -> bool:
    """Whether there is one: a server also sends how soon to reconnect, without data."""
    return sent.data != ""


def read_event(sent: httpx2.ServerSentEvent) -> Json:
    """A server-sent event as the object that a page would hold."""
    event: Json = json.loads(sent.data)
    return event
