"""Processes that a launcher keeps running.

They read their standard input and exit at its end, so none outlives a launcher that was killed.
"""

import logging
import os
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from worker.ids import worker_id_of
from worker.job_store import JobStore, StoreUnavailable, connect
from worker.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Importing torch from a cold disk takes tens of seconds."""
STEADY_SECONDS = 30.0
"""A process that lived this long begins anew with quick restarts."""
SECRETS = {"key_pepper"}
"""Settings that only the API gets."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]


class LaunchError(RuntimeError):
    """Something cannot be started; the message says why and what to do. The only exception of the launcher's modules."""


@dataclass
class Child:
    """A process that is kept running.

    Attributes:
        start: Spawns it.
        word: That of a worker's ids, so that the launcher knows them; None: not a worker.
        failures: Deaths in a row, each before it had lived long enough to count as steady.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    word: str | None = None
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0

    def launch(self) -> None:
        """Starts the process."""
        self.process, self.started_at = self.start(), time.monotonic()

    def has_died(self) -> bool:
        """Whether it ended since it was started; plans the next start, later each time."""
        if self.process is None or self.process.poll() is None:
            return False
        lived = time.monotonic() - self.started_at
        self.failures = 1 if lived > STEADY_SECONDS else self.failures + 1
        delay = min(30.0, 0.1 * 2 ** (self.failures - 1))
        self.restart_at = time.monotonic() + delay
        logger.warning("%s (pid %d) ended with status %d; starts again in %.1f s", self.name, self.process.pid, self.process.poll(), delay)
        self.process.stdin.close()  # type: ignore[union-attr]  # every child is given a pipe
        self.process = None
        return True

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        if self.process is not None:
            self.process.terminate()

    def end(self, *, seconds: float) -> None:
        """Waits for the end of the process and kills it after ``seconds``."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            logger.warning("%s (pid %d) did not stop within %.0f s and was killed", self.name, self.process.pid, seconds)
        finally:  # also where a second Ctrl-C interrupts the wait
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()  # type: ignore[union-attr]  # every child is given a pipe
            self.process = None


def keep_running(children: Sequence[Child], settings: Settings) -> None:
    """Starts again what has died; its job and the reconcilers' leadership go to the next process at once."""
    for child in children:
        pid = child.process.pid if child.process else 0
        if child.has_died():
            _give_on(settings, pid, child.word)
        if child.process is None and time.monotonic() >= child.restart_at:
            child.launch()


def end_all(children: Sequence[Child], *, seconds: float) -> None:
    """Asks all to stop, then waits for each and kills what is there after ``seconds``."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + seconds
    for child in children:
        child.end(seconds=max(0.0, deadline - time.monotonic()))


def wait_until(is_ready: Callable[[], bool], children: Sequence[Child]) -> None:
    """Returns when all is ready.

    Raises:
        LaunchError: One of the children ended, or it takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for child in children:
            if child.has_died():
                raise LaunchError(f"{child.name} did not start: its messages say why")
        if is_ready():
            return
        time.sleep(0.02)
    raise LaunchError(f"the API did not get ready within {START_SECONDS:.0f} s: its messages say why")


def spawn(*arguments: str, environment: Mapping[str, str], log: IO[bytes] | None, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """A ``snapcycle`` command that ends with this process; ``log`` None: it writes to this process's stderr."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "service.cli", *arguments, "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        pass_fds=pass_fds,
        start_new_session=True,  # a Ctrl-C in the terminal comes to the launcher alone
    )


def child_environment(settings: Settings, *, num_workers: int) -> dict[str, str]:
    """This process's environment with ``settings`` for its own but for SECRETS, and the cores shared among the workers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {PREFIX + name.upper(): str(value) for name, value in settings.model_dump(exclude_none=True, exclude=SECRETS).items()}
    if num_workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_workers)))
    if str(_PACKAGE_ROOT) not in site.getsitepackages():  # run from a checkout
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), environment.get("PYTHONPATH"))))
    return environment


def exit_with_parent() -> None:
    """Ends this process at once when its standard input ends, that is, when the launcher is gone."""
    while os.read(sys.stdin.fileno(), 1024):  # unbuffered: a thread inside a buffered read spoils the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # nothing is lost: every state that counts is on the disk


def _give_on(settings: Settings, pid: int, word: str | None) -> None:
    """Takes the leadership, and a worker's job, from the process that had this id, rather than wait until their leases have run out."""
    from worker.celery_app import create_celery, publish  # Celery, which the launcher rarely needs

    with suppress(StoreUnavailable):  # then the lease does run out
        store = JobStore(connect(settings))
        store.expire_owner(f"{socket.gethostname()}:{pid}")  # it may have led
        if word is None:
            return
        for job_id in store.expire_owner(worker_id_of(pid, word)):
            if store.requeue_expired(job_id, settings.max_crashes) == "requeued":
                publish(create_celery(settings), job_id)
        store.forget_worker(worker_id_of(pid, word))
