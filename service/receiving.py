"""The bodies of predictions: what they hold of the memory, and the time in which they have to arrive.

A body takes no place among the predictions under way before it is whole, so that who sends slowly keeps nobody else from being answered.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.allowances import Allowance, Take
from service.errors import Problem
from service.principals import Principal

HELD_BYTES = 1 << 30
"""Of bodies that arrive or are being answered; more where four of the largest that may be sent take more."""

SMALL_BYTES = HIGH_WATER_LIMIT
"""Bodies up to this size count for nothing: uvicorn reads as much of every request before anyone asks for it."""

BYTES_PER_SECOND = 64 * 1024
"""What a body must bring on the average, once the time is over in which one may stall."""


def body_allowance(max_predict_bytes: int) -> Allowance:
    """The bytes that bodies of predictions may hold: a tenant has a quarter, and a key half of that, but each one whole body."""
    total = max(HELD_BYTES, 4 * max_predict_bytes)
    return Allowance(
        "bytes of bodies of predictions",
        total=total,
        of_tenant=total // 4,
        of_key=max(total // 8, max_predict_bytes),
        remedy="repeat it when others have been answered, or send fewer rows at a time",
    )


@asynccontextmanager
async def received_body(request: Request, principal: Principal, allowance: Allowance, *, grace_seconds: float) -> AsyncIterator[bytes]:
    """The whole body, whose bytes are counted as held until the context ends.

    Args:
        request: Whose body nobody has read.
        principal: Its sender.
        allowance: What is held is taken from it: what is declared before anything is read, else what comes.
        grace_seconds: How far the body may be behind ``BYTES_PER_SECOND``.

    Raises:
        Problem: Too much is held already, or the body comes too slowly.
    """
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    with allowance.holding(principal) as take:
        if size > SMALL_BYTES:
            take(size)
        yield await _whole(request, take, max(size, SMALL_BYTES), grace_seconds)


async def _whole(request: Request, take: Take, counted: int, grace_seconds: float) -> bytes:
    """The body; ``counted`` of its bytes need not be taken."""
    body = bytearray()
    begun = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(begun + grace_seconds) as limit:
            async for part in request.stream():
                body += part
                if len(body) > counted:
                    take(len(body) - counted)
                    counted = len(body)
                limit.reschedule(begun + grace_seconds + len(body) / BYTES_PER_SECOND)
    except TimeoutError:
        raise Problem(
            "request_timeout",
            f"the body of a prediction must bring {BYTES_PER_SECOND} bytes per second after {grace_seconds:g} s, got {len(body)} bytes in "
            f"{asyncio.get_running_loop().time() - begun:.1f} s: send it faster, or fewer rows at a time",
        ) from None
    return bytes(body)
