"""Notices a trainer that has stopped saying anything: it may be stopped, or hang in a library or a driver."""

import time
from collections.abc import Callable

MAX_TURN_SECONDS = 1.0
"""What one turn of the supervisor counts at most: while it or the machine slept itself, or a store kept it waiting, it did not listen."""


START_SECONDS = 300.0
"""What a trainer may take at least before its first word: it imports torch, on a busy machine beside others that do."""


class Watchdog:
    """Adds up for how long a supervisor has listened in vain.

    Args:
        stall_seconds: Silence that no step of a healthy trainer is as long as.
        clock: Seconds that go by while the machine is awake.
    """

    def __init__(self, stall_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._silent_seconds = 0.0
        self._has_begun = False
        self._looked_at = clock()

    def note(self, *, has_spoken: bool) -> None:
        """Takes one turn in: whether the trainer said anything during it."""
        now = self._clock()
        self._silent_seconds = 0.0 if has_spoken else self._silent_seconds + min(now - self._looked_at, MAX_TURN_SECONDS)
        self._has_begun = self._has_begun or has_spoken
        self._looked_at = now

    @property
    def finding(self) -> str | None:
        """Why the trainer counts as stalled; None while it doesn't."""
        limit = self._stall_seconds if self._has_begun else max(self._stall_seconds, START_SECONDS)
        if self._silent_seconds < limit:
            return None
        return f"the trainer said nothing for {limit:g} s (SNAPCYCLE_STALL_SECONDS) and was killed"
