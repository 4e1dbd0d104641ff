"""What the API remembers of a job store that was away."""

import threading

from worker.job_store import JobStore, StoreUnavailable


class RecentOutageError(StoreUnavailable):
    """The job store was away just now, and another request is asking whether it is back."""


class Outage:
    """Remembers that the job store was away, and lets one request at a time ask whether it is back.

    A call to a frozen server takes two seconds, and there are 40 threads for all requests: without this memory the 400th
    request of a burst would wait for nine others, one after the other.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._is_away = False
        self._asking = threading.Lock()

    def notice(self) -> None:
        """Records that a call has failed."""
        self._is_away = True

    def check(self) -> None:
        """Returns at once where the job store was not away, or is back.

        Raises:
            StoreUnavailable: It is away.
        """
        if not self._is_away:
            return
        if not self._asking.acquire(blocking=False):
            raise RecentOutageError("Redis was away just now: repeat the request")
        try:
            self._store.ping()
            self._is_away = False
        finally:
            self._asking.release()
