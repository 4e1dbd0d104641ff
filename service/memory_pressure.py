"""How full Redis is: submissions are turned away before it refuses to write, when workers could no longer report what they have done."""

import logging
import threading

from service.errors import Problem
from worker.job_store import JobStore, StoreUnavailable

logger = logging.getLogger(__name__)

ALARM_RATIO = 0.7
SHED_RATIO = 0.8
SAMPLE_SECONDS = 1.0
RETRY_SECONDS = 5


class MemoryGauge:
    """The share of its memory that Redis uses, sampled in a thread of its own.

    Args:
        store: The job store of that Redis.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._closing = threading.Event()
        self.is_alarmed = False
        self._thread = threading.Thread(target=self._watch, name="memory-gauge", daemon=True)
        self.ratio: float | None = None
        """None: there is no limit, or Redis has not answered yet."""

    def start(self) -> None:
        """Begins to sample."""
        self._thread.start()

    def close(self) -> None:
        """Ends the sampling."""
        self._closing.set()
        self._thread.join()

    def sample(self) -> None:
        """Asks once, and tells the log where an alarm begins or ends."""
        try:
            self.ratio = self._store.memory_ratio()
        except StoreUnavailable:
            return  # submissions are refused anyway
        is_alarming = self.ratio is not None and self.ratio >= ALARM_RATIO
        if is_alarming and not self.is_alarmed:
            logger.warning(
                "Redis uses %.0f %% of its maxmemory, at %.0f %% submissions are refused: raise it, or delete jobs that have ended",
                100 * (self.ratio or 0),
                100 * SHED_RATIO,
            )
        elif self.is_alarmed and not is_alarming:
            logger.warning("Redis uses less than %.0f %% of its maxmemory again", 100 * ALARM_RATIO)
        self.is_alarmed = is_alarming

    def check(self) -> None:
        """Returns if there is room for further jobs.

        Raises:
            Problem: There is not.
        """
        if self._is_full():
            self.sample()  # there may be room again, and nobody is refused by an old figure
        if self._is_full():
            raise Problem(
                "overloaded",
                f"Redis uses {self.ratio:.0%} of its memory, and from {SHED_RATIO:.0%} on no job is taken: repeat the request later, "
                "delete jobs that have ended, or raise maxmemory",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )

    def _is_full(self) -> bool:
        return self.ratio is not None and self.ratio >= SHED_RATIO

    def _watch(self) -> None:
        self.sample()
        while not self._closing.wait(SAMPLE_SECONDS):
            self.sample()
