"""Heals what crashes and lost messages leave behind. Every process may run it; the one with the leader's lease works.

All it does is atomic and repeatable, so two leaders at once do no harm.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from worker.amendments import file_amendments
from worker.artifacts import AlreadyExists, ArtifactError, ArtifactStore
from worker.deletion import delete_job
from worker.failpoints import failpoint
from worker.job_store import JobMissing, JobStore, StoreUnavailable
from worker.rebuild import rebuild, recheck, remove_half_deleted
from worker.records import result_key, write_document
from worker.results import result_of
from worker.settings import Settings
from worker.stored_results import has_result, move_earlier_result, move_lost_failure
from worker.studies import advance_studies

logger = logging.getLogger(__name__)

PASS_SECONDS = 5.0
LEADER_SECONDS = 15.0
REBUILD_LEADER_SECONDS = 60.0
"""The leader's lease while it reads jobs back, longer than any part of that during which it is not renewed."""

UNANNOUNCED_SECONDS = 10.0
"""Age at which a queued job's message must have been sent."""

SWEEP_SECONDS = 3600.0
DRAFT_SECONDS = 86_400.0
"""Age at which nobody writes an unfinished object any more."""

Publish = Callable[[str], object]


@dataclass(frozen=True)
class Pass:
    """What one pass did, as job and worker ids."""

    requeued: list[str]
    ended: list[str]
    republished: list[str]
    filed: list[str]
    woken: list[str]
    forgotten_workers: list[str]


def run_reconciler(store: JobStore, artifacts: ArtifactStore, publish: Publish, *, settings: Settings, stop: threading.Event) -> None:
    """Reconciles every five seconds until ``stop`` is set.

    Leases are trusted only when Redis has answered for two beats on end: while it was away, or this machine slept,
    nobody could renew one.
    """
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    grace_seconds = 2 * settings.beat_seconds
    leases_trusted_at = time.monotonic() + grace_seconds
    next_sweep = time.monotonic() + SWEEP_SECONDS
    last_pass = time.time()
    checked_life = ""

    def may_go_on() -> bool:
        return not stop.is_set() and store.acquire_leader(name, int(REBUILD_LEADER_SECONDS * 1000))

    while not stop.is_set():
        if time.time() - last_pass > 2 * LEADER_SECONDS:  # monotonic clocks don't see a machine sleep
            leases_trusted_at = time.monotonic() + grace_seconds
        last_pass = time.time()
        try:
            if store.acquire_leader(name, int(LEADER_SECONDS * 1000)):
                failpoint("reconciler.leading")
                rebuild(store, artifacts, may_go_on=may_go_on)
                if (life := store.server_life()) != checked_life:
                    is_checked = recheck(store, artifacts, may_go_on=may_go_on, wait=stop.wait) is not None
                    checked_life = life if is_checked else ""
                trust_leases = time.monotonic() >= leases_trusted_at
                reconcile_once(store, artifacts, publish, max_crashes=settings.max_crashes, trust_leases=trust_leases)
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + SWEEP_SECONDS
                    artifacts.remove_drafts(older_than_seconds=DRAFT_SECONDS)
                    remove_half_deleted(artifacts)
        except StoreUnavailable as error:
            logger.warning("could not reconcile: %s", error)
            leases_trusted_at = time.monotonic() + grace_seconds
        except Exception:  # a defect in one pass must not end the healing: the next one tries again
            logger.exception("a reconciliation failed")
        stop.wait(PASS_SECONDS)
    with suppress(StoreUnavailable):
        store.release_leader(name)


def reconcile_once(
    store: JobStore,
    artifacts: ArtifactStore,
    publish: Publish,
    *,
    max_crashes: int,
    trust_leases: bool = True,
    unannounced_seconds: float = UNANNOUNCED_SECONDS,
) -> Pass:
    """One pass: takes jobs from silent workers, repeats lost messages, stores results, advances studies, forgets dead workers.

    Args:
        store: The job store.
        artifacts: The artifact store.
        publish: Sends a job id to the workers.
        max_crashes: Crashes without progress after which a job fails.
        trust_leases: Whether a lease that has ended means that its worker is silent.
        unannounced_seconds: Age at which a queued job's message must have been sent.
    """
    requeued, ended = [], []
    for job_id in store.expired_leases() if trust_leases else []:
        outcome = store.requeue_expired(job_id, max_crashes)
        logger.warning("job %s: its worker was lost, it is %s", job_id, outcome)
        if outcome == "requeued":
            failpoint("reconciler.requeued")
            requeued.append(job_id)
            publish(job_id)
        elif outcome != "held":
            ended.append(job_id)
    _finish_deletions(store, artifacts)
    filed = _file_results(store, artifacts)
    _file_amendments(store, artifacts)
    woken = advance_studies(store, artifacts, publish)
    republished = store.unannounced(int(unannounced_seconds * 1000))
    for job_id in republished:
        logger.warning("job %s: its message was lost, it was sent again", job_id)
        publish(job_id)
    return Pass(requeued, ended, republished, filed, woken, store.forget_dead_workers())


def _finish_deletions(store: JobStore, artifacts: ArtifactStore) -> None:
    """Goes on where a process died, or the artifact store was away, in the middle of a deletion."""
    for job_id in store.deleting():
        try:
            with suppress(JobMissing):  # who began it has finished it
                delete_job(store, artifacts, job_id)
        except ArtifactError as error:
            logger.warning("job %s: it could not be deleted yet: %s", job_id, error)


def _file_amendments(store: JobStore, artifacts: ArtifactStore) -> None:
    """Stores what was changed about jobs where nobody has done so: a worker lost while it paused one, an API process that was killed."""
    for job_id in store.unamended():
        try:
            file_amendments(store, artifacts, job_id)
        except ArtifactError as error:
            logger.warning("job %s: that it was paused, resumed or extended could not be stored yet: %s", job_id, error)


def _file_results(store: JobStore, artifacts: ArtifactStore) -> list[str]:
    """Stores the result of jobs that ended without a supervisor to do it; returns their ids.

    The artifact store is the truth: without this, a job that was cancelled while it waited would be queued there for ever.
    """
    filed = []
    for job_id in store.unfiled():
        try:
            record = store.get(job_id)
            if record is not None and record.status.is_terminal:
                move_lost_failure(artifacts, job_id, epoch=record.epoch)
            if record is not None and record.status.is_terminal and not has_result(artifacts, job_id, extensions=record.extensions):
                move_earlier_result(artifacts, job_id, extensions=record.extensions)
                with suppress(AlreadyExists):  # its supervisor was faster
                    write_document(artifacts, result_key(job_id), result_of(store, record))
                    failpoint("reconciler.result_stored")
                    filed.append(job_id)
                if store.get(job_id) is None or job_id in store.deleting():  # its deletion may not have seen the result
                    artifacts.delete(result_key(job_id))
        except ArtifactError as error:
            logger.warning("job %s: its result could not be stored yet: %s", job_id, error)
        else:
            store.mark_filed(job_id)
    return filed
