"""What every kind of job in the trainer process has in hand: the way to tell its supervisor, and what that asked of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.protocol import Line, StagedFile

PROGRESS_SECONDS = 0.25
"""Shortest time between two progress messages; each costs the job store a synced write."""

Send = Callable[[Line], None]


@dataclass
class Requests:
    """What was asked of the running job; set by the signal handler and the stdin thread, read between two steps."""

    drain: bool = False
    stop: Literal["now", "cycle_end"] | None = None


def staged(name: str, save: Callable[[Path], str]) -> StagedFile:
    """Writes a file into the working directory by ``save``, which returns its sha256."""
    return StagedFile(name=name, sha256=save(Path(name)))
