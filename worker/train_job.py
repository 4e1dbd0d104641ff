"""A training job in the trainer process: trains, stages snapshots and checkpoints, and tells about it. It imports torch."""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from clr.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, with_more_cycles
from clr.config import TrainingConfig
from clr.datasets import load_dataset
from clr.errors import DivergedError
from clr.history import History
from clr.snapshots import save_outputs, save_snapshot
from clr.training import CycleEnd, Event, Plan, RateFound, RateSearch, Replanned, Rollback, StepReport, resolve, run_plan, train
from worker.background_writer import BackgroundWriter
from worker.failpoints import failpoint
from worker.job_specs import TrainSpec
from worker.jobs import Phase
from worker.landscape_progress import InterruptedMeasurementError
from worker.pacing import Pacing
from worker.protocol import (
    EXIT_DRAINED,
    CheckpointStaged,
    Finished,
    PhaseEntered,
    Progress,
    ResultStaged,
    SnapshotStaged,
    Started,
    TrainerJob,
)
from worker.run_members import RunMembers
from worker.train_reporter import TrainReporter
from worker.trainer_dialogue import Requests, Send, staged


class TrainJob:
    """One training run in this process."""

    def __init__(self, spec: TrainSpec, job: TrainerJob, device: str, send: Send, requests: Requests) -> None:
        began_at = time.monotonic()
        self._config = spec.config
        self._landscape = spec.landscape
        self._members = RunMembers(job.files, with_weights=spec.landscape is not None)
        self._checkpoint_seconds = job.checkpoint_seconds
        self._seconds_drained = job.seconds_drained
        self._device = device
        self._writer = BackgroundWriter(send)
        self._send = self._writer.send
        self._requests = requests
        self._dataset = load_dataset(Path(job.dataset_path))
        self._began_at = began_at
        self._passed_over: list[str] = []
        self._events = self._resumed([path for path in (job.checkpoint_path, *job.older_checkpoints) if path is not None])
        failpoint("trainer.loaded")

    def _resumed(self, paths: Sequence[str]) -> Iterator[Event]:
        """The events of the run from the first checkpoint that can be used, or from the start."""
        for path in paths:
            try:
                self._set_out(load_checkpoint(Path(path)))
                events = train(self._config, self._dataset, device=self._device, resume_from=self._checkpoint)
                return chain([next(events)], events)  # the first event shows whether it fits
            except StopIteration:
                return iter(())
            except (ValueError, KeyError, TypeError, AttributeError) as error:  # of another version of this program, or other software
                self._passed_over.append(f"{Path(path).parent.name}: {error}")
        self._set_out(None)
        return train(self._config, self._dataset, device=self._device)

    def _set_out(self, kept_at: Checkpoint | None) -> None:
        """Puts everything beside the training itself where it was."""
        self._checkpoint, device = with_more_cycles(kept_at, self._config) if kept_at else None, self._device
        self._plan = run_plan(self._config, self._dataset)
        kept = self._checkpoint.caller_state if self._checkpoint else None
        length = self._plan.schedule.num_steps if self._plan.is_length_known else None
        self._history = History.from_state(kept["history"], device) if kept else History(length)
        if self._checkpoint is not kept_at and self._checkpoint is not None:
            self._history.extend(self._checkpoint.step, self._plan.schedule.num_steps)
        self._reporter = TrainReporter(self._send, self._plan, self._history, step=self._checkpoint.step if self._checkpoint else 0)
        used_before = kept["used_seconds"] if kept else self._seconds_drained  # a search for a rate that was drained has left nothing else
        self._pacer = _pacer(self._config, self._plan, self._checkpoint, used_before=used_before or 0.0, began_at=self._began_at)
        self._schedule = self._plan.schedule
        self._saved_at = self._began_at

    def to_end(self) -> int:
        """Trains, and returns the exit status once everything is on the disk and told."""
        with self._writer:
            return self._to_end()

    def _to_end(self) -> int:
        checkpoint, device = self._checkpoint, self._device
        self._send(
            Started(
                config=checkpoint.state["config"] if checkpoint else resolve(self._config, self._dataset, device).model_dump(mode="json"),
                step=checkpoint.step if checkpoint else 0,
                rows=self._history.rows,
                plan=_announced_plan(checkpoint) if checkpoint else (),
                passed_over=self._passed_over,
                differences=checkpoint.matches_environment(device) if checkpoint else [],
            )
        )
        self._saved_at = time.monotonic()
        status: int | None = None
        for event in self._events:
            match event:
                case StepReport():
                    status = self._after_step(event)
                case CycleEnd():
                    status = self._after_cycle(event)
                case RateSearch():
                    status = self._while_searching(event)
                case RateFound():
                    self._reporter.found(event)
                case Replanned():
                    self._schedule = event.schedule
                    self._reporter.replan(event)
                case Rollback():
                    self._roll_back(event)
            if status is not None:
                return status
        return self._finish(stop_reason=None)

    def _after_step(self, report: StepReport) -> int | None:
        """Takes a step in; returns the exit status if it was the last one."""
        self._schedule = report.schedule
        self._reporter.report(report)
        if self._schedule.is_cycle_end(report.step - 1):
            self._begin_snapshot(report)
            return None  # its CycleEnd is next: nothing may come between the last step and the snapshot
        self._pace(report)
        if self._requests.drain or time.monotonic() - self._saved_at >= self._checkpoint_seconds:
            self._stage_checkpoint(report.checkpoint())
        if self._requests.drain:
            return EXIT_DRAINED
        if self._requests.stop != "now":
            return None
        if report.cycle == 0:
            self._stage_snapshot(report.stop_here())  # there is none yet, and the user keeps what there is
        return self._finish(stop_reason="stopped")

    def _after_cycle(self, end: CycleEnd) -> int | None:
        """Saves the snapshot; returns the exit status if the run ends here, before its last cycle."""
        self._schedule = end.schedule
        self._stage_snapshot(end)
        if self._pacer is None:
            self._stage_checkpoint(end.checkpoint())
        else:
            self._pacer.end_snapshot(time.monotonic())
        if end.step == self._schedule.num_steps:
            return None
        if self._requests.drain and self._pacer is None:
            return EXIT_DRAINED  # a paced run has its checkpoint from before: it takes one more step, so that the time counts
        return self._finish(stop_reason="stopped") if self._requests.stop else None

    def _while_searching(self, search: RateSearch) -> int | None:
        """Tells how far the range test is; there is nothing to keep of one that is interrupted."""
        self._reporter.search(search)
        if self._pacer is not None:
            self._pacer.check_search(time.monotonic())
        if self._requests.drain:
            return EXIT_DRAINED
        if self._requests.stop:
            self._send(Finished(stop_reason="stopped"))
            return 0
        return None

    def _roll_back(self, rollback: Rollback) -> None:
        self._reporter.roll_back(rollback)
        if self._pacer is not None:
            self._pacer.interrupt()

    def _pace(self, report: StepReport) -> None:
        """Lets the clock of a budget in minutes say how long the run is to be."""
        pacer = self._pacer
        if pacer is None or not pacer.is_due(time.monotonic()):
            return
        report.loss.item()  # waits for the device, which may be behind
        now = time.monotonic()
        pacer.observe(report.step, now)
        if (length := pacer.length(report.schedule, report.step, now)) is not None:
            report.replan(length.num_steps, length.reason, length.evidence)

    def _begin_snapshot(self, report: StepReport) -> None:
        self._send(PhaseEntered(phase=Phase.EVALUATING))
        if self._pacer is not None:
            report.loss.item()  # waits for the device, which may be behind
            if not report.has_diverged():
                # Another attempt's clock would end the cycle elsewhere: the end is stored before its snapshot is.
                self._stage_checkpoint(report.checkpoint())
            self._pacer.begin_snapshot(time.monotonic())

    def _finish(self, *, stop_reason: Literal["stopped"] | None) -> int:
        """Stages what the snapshots are together, and returns the exit status. A run that was stopped is not measured any further."""
        self._reporter.flush_rows()
        self._writer.flush()
        if members := self._members.document(self._dataset):
            self._send(ResultStaged(document=members))
        if self._landscape is not None and stop_reason is None:
            self._send(PhaseEntered(phase=Phase.EVALUATING))

            def tell(_done: int, _total: int, seconds_left: float) -> None:
                steps, cycles = self._schedule.num_steps, self._schedule.num_cycles
                epochs = steps / self._plan.steps_per_epoch
                place = {"epoch": epochs, "epochs": epochs, "cycle": cycles - 1, "cycles": cycles}
                self._send(Progress(step=steps, steps=steps, **place, eta_seconds=seconds_left))

            try:
                found = self._members.landscape(self._dataset, self._landscape, device=self._device, requests=self._requests, tell=tell)
                self._send(ResultStaged(document=found))
            except InterruptedMeasurementError:
                if self._requests.drain:
                    return EXIT_DRAINED
                stop_reason = "stopped"
        failpoint("trainer.trained")
        self._send(Finished(stop_reason=stop_reason))
        return 0

    def _stage_snapshot(self, end: CycleEnd) -> None:
        """Writes a snapshot and its outputs, and tells the supervisor."""
        self._send(PhaseEntered(phase=Phase.SAVING_SNAPSHOT))
        snapshot = end.snapshot
        validation, test = snapshot.metrics["validation"], snapshot.metrics["test"]
        if not all(math.isfinite(value) for value in (*validation.values(), *test.values())):
            raise DivergedError(f"the snapshot of cycle {snapshot.cycle} (step {snapshot.step}) predicts no finite numbers: lower max_lr")
        self._writer.stage(partial(self._write_snapshot, end))
        if self._pacer is not None:
            self._writer.flush()  # the clock of the budget is to count it
        self._send(PhaseEntered(phase=Phase.TRAINING))

    def _write_snapshot(self, end: CycleEnd) -> SnapshotStaged:
        snapshot = end.snapshot
        weights = staged(f"snapshot-{snapshot.cycle}.safetensors", partial(save_snapshot, snapshot))
        outputs = staged(f"outputs-{snapshot.cycle}.safetensors", partial(save_outputs, snapshot))
        failpoint("trainer.snapshot_written")
        self._members.keep(snapshot.cycle, weights=weights, outputs=outputs)
        return SnapshotStaged(
            cycle=snapshot.cycle,
            step=snapshot.step,
            epoch=snapshot.epoch,
            learning_rate=snapshot.learning_rate,
            next_learning_rate=snapshot.next_learning_rate,
            is_minimum=snapshot.is_minimum,
            validation=snapshot.metrics["validation"],
            test=snapshot.metrics["test"],
            ensemble_members=end.ensemble.num_members,
            ensemble_reason=end.ensemble.reason,
            ensemble_validation=end.ensemble.validation,
            ensemble_test=end.ensemble.test,
            weights=weights,
            outputs=outputs,
        )

    def _stage_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and tells the supervisor, after the rows that it holds."""
        self._reporter.flush_rows()
        used_seconds = self._pacer.seconds_used(time.monotonic()) if self._pacer is not None else None
        caller_state = {"history": self._history.state(), "used_seconds": used_seconds}
        self._writer.stage(partial(_write_checkpoint, checkpoint.with_caller_state(caller_state)))
        self._saved_at = time.monotonic()


def _write_checkpoint(checkpoint: Checkpoint) -> CheckpointStaged:
    file = staged(f"checkpoint-{checkpoint.step}.safetensors", partial(save_checkpoint, checkpoint))
    failpoint("trainer.checkpoint_written")
    return CheckpointStaged(step=checkpoint.step, file=file)


def _pacer(config: TrainingConfig, plan: Plan, checkpoint: Checkpoint | None, *, used_before: float, began_at: float) -> Pacing | None:
    """The clock of a budget in minutes; None for other runs."""
    if plan.is_length_known:
        return None
    assert config.budget is not None, "only a budget leaves the length open"
    assert config.budget.minutes is not None, "a budget in epochs is a length"
    return Pacing(
        60 * config.budget.minutes,
        used_before=used_before,
        began_at=began_at,
        snapshot_steps=(plan.num_validation + plan.num_test) / (plan.num_train_rows / plan.steps_per_epoch),
        is_planned=checkpoint is not None and any(each["subject"] == "length" for each in checkpoint.state["plan"]["decisions"]),
    )


def _announced_plan(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The changes of plan that were told before the checkpoint, as ``worker.protocol.Replanned`` has them."""
    plan = checkpoint.state["plan"]
    told = plan["decisions"][: plan["announced"]]
    return [{**each, "steps": each["cycle_ends"][-1], "cycles": len(each["cycle_ends"])} for each in told]
