"""Trainer processes as a worker sees them: spawned ahead of need, handed one job each, killed with everything they started.

A fresh process per job gives all memory back at its end, can be killed at any instant, and leaves CUDA alone in the worker. Importing
torch and warming it up takes seconds, so one spare process waits for the next job. This module doesn't import torch.
"""

import fcntl
import logging
import os
import secrets
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Self

from worker import failpoints
from worker.protocol import Line, Message, decode_message
from worker.sandbox import Bounds

logger = logging.getLogger(__name__)

_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "GLIBC_TUNABLES"),
    failpoints.VARIABLE,  # set in tests alone
)
KEEP_FREED_MEMORY = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592:glibc.malloc.hugetlb=1"
"""``GLIBC_TUNABLES`` of a process that trains: what is freed stays for the next step, on huge pages where the system lets one ask for them.

By itself glibc gives the larger blocks, such as the activations of a convolution, back to the system when they are freed, and gets them
page by page in the next step (figures in docs/decisions/process-per-job.md). Bits don't depend on it.
"""
_FIRST_GLIBC = (2, 35)
"""Older ones refuse so high an mmap threshold, and with the other one alone they would give every block back."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_ABANDONED_AFTER_SECONDS = 60


def memory_environment() -> dict[str, str]:
    """What a process that trains is to be started with besides; a process that calls ``clr.train`` itself gains by it too.

    Nothing where the C library is not glibc, or an older one.
    """
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return {}
    numbers = version.split(".")
    if name != "glibc" or not all(map(str.isdecimal, numbers)) or tuple(map(int, numbers)) < _FIRST_GLIBC:
        return {}
    return {"GLIBC_TUNABLES": KEEP_FREED_MEMORY}


def trainer_environment(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """All that a trainer may know of its worker's environment: no broker, no store, no credentials."""
    environment = {name: environ[name] for name in _PASSED_ON if name in environ}
    environment.setdefault("OMP_NUM_THREADS", str(_num_cores()))  # sums depend on the number of threads, so it is fixed
    # Threads that wait for each other spin, beside a busy process for a whole time slice at every step: of 64 steps a second of a small
    # CNN on two cores the default leaves 1, this 43. On an idle machine it costs a fifth of the steps.
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    environment = {**memory_environment(), **environment}
    environment |= {
        "HOME": str(home),
        "TMPDIR": str(home),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with this, and reads it once
        "PYTHONHASHSEED": "0",
    }
    if str(_PACKAGE_ROOT) not in site.getsitepackages():
        environment["PYTHONPATH"] = str(_PACKAGE_ROOT)  # run from a checkout
    return environment


class TrainerProcess:
    """One running trainer: its own process group, working directory and pipes."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self.directory = directory

    @classmethod
    def spawn(cls, parent: Path, *, device: str, bounds: Bounds | None = None) -> Self:
        """Starts a trainer that works in a new directory below ``parent`` and waits for its job; it may take what ``bounds`` say."""
        bounds = bounds or Bounds.of_machine()
        directory = parent / f"trainer-{secrets.token_hex(4)}"
        directory.mkdir(mode=0o700)
        if bounds.user_id is not None:
            os.chown(directory, bounds.user_id, -1)
        limits = ("--memory-bytes", str(bounds.memory_bytes), "--file-bytes", str(bounds.file_bytes))
        process = subprocess.Popen(
            # -P keeps the working directory, which holds what training wrote, out of the import path.
            [sys.executable, "-P", "-m", "worker.trainer", "--device", device, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env=trainer_environment(directory, os.environ),
            process_group=0,  # a Ctrl-C in the worker's terminal is the worker's alone
            user=bounds.user_id,
            group=bounds.user_id,
            extra_groups=None if bounds.user_id is None else (),
        )
        logger.debug("trainer %d spawned", process.pid)
        return cls(process, directory)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, line: Line) -> None:
        """Writes one line to the trainer; a trainer that is gone hears nothing, and ``messages`` tells."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            logger.debug("trainer %d was gone before %s", self.pid, type(line).__name__)

    def messages(self) -> Iterator[Message]:
        """What the trainer says, until its stdout ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield decode_message(line)

    def wait(self) -> int:
        """The exit status; minus the signal's number where one killed it."""
        return self._process.wait()

    def drain(self) -> None:
        """Asks the trainer to checkpoint and leave."""
        if self.is_alive():
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process and all that it started."""
        if self.is_alive():  # until it is reaped, its id names no other group
            os.killpg(self.pid, signal.SIGKILL)

    def discard(self) -> None:
        """Kills the trainer, waits for its end and removes its directory."""
        self.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # a line was left in the buffer
            self._process.stdin.close()
        self._process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class WarmTrainers:
    """Keeps one spare trainer at hand."""

    def __init__(self, spawn: Callable[[], TrainerProcess]) -> None:
        self._spawn = spawn
        self._lock = Lock()
        self._spare: TrainerProcess | None = None
        self._is_closed = False

    def warm(self) -> None:
        """Starts a spare where there is none that lives."""
        with self._lock:
            if self._is_closed or (self._spare is not None and self._spare.is_alive()):
                return
            if self._spare is not None:
                logger.warning("the spare trainer %d died with status %d", self._spare.pid, self._spare.wait())
                self._spare.discard()
            self._spare = self._spawn()

    def take(self) -> TrainerProcess:
        """Hands over the spare, or a cold trainer where there is none. ``warm`` starts the next one."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and not spare.is_alive():
            spare.discard()
            spare = None
        return spare or self._spawn()

    def close(self) -> None:
        """Ends the spare; none is started any more."""
        with self._lock:
            self._is_closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.discard()


class ScratchDirectory:
    """A worker's own directory for its trainers, locked while the worker lives, so that others can tell what is left over.

    Locks, not process ids, say who lives: workers in several containers may share the parent directory.
    """

    def __init__(self, parent: Path, *, trainers_have_own_user: bool = False) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        name = f"worker-{secrets.token_hex(8)}"
        unlocked = parent / f"new-{name}"
        unlocked.mkdir(mode=0o711 if trainers_have_own_user else 0o700)
        self._descriptor = os.open(unlocked, os.O_RDONLY)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = unlocked.rename(parent / name)  # the lock goes along, so a directory of this name is never without one by chance
        _sweep(parent)

    def remove(self) -> None:
        """Deletes the directory and gives up its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def _sweep(parent: Path) -> None:
    """Deletes the scratch directories of workers that are gone."""
    for path in (*parent.glob("worker-*"), *parent.glob("new-*")):
        try:
            if path.name.startswith("new-") and time.time() - path.stat().st_mtime < _ABANDONED_AFTER_SECONDS:
                continue  # its worker may be about to lock it
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
            logger.info("removed %s, left by a worker that is gone", path)
        finally:
            os.close(descriptor)


def _num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
