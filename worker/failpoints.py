"""Places where a test can make this program fail: killed, refused by the disk, or by a defect, between any two steps of a job.

``SNAPCYCLE_FAILPOINTS`` arms them, either as a list, ``snapshot.blobs_stored=kill@2;claim.claimed=eio``: at the second passing and at
the first, once in each process. Or as ``dir:PATH``: then a file ``PATH/<name>`` with an action in it arms its point while the processes
run, and whichever passes first renames the file to ``<name>.fired`` and fails, so it happens once in all of them.

Exceptions: ``InjectedError`` stands for a defect. Disk errors are those of the call that stands beside the point: see ``Seam``.
"""

import errno
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import NoReturn, assert_never

logger = logging.getLogger(__name__)

VARIABLE = "SNAPCYCLE_FAILPOINTS"
DIRECTORY_MARK = "dir:"
FIRED = ".fired"


class InjectedError(RuntimeError):
    """What the action ``raise`` raises: a defect, of which nobody knows anything."""


class Seam(StrEnum):
    """What a point stands beside, so as what a failing disk shows itself there."""

    FILE = "file"
    """A file of this process: OSError."""
    ARTIFACTS = "artifacts"
    """The artifact store: its ArtifactError for this OSError."""
    REDIS = "redis"
    """The job store, which ran the script and whose answer was lost: StoreUnavailable."""


class Action(StrEnum):
    """What happens at an armed point."""

    KILL = "kill"
    """SIGKILL of this process, by itself."""
    EIO = "eio"
    """The disk fails."""
    ENOSPC = "enospc"
    """The disk is full."""
    RAISE = "raise"
    """A defect."""
    SLEEP = "sleep"
    """Nothing, for ``sleep:SECONDS``."""


POINTS: Mapping[str, Seam] = MappingProxyType({
    # A submission, in the API.
    "submit.checked": Seam.ARTIFACTS,
    "submit.spec_stored": Seam.ARTIFACTS,
    "submit.recorded": Seam.REDIS,
    "message.before_send": Seam.FILE,
    "message.sent": Seam.FILE,
    "request.recorded": Seam.REDIS,
    "resume.recorded": Seam.REDIS,
    "extend.checked": Seam.ARTIFACTS,
    "extend.recorded": Seam.REDIS,
    # Every object of a directory store.
    "file.draft_written": Seam.FILE,
    "file.linked": Seam.FILE,
    # The beginning of an attempt, in the worker.
    "claim.before": Seam.REDIS,
    "claim.claimed": Seam.REDIS,
    "handover.read": Seam.ARTIFACTS,
    # The trainer.
    "trainer.job_received": Seam.FILE,
    "trainer.loaded": Seam.FILE,
    "trainer.checkpoint_written": Seam.FILE,
    "trainer.snapshot_written": Seam.FILE,
    "trainer.trained": Seam.FILE,
    # What an attempt commits.
    "rate.stored": Seam.ARTIFACTS,
    "snapshot.weights_stored": Seam.ARTIFACTS,
    "snapshot.blobs_stored": Seam.ARTIFACTS,
    "snapshot.manifest_stored": Seam.ARTIFACTS,
    "snapshot.committed": Seam.REDIS,
    "checkpoint.blob_stored": Seam.ARTIFACTS,
    "checkpoint.manifest_stored": Seam.ARTIFACTS,
    "checkpoint.old_removed": Seam.ARTIFACTS,
    "checkpoint.reported": Seam.REDIS,
    # The end of an attempt.
    "result.before": Seam.ARTIFACTS,
    "result.earlier_kept": Seam.ARTIFACTS,
    "result.earlier_removed": Seam.ARTIFACTS,
    "result.stored": Seam.ARTIFACTS,
    "finish.recorded": Seam.REDIS,
    "release.recorded": Seam.REDIS,
    "amendment.recorded": Seam.ARTIFACTS,
    "amendment.stored": Seam.ARTIFACTS,
    "crash.recorded": Seam.REDIS,
    # The reconciler, in every worker and API.
    "reconciler.leading": Seam.REDIS,
    "reconciler.requeued": Seam.REDIS,
    "reconciler.result_stored": Seam.ARTIFACTS,
    "rebuild.begun": Seam.REDIS,
    "rebuild.batch": Seam.REDIS,
    "rebuild.ended": Seam.REDIS,
    # A deletion.
    "delete.marked": Seam.REDIS,
    "delete.spec_removed": Seam.ARTIFACTS,
    "delete.files_removed": Seam.ARTIFACTS,
})  # fmt: skip
"""All points. Each is passed in one place of the source, after what its name says."""


