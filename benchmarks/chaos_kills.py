"""Who is killed when, and how long it takes until what the victim did is done again.

The schedule (pauses and targets) follows from the seed; at which instruction a process dies is the machine's chance. What was killed is
started again by the launcher, as in production.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import redis

from service.children import Child
from service.embedded import Stack
from worker.job_store import JobStore, JobStoreError, connect
from worker.jobs import JobRecord, JobStatus, Phase

Target = Literal["trainer", "worker", "api", "leader", "server"]
WEIGHTS: dict[Target, int] = {"trainer": 25, "worker": 20, "api": 15, "leader": 15, "server": 25}
"""Shares of the kills. The leader is the process whose reconciler holds the leadership: an API or a worker."""

WATCH_SECONDS = 0.05
TRACK_SECONDS = 0.05


@dataclass
class Kill:
    """One SIGKILL.

    Attributes:
        at: Seconds since 1970.
        job_id: The job that was running there.
        recovered_at: When what it did was done again; None: not yet.
    """

    number: int
    target: Target
    pid: int
    at: float
    job_id: str | None = None
    recovered_at: float | None = None


@dataclass(frozen=True)
class Due:
    """One entry of the schedule."""

    pause_seconds: float
    target: Target


def schedule(num_kills: int, *, per_minute: float, random_: random.Random) -> list[Due]:
    """Kills with exponential pauses, so that any two may fall together."""
    targets = list(WEIGHTS)
    return [
        Due(random_.expovariate(per_minute / 60), random_.choices(targets, weights=list(WEIGHTS.values()))[0]) for _ in range(num_kills)
    ]


class Launcher:
    """Lets a stack's launcher do its work in a thread, as ``snapcycle up`` does in its main one."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="launcher", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> "Launcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def paused(self) -> threading.Lock:
        """A context in which nothing is started again."""
        return self._turn

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            try:
                with self._turn:
                    self.stack.watch()
            except BaseException as error:  # the run reports it
                self.error = error
                raise


