"""The clock of a function that takes microseconds."""

import statistics
import time
from collections.abc import Callable
from typing import Any

LEAST_CALLS = 3


def timed(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """The median microseconds of a call, over as many calls as the seconds allow."""
    _repeated(call, seconds / 10)
    taken = _repeated(call, seconds)
    return {"microseconds": 1e6 * statistics.median(taken), "calls": len(taken)}


def _repeated(call: Callable[[], Any], seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or len(taken) < LEAST_CALLS:
        call()
        taken.append(time.perf_counter() - began)
    return taken
