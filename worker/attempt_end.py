"""How an attempt ends once its trainer has: in a result, back in the queue, or counted as a crash. This module doesn't import torch."""

import logging
import signal
from dataclasses import dataclass
from typing import assert_never

from worker.attempt import Attempt
from worker.bench import Bench, Outcome
from worker.jobs import Action, JobStatus
from worker.protocol import EXIT_DRAINED, Failed, Finished

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """The end of a trainer.

    Attributes:
        status: Its exit status; negative: the signal that killed it.
        last_word: What it said of its end, or what was said for it.
        requested: What someone had asked of the job, and was passed on.
        is_draining: Whether it was asked to leave.
        stalled: Why the watchdog killed it.
        kernel_kills_before: How many processes the kernel had killed for want of memory when the attempt began.
    """

    status: int
    last_word: Finished | Failed | None
    requested: Action | None
    is_draining: bool
    stalled: str | None
    kernel_kills_before: int


def conclude(ending: Ending, attempt: Attempt, *, bench: Bench, job_id: str) -> Outcome:
    """Tells the stores of the attempt's end and returns what became of the job.

    Raises:
        StoreUnavailable, ArtifactUnavailable: A store is away; call it again.
        FencedError: The job is no longer ours.
    """
    if ending.requested == Action.CANCEL:
        attempt.finish(JobStatus.CANCELLED)
        return Outcome.FINISHED
    match ending.last_word:
        case Finished(stop_reason="stopped") if attempt.has_nothing:
            attempt.finish(JobStatus.CANCELLED, stop_reason="stopped")
            return Outcome.FINISHED
        case Finished(stop_reason=stop_reason):
            if attempt.finish(JobStatus.SUCCEEDED, stop_reason=stop_reason):
                return Outcome.FINISHED
            bench.publish(job_id)  # it has got more cycles meanwhile
            return Outcome.RELEASED
        case Failed() as failed:
            attempt.finish(JobStatus.FAILED, failed=failed)
            return Outcome.FINISHED
        case None if ending.status == EXIT_DRAINED or ending.is_draining:
            attempt.release()
            bench.publish(job_id)
            return Outcome.RELEASED
        case None:
            return _crash(ending, attempt, bench=bench, job_id=job_id)


def _crash(ending: Ending, attempt: Attempt, *, bench: Bench, job_id: str) -> Outcome:
    """Counts the trainer's crash; the job begins again where it can."""
    status = ending.status
    reason = f"the trainer was killed by signal {-status}" if status < 0 else f"the trainer exited with status {status}"
    reason = ending.stalled or reason
    if status == -signal.SIGKILL and bench.kernel_kills() > ending.kernel_kills_before:
        reason = "the kernel killed the trainer, since the machine was out of memory"
        record = bench.store.get(job_id)
        if record is not None and record.crashes > 0:  # once may have been another program's fault
            suggestion = "lower batch_size, take a smaller network, or give the worker more memory"
            attempt.finish(JobStatus.FAILED, failed=Failed(category="out_of_memory", message=reason, suggestion=suggestion))
            return Outcome.FINISHED
    logger.warning("job %s: %s", job_id, reason)
    lost = attempt.lose(reason, max_crashes=bench.max_crashes)
    match lost:
        case "requeued":
            bench.publish(job_id)
            return Outcome.REQUEUED
        case "failed" | "cancelled" | "paused":  # the reconciler stores the result, or the amendment
            return Outcome.FINISHED
        case "fenced" | "held":
            return Outcome.FENCED
        case _:
            assert_never(lost)