class Killer:
    """Kills parts of a running stack and notes when each was back.

    A job that has crashed ``spared_crashes`` times in a row without progress is left alone until there is some: one that dies again and
    again in its first seconds rightly fails as poison, and only those that were meant to shall. Which of several processes of a kind dies
    is drawn from ``random_``.
    """

    def __init__(self, stack: Stack, *, spared_crashes: int, random_: random.Random) -> None:
        self._stack = stack
        self._random = random_
        self._spared_crashes = spared_crashes
        self._redis = connect(stack.settings)
        self._store = JobStore(self._redis)
        self._pending: list[tuple[Kill, Callable[[], bool]]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._tracker = threading.Thread(target=self._track, name="tracker", daemon=True)
        self._poison: set[str] = set()
        self.kills: list[Kill] = []
        self.num_poison_kills = 0

    def __enter__(self) -> "Killer":
        self._tracker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._tracker.join()
        self._redis.close()

    def add_poison(self, job_id: str) -> None:
        """Has every trainer of this job killed as soon as it is seen."""
        with self._lock:
            self._poison.add(job_id)

    def kill(self, target: Target) -> Kill | None:
        """Kills one process of the kind; None where there is none now."""
        found = self._find(target)
        if found is None:
            return None
        pid, job, is_back = found
        # Not the process's own fault, so its next start isn't put off as that of one which fails again and again.
        for child in (*self._stack.api.children, *self._stack.workers):
            child.failures = 0
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        kill = Kill(len(self.kills), target, pid, time.time(), job.id if job else None)
        self.kills.append(kill)
        with self._lock:
            self._pending.append((kill, is_back))
        return kill

    def num_unrecovered(self) -> int:
        """Kills whose work is not done again yet."""
        with self._lock:
            return len(self._pending)

    def _find(self, target: Target) -> tuple[int, JobRecord | None, Callable[[], bool]] | None:
        """The process to kill, the job that runs there, and what says that the work is done again."""
        match target:
            case "server":
                pid = self._stack.server.pid if self._stack.server else None
                return None if pid is None else (pid, None, self._serves)
            case "api":
                pid = pid_of(self._random.choice(self._stack.api.children))
                return None if pid is None else (pid, None, self._serves)
            case "leader":
                pid = self._leader_pid()
                job = self._job_at(pid) if pid is not None else None
                if pid is None or self._is_spared(job):
                    return None
                return pid, job, lambda: self._leader_pid() not in (None, pid)
            case "worker":
                candidates = [(child, pid) for child in self._stack.workers if (pid := pid_of(child)) is not None]
                if not candidates:
                    return None
                child, pid = self._random.choice(candidates)
                job = self._job_at(pid)
                if self._is_spared(job):
                    return None
                return pid, job, self._goes_on(job) if job else partial(self._is_registered, child, pid)
            case "trainer":
                running = [(pid, job) for pid, job in self._running() if trainers_of(pid) and not self._is_spared(job)]
                if not running:
                    return None
                pid, job = self._random.choice(running)
                trainers = trainers_of(pid)
                return (trainers[0], job, self._goes_on(job)) if trainers else None

    def _is_spared(self, job: JobRecord | None) -> bool:
        return job is not None and job.crashes >= self._spared_crashes

    def _running(self) -> list[tuple[int, JobRecord]]:
        """The jobs that run, each with the process id of its worker."""
        with suppress(JobStoreError, redis.RedisError):
            records = self._store.list(status=JobStatus.RUNNING).records
            return [(int(job.owner.split(":")[1]), job) for job in records if job.owner]
        return []

    def _job_at(self, pid: int) -> JobRecord | None:
        return next((job for owner, job in self._running() if owner == pid), None)

    def _leader_pid(self) -> int | None:
        try:
            name = self._redis.get("snapcycle:leader")
        except redis.RedisError:
            return None
        pid = int(str(name).split(":")[1]) if name else None
        return pid if pid in [pid_of(child) for child in (*self._stack.api.children, *self._stack.workers)] else None

    def _serves(self) -> bool:
        return self._stack.answers_ready()

    def _is_registered(self, child: Child, former: int) -> bool:
        pid = pid_of(child)
        with suppress(JobStoreError):
            return pid not in (None, former) and any(worker["pid"] == pid for worker in self._store.workers())
        return False

    def _goes_on(self, job: JobRecord) -> Callable[[], bool]:
        def goes_on() -> bool:
            with suppress(JobStoreError):
                now = self._store.get(job.id)
                if now is None:
                    return False
                return now.status.is_terminal or (now.attempt > job.attempt and now.phase not in (None, Phase.PREPARING_DATA))
            return False

        return goes_on

    def _track(self) -> None:
        while not self._stop.wait(TRACK_SECONDS):
            with self._lock:
                pending, poison = list(self._pending), set(self._poison)
            for entry in pending:
                if entry[1]():
                    entry[0].recovered_at = time.time()
                    with self._lock:
                        self._pending.remove(entry)
            if poison:
                self._kill_trainers_of(poison)

    def _kill_trainers_of(self, poison: set[str]) -> None:
        for pid, job in self._running():
            if job.id in poison and (trainers := trainers_of(pid)):
                with suppress(ProcessLookupError):
                    os.kill(trainers[0], signal.SIGKILL)
                    self.num_poison_kills += 1


def pid_of(child: Child) -> int | None:
    """The process id of a child that is running now."""
    process = child.process
    return process.pid if process is not None and process.poll() is None else None


def trainers_of(worker_pid: int) -> list[int]:
    """A worker's trainers, the oldest first: that one has the job, the others wait."""
    found = []
    for task in Path(f"/proc/{worker_pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    trainers = []
    for pid in found:
        with suppress(OSError, ValueError, IndexError):
            if b"worker.trainer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                trainers.append((int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]), pid))
    return [pid for _, pid in sorted(trainers)]
