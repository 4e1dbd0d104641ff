"""What a training says of its snapshots together, once it has ended: how they differ, and the landscape around them. It imports torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clr.datasets import Dataset
from clr.ensemble_sizes import members_document
from clr.landscape_config import LandscapeSettings
from clr.snapshots import load_outputs, load_snapshot
from worker.landscape_progress import Tell, measure
from worker.member_files import OUTPUTS, WEIGHTS, file_name
from worker.protocol import StagedFile
from worker.trainer_dialogue import Requests

Json = dict[str, Any]


class RunMembers:
    """The files of a run's snapshots. Invariant: one of each kind for every cycle that has ended, whichever attempt it ended in."""

    def __init__(self, earlier: Mapping[str, str], *, with_weights: bool) -> None:
        """Takes up what earlier attempts have left.

        Args:
            earlier: Files by ``file_name``.
            with_weights: Whether weights are kept too; they are large, and only the landscape needs them.
        """
        self._kinds = (OUTPUTS, WEIGHTS) if with_weights else (OUTPUTS,)
        self._files = {name: Path(path) for name, path in earlier.items()}

    def keep(self, cycle: int, *, weights: StagedFile, outputs: StagedFile) -> None:
        """Takes in a snapshot's files. They get a second name, since the supervisor removes them once they are stored."""
        files = {WEIGHTS: weights, OUTPUTS: outputs}
        for kind in self._kinds:
            kept = Path(f"kept-{files[kind].name}")
            kept.unlink(missing_ok=True)  # the cycle was trained twice
            os.link(files[kind].name, kept)
            self._files[file_name(kind, cycle)] = kept

    def document(self, dataset: Dataset) -> Json:
        """``diversity`` and ``ensemble_sizes``; empty for a run without snapshots."""
        paths = self._paths(OUTPUTS)
        return members_document([load_outputs(path) for path in paths], dataset.task) if paths else {}

    def landscape(self, dataset: Dataset, settings: LandscapeSettings, *, device: str, requests: Requests, tell: Tell) -> Json:
        """``landscape``; empty for a run without snapshots.

        Raises:
            InterruptedMeasurementError: ``requests`` asked for it.
        """
        snapshots = [load_snapshot(path) for path in self._paths(WEIGHTS)]
        if not snapshots:
            return {}
        return {"landscape": measure(snapshots, dataset, settings=settings, device=device, requests=requests, tell=tell)}

    def _paths(self, kind: str) -> list[Path]:
        """The files of one kind, by cycle."""
        found = {int(name.removeprefix(f"{kind}/")): path for name, path in self._files.items() if name.startswith(f"{kind}/")}
        return [found[cycle] for cycle in sorted(found)]
