"""The heartbeat of a job: its lease is renewed from a thread of its own, however long an artifact store takes for a file."""

import logging
import threading
import time
from collections.abc import Callable

from worker.redis_connection import StoreUnavailable

logger = logging.getLogger(__name__)

MAX_TURN_SECONDS = 1800.0
"""A supervisor that hangs for longer than this keeps no job."""


class Heartbeat:
    """Renews a lease until it is stopped, the job belongs to someone else, or the supervisor hangs.

    Args:
        beat: Renews the lease; False where the job is no longer ours.
        seconds: Between two beats.
        max_turn_seconds: How long after the last ``note_turn`` it goes on.
    """

    def __init__(self, beat: Callable[[], bool], *, seconds: float, max_turn_seconds: float = MAX_TURN_SECONDS) -> None:
        self._beat, self._seconds, self._max_turn_seconds = beat, seconds, max_turn_seconds
        self._turned_at = now()
        self._stop = threading.Event()
        self._is_fenced = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_fenced(self) -> bool:
        """Whether the job is known to be someone else's."""
        return self._is_fenced

    def note_turn(self) -> None:
        """Tells that the supervisor doesn't hang."""
        self._turned_at = now()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            if now() - self._turned_at > self._max_turn_seconds:
                logger.error("its supervisor has hung for %.0f s: the lease is left to end", self._max_turn_seconds)
                return
            try:
                self._is_fenced = not self._beat()
            except StoreUnavailable:
                continue  # the supervisor meets it too, and says so
            if self._is_fenced:
                return


def now() -> float:
    """Seconds on a clock that goes on while the machine sleeps, as the lease does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
