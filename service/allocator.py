"""How much freed memory the C library may keep for this process."""

import ctypes
import sys

MAX_ARENAS = 2
MMAP_BYTES = 8 << 20
TRIM_BYTES = 32 << 20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def bound_freed_memory() -> bool:
    """Tells glibc to give blocks of 8 MB and more back when they are freed; whether it is glibc, and agreed.

    By itself it raises that limit up to 32 MB with the blocks that it sees freed, and gives every thread an arena. Uploads and answers
    then leave holes in the heap. The limits are as high as they are for convolutions: what these need between two layers of a network for
    ``clr.inference.BATCH_ROWS`` small images stays in the heap from pass to pass, else they take twice the time. Other C libraries have
    no such setting, and are left alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    limits = ((_M_ARENA_MAX, MAX_ARENAS), (_M_MMAP_THRESHOLD, MMAP_BYTES), (_M_TRIM_THRESHOLD, TRIM_BYTES))
    agreed = [mallopt(name, value) == 1 for name, value in limits]
    return all(agreed)
