"""The heartbeat: it goes on through a store's absence, and ends with the lease, the attempt, or a supervisor that hangs."""

import threading
from collections.abc import Callable, Iterable

import pytest

from tests.worker.training_jobs import wait_until
from worker.heartbeat import MAX_TURN_SECONDS, Heartbeat
from worker.redis_connection import StoreUnavailable


def beats(answers: Iterable[bool | Exception], *, then: bool = True) -> tuple[Callable[[], bool], list[int]]:
    """A beat that answers so, one after the other, and the list that grows with each."""
    coming, counted = iter(answers), []

    def beat() -> bool:
        counted.append(1)
        answer = next(coming, then)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return beat, counted


def test_it_beats_until_it_is_left() -> None:
    beat, counted = beats([True, StoreUnavailable("away"), True])
    with Heartbeat(beat, seconds=0.01) as heartbeat:
        wait_until(lambda: len(counted) > 5)
        assert not heartbeat.is_fenced
    before = len(counted)
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
    assert len(counted) == before


def test_it_ends_where_the_job_is_someone_elses() -> None:
    beat, counted = beats([True, False])
    with Heartbeat(beat, seconds=0.01) as heartbeat:
        wait_until(lambda: heartbeat.is_fenced)
        heartbeat._thread.join(5)
        assert len(counted) == 2


def test_a_supervisor_that_hangs_keeps_no_job() -> None:
    beat, counted = beats([])
    with Heartbeat(beat, seconds=0.01, max_turn_seconds=0.3) as heartbeat:
        wait_until(lambda: len(counted) > 3)
        heartbeat._thread.join(5)
        assert not heartbeat._thread.is_alive()
        assert not heartbeat.is_fenced


def test_turns_keep_it_going(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counted = [0.0], 0
    monkeypatch.setattr("worker.heartbeat.now", lambda: clock[0])

    def beat() -> bool:
        nonlocal counted
        counted += 1
        clock[0] += 0.9 * MAX_TURN_SECONDS
        if counted < 20:
            heartbeat.note_turn()
        return True

    with Heartbeat(beat, seconds=0.001) as heartbeat:
        heartbeat._thread.join(20)
        assert not heartbeat._thread.is_alive()
    assert counted == 21, "one more than the last turn allowed"
