"""A measurement of the landscape in the trainer process: tells how far it is, and ends early where it is asked to. It imports torch."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from clr.datasets import Dataset
from clr.landscape_config import LandscapeSettings
from clr.run_landscape import run_landscape
from clr.snapshots import Snapshot
from worker.trainer_dialogue import PROGRESS_SECONDS, Requests

Json = dict[str, Any]
Tell = Callable[[int, int, float], None]


class InterruptedMeasurementError(Exception):
    """Someone asked to drain or to stop; what was measured so far is dropped."""


def measure(
    snapshots: Sequence[Snapshot], dataset: Dataset, *, settings: LandscapeSettings, device: str, requests: Requests, tell: Tell
) -> Json:
    """The report of a run's landscape as a document.

    Args:
        snapshots: In the order of the run.
        dataset: Its data.
        settings: What to measure.
        device: To compute on.
        requests: Looked at after each part.
        tell: Called with the parts done, the parts in all and the seconds left: after the first part, the last, and now and then.

    Raises:
        InterruptedMeasurementError: ``requests`` asked for it.
    """
    began_at, told_at = time.monotonic(), -math.inf

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        if done == total or now - told_at >= PROGRESS_SECONDS:
            tell(done, total, (total - done) * (now - began_at) / done)
            told_at = now
        if requests.drain or requests.stop:
            raise InterruptedMeasurementError

    return run_landscape(snapshots, dataset, settings=settings, device=device, on_progress=on_progress).to_document()
