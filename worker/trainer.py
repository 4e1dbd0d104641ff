"""The trainer process: takes one job from stdin, trains it, stages its files in the working directory, tells about it on stdout, exits.

It knows neither the job store nor the artifact store, so it holds no credentials, and it ends when stdin does: a worker that was
killed takes its trainer along. Started as ``python -m worker.trainer`` by ``worker.trainer_process``.
"""

import argparse
import math
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import BinaryIO, Literal, NoReturn

import numpy as np
import torch

from clr.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from clr.config import TrainingConfig
from clr.datasets import Dataset, load_dataset
from clr.errors import DivergedError
from clr.history import History
from clr.runs import MAX_ROLLBACKS, Rollback
from clr.snapshots import save_outputs, save_snapshot
from clr.training import CycleEnd, Plan, StepReport, resolve, run_plan, train
from worker.protocol import (
    EXIT_DRAINED,
    EXIT_FAILED,
    CheckpointStaged,
    Finished,
    FirstStep,
    HistoryRows,
    Line,
    PhaseEntered,
    Progress,
    Ready,
    RolledBack,
    SnapshotStaged,
    StagedFile,
    Started,
    StopRequest,
    TrainerJob,
)
from worker.trainer_failures import failure_of

PROGRESS_SECONDS = 0.25
"""Shortest time between two progress messages; each costs the job store a synced write."""

Send = Callable[[Line], None]


@dataclass
class Requests:
    """What was asked of the running job; set by the signal handler and the stdin thread, read between two steps."""

    drain: bool = False
    stop: Literal["now", "cycle_end"] | None = None


def main() -> int:
    """Warms up, runs the job that stdin brings, and returns the exit status."""
    parser = argparse.ArgumentParser(description="Trains one job for a snapcycle worker.")
    parser.add_argument("--device", required=True)
    device = _choose_device(parser.parse_args().device)
    send = _claim_stdout()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the user's data
    make_deterministic()
    warm_up(device)
    send(Ready())
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    job = TrainerJob.model_validate_json(line)
    requests = Requests()
    signal.signal(signal.SIGTERM, lambda *_: setattr(requests, "drain", True))
    Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    try:
        return _Run(job, device, send, requests).to_end()
    except Exception as error:  # noqa: BLE001  # the process boundary: the worker records it
        traceback.print_exc()
        send(failure_of(error))
        return EXIT_FAILED


def make_deterministic() -> None:
    """Fixes every choice that could change the bits of a run."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module class; nothing reads memory that it has not written
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def warm_up(device: str) -> None:
    """Trains toy runs, so that the job's first step pays for no lazy import, kernel choice or device context."""
    generator = np.random.default_rng(0)
    dataset = Dataset.from_arrays(generator.random((64, 8, 8), dtype=np.float32), np.arange(64) % 2)
    schedule = {"type": "warm_restarts", "cycles": 1, "epochs": 1}
    for architecture in ("mlp", "small_cnn"):
        config = TrainingConfig.model_validate({"model": {"architecture": architecture}, "schedule": schedule, "batch_size": 16})
        for _ in train(config, dataset, device=device):
            pass


