"""How much freed memory the C library may keep for this process."""

import ctypes
import sys

MAX_ARENAS = 2
MMAP_BYTES = 1 << 20
TRIM_BYTES = 8 << 20
ROOM_BYTES = 60 << 20
"""What a network takes between two layers for ``clr.inference.CONVOLUTION_BATCH_ROWS`` small images, several times over."""

_is_bounded = False
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def bound_freed_memory() -> bool:
    """Tells glibc to give blocks of a megabyte and more back when they are freed; whether it is glibc, and agreed.

    By itself it raises that limit up to 32 MB with the blocks that it sees freed, and gives every thread an arena. Uploads and answers
    then leave holes in the heap: 12,000 requests made from the schema grew the process by 115 MB, with these limits by 24. Other C
    libraries have no such setting, and are left alone.
    """
    global _is_bounded  # noqa: PLW0603  # so is the setting
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    limits = ((_M_ARENA_MAX, MAX_ARENAS), (_M_MMAP_THRESHOLD, MMAP_BYTES), (_M_TRIM_THRESHOLD, TRIM_BYTES))
    agreed = [mallopt(name, value) == 1 for name, value in limits]
    _is_bounded = all(agreed)
    return _is_bounded


def make_room_for_layers() -> None:
    """Lets the heap of the calling thread have ``ROOM_BYTES`` that are free, and are never given back, if ``bound_freed_memory`` agreed.

    A block of a megabyte comes from the system only where the heap's free memory does not suffice (malloc(3), M_MMAP_THRESHOLD). Images
    between the layers of a network would be such blocks, zeroed by the system page by page in each pass: convolutions took twice the time.
    The room costs nothing before it is used. Threads that share the heap take large blocks from it too, so that up to so much of what they
    free stays with the process: 113,000 spoiled requests grew it by 10 MB.
    """
    malloc, free = _of_glibc("malloc"), _of_glibc("free")
    if not _is_bounded or malloc is None or free is None:
        return
    malloc.argtypes, malloc.restype, free.argtypes = (ctypes.c_size_t,), ctypes.c_void_p, (ctypes.c_void_p,)
    size = MMAP_BYTES - 4096
    blocks = [malloc(size) for _ in range(ROOM_BYTES // size)]
    for block in blocks[:-1]:  # the last stays, so that the room does not lie at the heap's end, from where it would be given back
        free(block)


def _of_glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of the C library; None where that is not glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
