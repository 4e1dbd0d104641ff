"""A learning-rate range test in the trainer process: sweeps and probes, tells how far it is, and stages the answer. It imports torch.

An interrupted test begins again: it takes seconds, and a curve that was cut short suggests nothing.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clr.datasets import Dataset, load_dataset
from clr.probes import ProbeStep, training_config
from clr.range_answer import RangeTestResult
from clr.range_test import RangeStep, answer_of_curves, finish_sweep, progress, range_test_plan, search
from clr.training import resolve
from worker.job_specs import RangeTestSpec
from worker.jobs import Phase
from worker.protocol import EXIT_DRAINED, Finished, FirstStep, Progress, ResultStaged, Started, TrainerJob
from worker.trainer_dialogue import PROGRESS_SECONDS, Requests, Send

Json = dict[str, Any]


class RangeTestJob:
    """One range test in this process."""

    def __init__(self, spec: RangeTestSpec, job: TrainerJob, device: str, send: Send, requests: Requests) -> None:
        self._config = spec.config
        self._job = job
        self._device = device
        self._send = send
        self._requests = requests
        self._losses: dict[int, list[tuple[float, ...]]] = {}  # of each sweep
        self._began_at = time.monotonic()
        self._told_at = -math.inf
        self._done = 0  # steps, those counted that a sweep saved by ending early

    def to_end(self) -> int:
        """Sweeps and probes, and returns the exit status."""
        config = self._config
        dataset = load_dataset(Path(self._job.dataset_path))
        steps_per_epoch = range_test_plan(config, dataset).steps_per_epoch
        resolved = resolve(training_config(config, 0), dataset, self._device)
        taken = {"precision": resolved.precision, "augmentation": resolved.augmentation}
        self._send(Started(config=config.model_copy(update=taken).model_dump(mode="json")))
        self._began_at = time.monotonic()
        steps = search(config, dataset, device=self._device)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                self._stage(end.value)
                self._send(Finished(stop_reason=None))
                return 0
            begins_sweep = self._take(step)
            self._tell(step, *progress(config, steps_per_epoch, step))
            if self._requests.drain:
                return EXIT_DRAINED
            if self._requests.stop == "now" or (self._requests.stop == "cycle_end" and begins_sweep):
                self._stop(step, dataset)
                return 0

    def _take(self, step: RangeStep | ProbeStep) -> bool:
        """Keeps a sweep's loss; returns whether the sweep before this step is complete."""
        if isinstance(step, ProbeStep):
            return True
        losses = self._losses.setdefault(step.repeat, [])
        losses.append(step.batch_loss)
        return len(losses) == 1 and step.repeat > 0

    def _stop(self, step: RangeStep | ProbeStep, dataset: Dataset) -> None:
        """Ends early, with what the complete sweeps say by themselves."""
        complete = [repeat for repeat in self._losses if isinstance(step, ProbeStep) or repeat < step.repeat]
        if complete:
            sweeps = [finish_sweep(self._config, repeat, self._losses[repeat]) for repeat in complete]
            self._stage(answer_of_curves(self._config, dataset, sweeps, was_stopped=True))
        self._send(Finished(stop_reason="stopped"))

    def _stage(self, result: RangeTestResult) -> None:
        self._send(Progress(step=self._done, steps=self._done, eta_seconds=0.0))
        self._send(ResultStaged(document=range_test_document(result)))

    def _tell(self, step: RangeStep | ProbeStep, done: int, planned: int) -> None:
        now, self._done = time.monotonic(), done
        if self._told_at == -math.inf:
            self._send(FirstStep(at=time.time(), phase=Phase.MEASURING))
        if now - self._told_at < PROGRESS_SECONDS:
            return
        self._told_at = now
        self._send(
            Progress(
                step=done,
                steps=planned,
                eta_seconds=(planned - done) * (now - self._began_at) / done,
                learning_rate=step.learning_rate,
                train_loss=step.loss if math.isfinite(step.loss) else None,
            )
        )


def range_test_document(result: RangeTestResult) -> Json:
    """The answer as it is stored and sent; losses that are not finite become null."""
    document: Json = asdict(result)
    for one in document["sweeps"]:
        one["loss"] = _finite(one["loss"])
        one["batch_loss"] = [_finite(losses) for losses in one["batch_loss"]]
    return document


def _finite(losses: Iterable[float]) -> list[float | None]:
    return [loss if math.isfinite(loss) else None for loss in losses]