class _Run:
    """One job in this process."""

    def __init__(self, job: TrainerJob, device: str, send: Send, requests: Requests) -> None:
        self._job = job
        self._device = device
        self._send = send
        self._requests = requests

    def to_end(self) -> int:
        """Trains, and returns the exit status."""
        job, requests = self._job, self._requests
        dataset = load_dataset(Path(job.dataset_path))
        checkpoint = load_checkpoint(Path(job.checkpoint_path)) if job.checkpoint_path else None
        plan = run_plan(job.config, dataset)
        num_steps = plan.schedule.num_steps
        history = History.from_state(checkpoint.caller_state, self._device) if checkpoint else History(num_steps)
        self._send(
            Started(
                config=TrainingConfig.model_validate(checkpoint.state["config"]) if checkpoint else resolve(job.config, self._device),
                step=checkpoint.step if checkpoint else 0,
                rows=history.rows,
                differences=checkpoint.matches_environment(self._device) if checkpoint else [],
            )
        )
        reporter = _Reporter(self._send, plan, history)
        saved_at = time.monotonic()
        for event in train(job.config, dataset, device=self._device, resume_from=checkpoint):
            match event:
                case StepReport():
                    reporter.report(event)
                    if plan.schedule.is_cycle_end(event.step - 1):
                        self._send(PhaseEntered(phase="evaluating"))
                        continue  # its CycleEnd is next: nothing may come between the last step and the snapshot
                    is_due = time.monotonic() - saved_at >= job.checkpoint_seconds
                case CycleEnd():
                    self._stage_snapshot(event)
                    is_due = True
                case Rollback():
                    reporter.roll_back(event)
                    continue
            if is_due or requests.drain or requests.stop:
                reporter.flush_rows()
            if is_due or requests.drain:
                self._stage_checkpoint(event.checkpoint(), history)
                saved_at = time.monotonic()
            if requests.drain and event.step < num_steps:
                return EXIT_DRAINED
            if requests.stop == "now" or (requests.stop == "cycle_end" and isinstance(event, CycleEnd)):
                if isinstance(event, StepReport) and event.cycle == 0:
                    self._stage_snapshot(event.stop_here())  # there is none yet, and the user keeps what there is
                self._send(Finished(stop_reason="stopped" if event.step < num_steps else None))
                return 0
        self._send(Finished(stop_reason=None))
        return 0

    def _stage_snapshot(self, end: CycleEnd) -> None:
        """Writes a snapshot and its outputs, and tells the supervisor."""
        self._send(PhaseEntered(phase="saving_snapshot"))
        snapshot = end.snapshot
        validation, test = snapshot.metrics["validation"], snapshot.metrics["test"]
        if not all(math.isfinite(value) for value in (*validation.values(), *test.values())):
            raise DivergedError(f"the snapshot of cycle {snapshot.cycle} (step {snapshot.step}) predicts no finite numbers: lower max_lr")
        weights = _staged(f"snapshot-{snapshot.cycle}.safetensors", partial(save_snapshot, snapshot))
        outputs = _staged(f"outputs-{snapshot.cycle}.safetensors", partial(save_outputs, snapshot))
        self._send(
            SnapshotStaged(
                cycle=snapshot.cycle,
                step=snapshot.step,
                epoch=snapshot.epoch,
                learning_rate=snapshot.learning_rate,
                next_learning_rate=snapshot.next_learning_rate,
                is_minimum=snapshot.is_minimum,
                validation=validation,
                test=test,
                ensemble_members=end.ensemble.num_members,
                ensemble_validation=end.ensemble.validation,
                ensemble_test=end.ensemble.test,
                weights=weights,
                outputs=outputs,
            )
        )
        self._send(PhaseEntered(phase="training"))

    def _stage_checkpoint(self, checkpoint: Checkpoint, history: History) -> None:
        """Writes a checkpoint and tells the supervisor."""
        complete = checkpoint.with_caller_state(history.state())
        file = _staged(f"checkpoint-{checkpoint.step}.safetensors", partial(save_checkpoint, complete))
        self._send(CheckpointStaged(step=checkpoint.step, file=file))


class _Reporter:
    """Tells how the run goes: history rows as they come, progress at most four times a second."""

    def __init__(self, send: Send, plan: Plan, history: History) -> None:
        self._send = send
        self._plan = plan
        self._history = history
        self._began_at = time.monotonic()
        self._told_at = -math.inf
        self._num_steps = 0
        self._num_rows = 0

    def report(self, report: StepReport) -> None:
        """Takes one step in."""
        self._history.record(report)
        self._num_steps += 1
        self._num_rows += report.num_rows
        if self._num_steps == 1:
            self._send(FirstStep(at=time.time()))
        if report.step == self._plan.schedule.num_steps or time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._tell_progress(report)

    def roll_back(self, rollback: Rollback) -> None:
        """Takes back what was said of the steps that are repeated."""
        self._history.rewind(rollback.step)
        message = (
            f"the loss was no finite number at step {rollback.diverged_at}: cycle {rollback.cycle} begins again at step {rollback.step}, "
            f"at {rollback.peak_scale:g} of its rates ({rollback.attempt} of {MAX_ROLLBACKS} tries); a lower max_lr avoids this"
        )
        self._send(RolledBack(message=message, rows=self._history.rows))

    def flush_rows(self) -> None:
        """Hands over the rows that the history has gained."""
        if rows := self._history.new_rows():
            self._send(HistoryRows(rows=rows))

    def _tell_progress(self, report: StepReport) -> None:
        self.flush_rows()
        train_loss = report.loss.item()  # waits for the device: the reason why progress is throttled
        self._told_at = time.monotonic()
        if not math.isfinite(train_loss):
            return  # the run is about to be rolled back
        elapsed = max(self._told_at - self._began_at, 1e-9)
        schedule = self._plan.schedule
        self._send(
            Progress(
                step=report.step,
                steps=schedule.num_steps,
                epoch=report.epoch,
                epochs=self._plan.epochs,
                cycle=report.cycle,
                cycles=schedule.num_cycles,
                learning_rate=report.learning_rate,
                train_loss=train_loss,
                samples_per_second=self._num_rows / elapsed,
                eta_seconds=(schedule.num_steps - report.step) * elapsed / self._num_steps,
            )
        )


def _staged(name: str, save: Callable[[Path], str]) -> StagedFile:
    """Writes a file into the working directory by ``save``, which returns its sha256."""
    return StagedFile(name=name, sha256=save(Path(name)))


def _choose_device(name: str) -> str:
    """The device that ``auto`` means on this machine; other names as they are."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _claim_stdout() -> Send:
    """Returns what writes to the supervisor, and sends all stray output of libraries to stderr instead."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(line: Line) -> None:
        pipe.write(line.encode())
        pipe.flush()

    return send


def _listen(stdin: BinaryIO, requests: Requests) -> NoReturn:
    """Takes stop requests in; ends the process with its stdin, whatever the training does."""
    for line in stdin:
        requests.stop = StopRequest.model_validate_json(line).when
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    # Nothing is left to tear down, and the listening thread would keep a regular exit from closing stdin.
    os._exit(main())
