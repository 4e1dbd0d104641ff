"""Requests that come together share a look, and none is told what was there before it asked."""

import asyncio
import threading

import pytest

from service.shared_looks import SharedLooks


def test_a_look_answers_only_who_asked_before_it_began() -> None:
    numbers: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def look() -> int:
        numbers.append(len(numbers))
        begun.set()
        assert go_on.wait(10)
        return numbers[-1]

    async def ask() -> list[int]:
        looks: SharedLooks[int] = SharedLooks(fresh_seconds=60)
        first = asyncio.create_task(looks.share("name", look))
        await asyncio.to_thread(begun.wait, 10)
        rest = [asyncio.create_task(looks.share("name", look)) for _ in range(5)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *rest)

    assert asyncio.run(ask()) == [0, 1, 1, 1, 1, 1]
    assert numbers == [0, 1]


def test_recent_is_what_was_found_within_the_time_and_nothing_after_a_failure() -> None:
    def fail() -> int:
        raise ValueError("gone")

    async def ask() -> None:
        looks: SharedLooks[int] = SharedLooks(fresh_seconds=60)
        assert looks.recent("name") is None
        assert await looks.share("name", lambda: 7) == 7
        assert looks.recent("name") == 7
        assert looks.recent("other") is None
        with pytest.raises(ValueError, match="gone"):
            await looks.share("name", fail)
        assert looks.recent("name") is None
        stale: SharedLooks[int] = SharedLooks(fresh_seconds=0)
        await stale.share("name", lambda: 7)
        assert stale.recent("name") is None

    asyncio.run(ask())


def test_who_goes_on_with_what_was_found_has_it_looked_up_again() -> None:
    numbers: list[int] = []
    go_on = threading.Event()

    def look() -> int:
        assert go_on.wait(10)
        numbers.append(len(numbers))
        return numbers[-1]

    async def ask() -> None:
        looks: SharedLooks[int] = SharedLooks(fresh_seconds=60, refresh_seconds=0)
        go_on.set()
        assert await looks.share("name", look) == 0
        go_on.clear()
        for _ in range(5):
            assert looks.recent("name", look) == 0, "nobody waits"
            await asyncio.sleep(0)  # the look begins
        go_on.set()
        async with asyncio.timeout(10):
            while looks.recent("name") == 0:
                await asyncio.sleep(0.001)
        assert looks.recent("name") == 1
        assert await looks.share("name", look) == 2, "one look for all five, and this one"

    asyncio.run(ask())