@dataclass(frozen=True)
class Shot:
    """What is to happen at a point, at which passing in a process."""

    action: Action
    at: int = 1
    seconds: float = 0.0


Due = Callable[[str], Shot | None]
"""The shot that is due now that a point is passed."""

_due: Due | None = None


def failpoint(name: str) -> None:
    """Fails where ``name`` is armed and due; else, and where nothing is armed, does nothing."""
    if _due is not None and (shot := _due(name)) is not None:
        _fire(name, shot)


def arm(text: str | None) -> None:
    """Arms this process's points; ``text`` is the variable's, None disarms all.

    Raises:
        ValueError: The text names no known point or action, or no directory.
    """
    global _due  # noqa: PLW0603  (one process, one plan; a parameter would have to go through every call)
    _due = _plan(text) if text else None


def check(text: str) -> str:
    """Returns the text.

    Raises:
        ValueError: As ``arm``.
    """
    _plan(text)
    return text


def read_shot(text: str) -> Shot:
    """``kill``, ``eio@3``, ``sleep:0.5`` as a shot.

    Raises:
        ValueError: It is none.
    """
    what, _, at = text.strip().partition("@")
    word, _, seconds = what.partition(":")
    known = ", ".join(Action)
    if word not in set(Action) or bool(seconds) != (word == Action.SLEEP) or (at and not at.isdecimal()) or at == "0":
        raise ValueError(f"{text!r} is no action of a failpoint: write one of {known} (sleep:SECONDS), and @N for the N-th passing")
    try:
        return Shot(Action(word), int(at or 1), float(seconds or 0))
    except ValueError:
        raise ValueError(f"{text!r} has no number of seconds: write sleep:0.5") from None


def _plan(text: str) -> Due:
    if text.startswith(DIRECTORY_MARK):
        directory = Path(text.removeprefix(DIRECTORY_MARK))
        if not directory.is_dir():
            raise ValueError(f"{directory} must be a directory that exists, for the files that arm failpoints")
        return _Posted(directory)
    shots = {}
    for entry in filter(None, text.split(";")):
        name, _, action = entry.strip().partition("=")
        if name not in POINTS:
            raise ValueError(f"there is no failpoint {name!r}: known are {', '.join(POINTS)}")
        shots[name] = read_shot(action)
    return _Listed(shots)


class _Listed:
    """Shots that were given at the start of the process."""

    def __init__(self, shots: Mapping[str, Shot]) -> None:
        self._shots = shots
        self._passes = Counter[str]()
        self._lock = Lock()

    def __call__(self, name: str) -> Shot | None:
        shot = self._shots.get(name)
        if shot is None:
            return None
        with self._lock:
            self._passes[name] += 1
            return shot if self._passes[name] == shot.at else None


class _Posted:
    """Shots that lie in a directory, as files; each is for the process that takes it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._passes = Counter[tuple[str, int]]()
        self._lock = Lock()

    def __call__(self, name: str) -> Shot | None:
        path = self._directory / name
        try:
            version = path.stat().st_mtime_ns
            shot = read_shot(path.read_text())
            with self._lock:
                self._passes[name, version] += 1
                if self._passes[name, version] < shot.at:
                    return None
                path.rename(path.with_name(name + FIRED))
        except FileNotFoundError:  # not armed, or another process was faster
            return None
        return shot


def _fire(name: str, shot: Shot) -> None:
    logger.warning("failpoint %s: %s", name, shot.action)
    match shot.action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.EIO:
            _refuse(name, errno.EIO)
        case Action.ENOSPC:
            _refuse(name, errno.ENOSPC)
        case Action.RAISE:
            raise InjectedError(f"failpoint {name}")
        case Action.SLEEP:
            time.sleep(shot.seconds)
        case _:
            assert_never(shot.action)


def _refuse(name: str, number: int) -> NoReturn:
    """Raises what the call beside the point raises for this error of the disk."""
    error = OSError(number, os.strerror(number), f"failpoint {name}")
    match POINTS[name]:
        case Seam.FILE:
            raise error
        case Seam.ARTIFACTS:
            from worker.artifact_errors import translated_errors  # it imports worker.durable_files, and that this module

            with translated_errors("failpoint"):
                raise error
        case Seam.REDIS:
            from worker.redis_connection import StoreUnavailable

            raise StoreUnavailable(f"Redis is away: {error}") from error
        case seam:
            assert_never(seam)
