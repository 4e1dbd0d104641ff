"""What a training job says while it trains: history rows as they come, progress at most four times a second. It imports torch."""

import math
import time

from clr.history import History
from clr.planning import Replanned as PlanChange
from clr.plans import Plan
from clr.rate_search import RateFound as FoundRate
from clr.rate_search import RateSearch
from clr.run_events import Rollback
from clr.runs import MAX_ROLLBACKS
from clr.schedules import Schedule
from clr.training import StepReport
from worker.jobs import Phase
from worker.protocol import FirstStep, HistoryRows, PhaseEntered, Progress, RateFound, Replanned, RolledBack
from worker.range_test_job import range_test_document
from worker.trainer_dialogue import PROGRESS_SECONDS, Send


class TrainReporter:
    """Tells how the run goes; ``step`` is where it is."""

    def __init__(self, send: Send, plan: Plan, history: History, *, step: int) -> None:
        self.step = step
        self._send = send
        self._plan = plan
        self._history = history
        self._length = plan.schedule.num_steps
        self._began_at = time.monotonic()
        self._told_at = -math.inf
        self._num_steps = 0
        self._num_rows = 0
        self._has_begun = False

    def search(self, search: RateSearch) -> None:
        """Tells how far the range test is that comes before training."""
        if not self._has_begun:
            self._begin(Phase.FINDING_LEARNING_RATE)
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            schedule = self._plan.schedule
            length = {"steps": self._steps(schedule), "epochs": self._epochs(schedule), "cycles": schedule.num_cycles}
            self._send(Progress(step=0, epoch=0.0, cycle=0, **length, phase_fraction=search.fraction))

    def found(self, found: FoundRate) -> None:
        """Tells what the range test has found."""
        config = found.config.model_dump(mode="json")
        self._send(RateFound(max_lr=found.max_lr, epochs=found.epochs, result=range_test_document(found.result), config=config))
        self._send(PhaseEntered(phase=Phase.TRAINING))
        self._began_at = time.monotonic()

    def report(self, report: StepReport) -> None:
        """Takes one step in."""
        self.step = report.step
        self._history.record(report)
        self._num_steps += 1
        self._num_rows += report.num_rows
        if not self._has_begun:
            self._begin(Phase.TRAINING)
        if report.step == report.schedule.num_steps or time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._tell_progress(report)

    def replan(self, change: PlanChange) -> None:
        """Tells a change of plan, and lays the points of the history out anew where it changes the length."""
        decision, schedule = change.decision, change.schedule
        if schedule.num_steps != self._length:
            self._length = schedule.num_steps
            self._history.replan(self.step, schedule.num_steps)
        self._send(
            Replanned(
                step=decision.step,
                subject=decision.subject,
                steps=schedule.num_steps,
                cycles=schedule.num_cycles,
                cycle_ends=decision.cycle_ends,
                peaks=decision.peaks,
                reason=decision.reason,
                evidence=decision.evidence,
            )
        )

    def roll_back(self, rollback: Rollback) -> None:
        """Takes back what was said of the steps that are repeated."""
        self.step = rollback.step
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

    def _begin(self, phase: Phase) -> None:
        self._has_begun = True
        self._send(FirstStep(at=time.time(), phase=phase))

    def _tell_progress(self, report: StepReport) -> None:
        self.flush_rows()
        train_loss = report.loss.item()  # waits for the device: the reason why progress is throttled
        self._told_at = time.monotonic()
        if not math.isfinite(train_loss):
            return  # the run is about to be rolled back
        elapsed = max(self._told_at - self._began_at, 1e-9)
        schedule = report.schedule
        steps = self._steps(schedule)
        self._send(
            Progress(
                step=report.step,
                steps=steps,
                epoch=report.epoch,
                epochs=self._epochs(schedule),
                cycle=report.cycle,
                cycles=schedule.num_cycles,
                learning_rate=report.learning_rate,
                train_loss=train_loss,
                samples_per_second=self._num_rows / elapsed,
                eta_seconds=None if steps is None else (steps - report.step) * elapsed / self._num_steps,
            )
        )

    def _steps(self, schedule: Schedule) -> int | None:
        """The length of the run; None while it is still to be measured."""
        is_known = self._plan.is_length_known or schedule.num_steps != self._plan.schedule.num_steps
        return schedule.num_steps if is_known else None

    def _epochs(self, schedule: Schedule) -> float | None:
        steps = self._steps(schedule)
        return None if steps is None else steps / self._plan.steps_per_epoch
