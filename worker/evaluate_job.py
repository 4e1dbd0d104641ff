"""An evaluation in the trainer process: measures the landscape around a train job's snapshots and stages the report. It imports torch.

An interrupted evaluation begins again: its parts are of use only together.
"""

import time
from pathlib import Path

from clr.datasets import load_dataset
from clr.snapshots import load_snapshot
from worker.job_specs import EvaluateSpec
from worker.jobs import Phase
from worker.landscape_progress import InterruptedMeasurementError, measure
from worker.member_files import WEIGHTS, file_name
from worker.protocol import EXIT_DRAINED, Finished, FirstStep, Progress, ResultStaged, Started, TrainerJob
from worker.trainer_dialogue import Requests, Send


class EvaluateJob:
    """One evaluation in this process."""

    def __init__(self, spec: EvaluateSpec, job: TrainerJob, device: str, send: Send, requests: Requests) -> None:
        self._spec = spec
        self._job = job
        self._device = device
        self._send = send
        self._requests = requests
        self._has_begun = False

    def to_end(self) -> int:
        """Measures, and returns the exit status."""
        dataset = load_dataset(Path(self._job.dataset_path))
        snapshots = [load_snapshot(Path(self._job.files[file_name(WEIGHTS, cycle)])) for cycle in self._spec.cycles]
        self._send(Started(config=self._spec.config.model_dump(mode="json")))
        try:
            report = measure(
                snapshots,
                dataset,
                settings=self._spec.config.landscape,
                device=self._device,
                requests=self._requests,
                tell=self._tell,
            )
        except InterruptedMeasurementError:
            if self._requests.drain:
                return EXIT_DRAINED
            self._send(Finished(stop_reason="stopped"))
            return 0
        self._send(ResultStaged(document={"landscape": report}))
        self._send(Finished(stop_reason=None))
        return 0

    def _tell(self, done: int, total: int, seconds_left: float) -> None:
        if not self._has_begun:
            self._send(FirstStep(at=time.time(), phase=Phase.MEASURING))
            self._has_begun = True
        self._send(Progress(step=done, steps=total, eta_seconds=seconds_left))
