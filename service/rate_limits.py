"""How many requests one API key may send: a token bucket for each, in each API process.

Not in Redis: that would cost every request a round trip and refuse all of them while it is away, to count exactly over processes what is
only meant to keep one sender from taking everything.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import Problem


@dataclass
class _Bucket:
    tokens: float
    at: float


class RateLimits:
    """A bucket for each name that was ever admitted; the names are those of keys, so their number is bounded.

    Args:
        rate: Requests per second for long.
        burst: Requests at once after a pause.
        clock: Seconds, ascending.
    """

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def spend(self, name: str) -> dict[str, str]:
        """Takes a token; returns the headers that say how many are left (draft-ietf-httpapi-ratelimit-headers-10).

        Raises:
            Problem: There is none left.
        """
        now = self._clock()
        with self._lock:
            bucket = self._buckets.setdefault(name, _Bucket(self._burst, now))
            bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._rate)
            bucket.at = now
            is_allowed = bucket.tokens >= 1
            if is_allowed:
                bucket.tokens -= 1
            left = bucket.tokens
        wait = 0 if left >= 1 else math.ceil((1 - left) / self._rate)
        headers = {
            "RateLimit-Policy": f'"key";q={self._burst};w={max(1, math.ceil(self._burst / self._rate))}',
            "RateLimit": f'"key";r={math.floor(left)};t={wait}',
        }
        if not is_allowed:
            detail = f"this API key may send {self._rate:g} requests per second, and {self._burst} at once after a pause: send fewer"
            raise Problem("rate_limited", detail, headers={**headers, "Retry-After": str(max(1, wait))})
        return headers
