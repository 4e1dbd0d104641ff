"""Runs one job: claims it, has a trainer process train it, and makes what the trainer stages durable and visible.

A supervisor is one loop whose turns are short. Each turn takes what the trainer said and carries out, in order, what is owed to the
stores. Where one of them is away, the turn ends there and the next one tries again, while the training goes on. Everything owed can
be repeated, and ends at the first sign that the job belongs to someone else. A store may take minutes for a file, so the lease is renewed
beside the turns. This module doesn't import torch.
"""

import logging
import math
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import assert_never

from worker.artifacts import ArtifactUnavailable
from worker.attempt import Attempt, FencedError
from worker.attempt_end import Ending, conclude
from worker.bench import Bench, Outcome
from worker.debts import Debts
from worker.failpoints import failpoint
from worker.heartbeat import Heartbeat, now
from worker.job_artifacts import JobArtifacts
from worker.job_store import Claim, StoreUnavailable
from worker.jobs import Action, ErrorCategory, Phase
from worker.protocol import (
    CheckpointStaged,
    Failed,
    Finished,
    FirstStep,
    HistoryRows,
    Message,
    PhaseEntered,
    Progress,
    RateFound,
    Ready,
    Replanned,
    ResultStaged,
    RolledBack,
    SnapshotStaged,
    Started,
    StopRequest,
)
from worker.trainer_mailbox import Exited, Mailbox, read_trainer
from worker.trainer_process import TrainerProcess
from worker.watchdog import Watchdog

