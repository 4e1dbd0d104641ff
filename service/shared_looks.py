"""One look for all that ask the same at nearly the same time."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from fastapi.concurrency import run_in_threadpool

REMEMBERED = 1000

Found = TypeVar("Found")


class SharedLooks(Generic[Found]):
    """Looks things up in threads, for one event loop: at most one look for a key under way, and one that waits for it.

    A look answers only who asked before it began, so nobody sees less than there was when it asked; ``recent`` is for those who take less.
    """

    def __init__(self, *, fresh_seconds: float, refresh_seconds: float = math.inf) -> None:
        self._fresh_seconds, self._refresh_seconds = fresh_seconds, refresh_seconds
        self._running: dict[Hashable, asyncio.Task[Found]] = {}
        self._next: dict[Hashable, asyncio.Task[Found]] = {}
        self._found: OrderedDict[Hashable, tuple[float, Found]] = OrderedDict()

    def recent(self, key: Hashable, look: Callable[[], Found] | None = None) -> Found | None:
        """What was found by a look that began at most ``fresh_seconds`` ago.

        Where it began more than ``refresh_seconds`` ago, ``look`` begins in the background, so that those who go on asking find something.
        """
        began, found = self._found.get(key, (-math.inf, None))
        age = time.monotonic() - began
        if found is None or age > self._fresh_seconds:
            return None
        if look is not None and age > self._refresh_seconds and key not in self._running and key not in self._next:
            self._begin(key, look).add_done_callback(_forget_error)
        return found

    async def share(self, key: Hashable, look: Callable[[], Found]) -> Found:
        """What ``look`` returns or raises; called once for all that wait for ``key``."""
        task = self._next.get(key)
        if task is None:
            task = self._begin(key, look)
        return await asyncio.shield(task)  # who gives up leaves the others theirs

    def _begin(self, key: Hashable, look: Callable[[], Found]) -> asyncio.Task[Found]:
        task = self._next[key] = asyncio.get_running_loop().create_task(self._look(key, look))
        return task

    async def _look(self, key: Hashable, look: Callable[[], Found]) -> Found:
        while (running := self._running.get(key)) is not None:
            await asyncio.wait([running])
        task = self._next.pop(key)
        self._running[key] = task
        began = time.monotonic()
        try:
            found = await run_in_threadpool(look)
        except BaseException:
            self._found.pop(key, None)
            raise
        else:
            self._found[key] = began, found
            self._found.move_to_end(key)
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
            return found
        finally:
            del self._running[key]


def _forget_error(task: "asyncio.Task[Found]") -> None:
    """Who needs what was looked up will meet the error again."""
    if not task.cancelled():
        task.exception()
