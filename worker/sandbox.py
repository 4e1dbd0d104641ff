"""What a trainer process may do to its machine. It sets the bounds itself, before its job comes, and cannot raise them again.

Its environment and working directory are its parent's business (``worker.trainer_process``). This module doesn't import torch.
"""

import ctypes
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

MAX_OPEN_FILES = 1024
"""An evaluation maps two files of each snapshot; nothing else opens more than a few."""

PRIVATE_UMASK = 0o077
GIB = 2**30

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CGROUP_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True)
class Bounds:
    """How much a trainer may take.

    Attributes:
        memory_bytes: Memory beyond what the warm process has; on the CPU only, since CUDA maps more addresses than there is memory.
        file_bytes: Size of the largest file that it may write.
        user_id: The user that it runs as; None: its worker's. Another one needs a worker that is root, and must be able to read the
            artifacts.
    """

    memory_bytes: int
    file_bytes: int = 64 * GIB
    user_id: int | None = None

    @classmethod
    def of_machine(cls) -> "Bounds":
        """Those of a trainer that may take all memory of the machine."""
        return cls(memory_bytes=machine_memory_bytes())


def confine(file_bytes: int) -> None:
    """Bounds everything but memory: files, core dumps, privileges, and who may read what is written."""
    os.umask(PRIVATE_UMASK)
    _lower(resource.RLIMIT_CORE, 0)  # a core dump would hold the user's data
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no_new_privs could not be set: {os.strerror(number)}")


def bound_memory(memory_bytes: int) -> None:
    """Lets this process take ``memory_bytes`` beyond what it has now; an allocation beyond that fails instead of the machine."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


def machine_memory_bytes() -> int:
    """The memory of this machine, or of the container where that has less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_number(path.read_text()) for path in _CGROUP_LIMITS if path.exists()]
    return min([machine, *(limit for limit in limits if limit)])


def kernel_kills() -> int:
    """Processes of this container, or else of this machine, that the kernel has killed for want of memory; it only grows."""
    for path in (*_CGROUP_EVENTS, Path("/proc/vmstat")):
        if path.exists():
            counts = dict(line.split() for line in path.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def _lower(limit: int, value: int) -> None:
    """Sets both limits to ``value``, or to the hard limit where that is lower already."""
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _number(text: str) -> int:
    """The limit in bytes; 0 for ``max``."""
    return int(text) if text.strip().isdecimal() else 0