__all__ = ["Bench", "Outcome", "supervise"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How soon a cancel, a stop or a drain is noticed."""

GIVE_UP_SECONDS = 600
"""How long a training goes on while a store is away; then the lease is left to another worker."""


def supervise(job_id: str, bench: Bench) -> Outcome:
    """Runs a job as far as this worker can and returns what became of it.

    Raises:
        StoreUnavailable: The job store was away before the job was claimed; the reconciler will send the message again.
    """
    failpoint("claim.before")
    claim = bench.store.claim(job_id, bench.worker_id, bench.lease_ms, bench.max_crashes)
    if not isinstance(claim, Claim):
        logger.info("job %s: its message was dropped (%s)", job_id, claim.reason)
        return Outcome.REFUSED
    logger.info("job %s: claimed with epoch %d", job_id, claim.epoch)
    failpoint("claim.claimed")
    artifacts = JobArtifacts(bench.artifacts, job_id, claim.epoch)
    attempt = Attempt(bench.store, artifacts, job_id, claim.epoch, lease_ms=bench.lease_ms)
    trainer = bench.trainers.take()
    mailbox: Mailbox = SimpleQueue()
    reader = read_trainer(trainer, mailbox)
    try:
        supervision = _Supervision(bench, job_id, attempt, trainer, mailbox)
        with supervision.heartbeat:
            outcome = supervision.to_end()
    except Exception:
        logger.exception("job %s: its supervisor failed", job_id)
        attempt.lose("the supervisor failed", max_crashes=bench.max_crashes)
        raise
    finally:
        trainer.kill()
        reader.join()
        trainer.discard()
        bench.trainers.warm()
    logger.info("job %s: %s", job_id, outcome)
    return outcome


class _Supervision:
    """One attempt with its trainer.

    Attributes:
        heartbeat: Renews the lease while it is entered.
    """

    def __init__(self, bench: Bench, job_id: str, attempt: Attempt, trainer: TrainerProcess, mailbox: Mailbox) -> None:
        self._bench = bench
        self._job_id = job_id
        self._attempt = attempt
        self._trainer = trainer
        self._mailbox = mailbox
        self.heartbeat = Heartbeat(attempt.renew_lease, seconds=bench.beat_seconds)
        self._debts = Debts(self._fail, attempt.read_clock, self._hand_over, attempt.recall)
        self._requested: Action | None = None
        self._last_word: Finished | Failed | None = None
        self._exit: Exited | None = None
        self._kernel_kills = bench.kernel_kills()
        self._look_for_others_at = math.inf
        self._draining_since: float | None = None
        self._away_since: float | None = None
        self._watchdog = Watchdog(bench.stall_seconds)
        self._stalled: str | None = None

    def to_end(self) -> Outcome:
        """Turns until something ends the attempt."""
        while True:
            try:
                outcome = self._turn()
                self._away_since = None
            except (StoreUnavailable, ArtifactUnavailable) as error:
                outcome = self._wait_out(error)
            except FencedError:
                outcome = Outcome.FENCED
            if outcome is not None:
                return outcome
            self._take_messages()

    def _turn(self) -> Outcome | None:
        """Does all that is due; returns the outcome at the end."""
        self._drain_if_asked()
        self._end_overtime()
        self.heartbeat.note_turn()
        if self.heartbeat.is_fenced:
            raise FencedError(f"{self._job_id} belongs to a later claim, or to none")
        self._warm_for_others()
        requested = self._bench.store.requested_action(self._job_id)
        if requested == Action.CANCEL:  # even where what is owed cannot be paid
            self._obey(requested)
        if self._requested == Action.CANCEL:  # it owes nothing, whatever its trainer has said before it was dead
            self._debts.clear()
        self._debts.pay()
        self._obey(requested)
        self._attempt.report_news(is_stopping=self._requested is not None)
        if self._exit is None:
            return None
        return conclude(self._ending(self._exit.status), self._attempt, bench=self._bench, job_id=self._job_id)

    def _wait_out(self, error: Exception) -> Outcome | None:
        """Takes a store's absence; None while there is time left."""
        moment = now()
        if self._away_since is None:
            self._away_since = moment
            logger.warning("job %s: a store is away, commits wait: %s", self._job_id, error)
        is_over = moment - self._away_since > GIVE_UP_SECONDS
        is_late = self._draining_since is not None and moment - self._draining_since > self._bench.drain_seconds
        return Outcome.ABANDONED if is_over or is_late else None

    def _take_messages(self) -> None:
        """Takes in what the trainer has said; waits for its first word a moment only."""
        has_spoken = False
        with suppress(Empty):
            self._take(self._mailbox.get(timeout=POLL_SECONDS))
            has_spoken = True
            while True:
                self._take(self._mailbox.get_nowait())

        self._watchdog.note(has_spoken=has_spoken)
        if self._stalled is None and self._exit is None and self._watchdog.finding is not None:
            self._stalled = self._watchdog.finding
            logger.warning("job %s: %s", self._job_id, self._stalled)
            self._trainer.kill()

    def _end_overtime(self) -> None:
        """Has the job fail once it has run for longer than it may."""
        limits = [limit for limit in (self._attempt.max_seconds, self._bench.max_job_seconds) if limit is not None]
        if self._last_word is None and limits and self._attempt.seconds_run > min(limits):
            message = f"it has run for {self._attempt.seconds_run:.0f} s, and {min(limits):g} s were allowed"
            suggestion = "raise max_seconds (the service allows at most SNAPCYCLE_MAX_JOB_SECONDS), or train for fewer epochs"
            self._fail(ErrorCategory.TIME_LIMIT, message, f"{suggestion}; the snapshots taken so far stay usable")

    def _take(self, message: Message | Exited) -> None:
        match message:
            case Ready():
                pass
            case Started():
                self._take_start(message)
            case FirstStep():
                self._debts.owe(partial(self._report_first_step, message.phase))
                self._debts.owe(self._attempt.record_claim)
            case PhaseEntered() | Progress() | HistoryRows() | ResultStaged():
                self._attempt.note(message)
            case RolledBack():
                self._attempt.note_rollback(message)
                self._debts.owe(partial(self._attempt.report_rollback, message.message))
            case RateFound():
                self._debts.owe(partial(self._attempt.commit_rate, message))
            case Replanned():
                self._attempt.note_plan(message)
                self._debts.owe(partial(self._attempt.report_plan, message))
            case SnapshotStaged():
                self._debts.owe(partial(self._attempt.commit_snapshot, message, self._trainer.directory))
            case CheckpointStaged():
                self._debts.owe(partial(self._attempt.commit_checkpoint, message, self._trainer.directory))
            case Finished() | Failed():
                self._debts.owe(self._attempt.check_dataset)  # else what it says may be wrong
                self._last_word = self._last_word or message
            case Exited():
                self._exit = message
            case _:
                assert_never(message)

    def _take_start(self, started: Started) -> None:
        self._attempt.note_start(started)
        if started.step:
            logger.info("job %s: resumed at step %d", self._job_id, started.step)
            self._debts.owe(self._attempt.recall)
        for reason in started.passed_over:
            self._debts.owe(partial(self._attempt.report_warning, f"a checkpoint was passed over: {reason}"))
        if started.differences:
            warning = f"resumed in another environment, so the bits may differ: {'; '.join(started.differences)}"
            self._debts.owe(partial(self._attempt.report_warning, warning))

    def _report_first_step(self, phase: Phase) -> None:
        self._attempt.report_first_step(phase)
        self._look_for_others_at = now()

    def _warm_for_others(self) -> None:
        """Has the next trainer ready where jobs wait; else it is warmed after this job, since it takes a core for some seconds.

        Not before the first step, which it would slow down.
        """
        if now() >= self._look_for_others_at:
            self._look_for_others_at = now() + self._bench.beat_seconds
            if self._bench.store.num_queued() > 0:
                self._bench.trainers.warm()

    def _hand_over(self) -> None:
        """Gives the trainer its job."""
        self._trainer.send(self._attempt.trainer_job(checkpoint_seconds=self._bench.checkpoint_seconds))

    def _fail(self, category: ErrorCategory, message: str, suggestion: str) -> None:
        """Has the job fail, whatever the trainer says from now on."""
        self._last_word = Failed(category=category.value, message=message, suggestion=suggestion)
        self._trainer.kill()

    def _drain_if_asked(self) -> None:
        """Once the worker is asked to stop, or the job to pause, so is the trainer; one that doesn't within its time is killed."""
        if self._bench.is_draining():
            self._start_drain()
        if self._draining_since is not None and now() - self._draining_since > self._bench.drain_seconds:
            self._trainer.kill()

    def _start_drain(self) -> None:
        """Has the trainer checkpoint and leave."""
        if self._draining_since is None:
            self._draining_since = now()
            self._trainer.drain()

    def _obey(self, action: Action | None) -> None:
        """Passes on what someone asked of the job; once the trainer has said its last word, that comes too late."""
        if action is None or action == self._requested or self._last_word is not None:
            return
        self._requested = action
        logger.info("job %s: %s was asked for", self._job_id, action)
        match action:
            case Action.CANCEL:
                self._trainer.kill()
            case Action.PAUSE:
                self._start_drain()
            case Action.STOP_NOW:
                self._trainer.send(StopRequest(when="now"))
            case Action.STOP_CYCLE_END:
                self._trainer.send(StopRequest(when="cycle_end"))
            case _:
                assert_never(action)

    def _ending(self, status: int) -> Ending:
        return Ending(
            status=status,
            last_word=self._last_word,
            requested=self._requested,
            is_draining=self._draining_since is not None,
            stalled=self._stalled,
            kernel_kills_before=self._kernel_kills,
        )
