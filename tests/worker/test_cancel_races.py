"""Cancelling in every state, by two users at once, while the worker or a third user changes the job (F11).

CANCELS says how many races are run; the seed of a failing one is in its message.
"""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

from tests.worker.job_model import LEGAL
from worker.job_specs import JobSpec
from worker.job_store import Claim, ExtendedMeanwhile, InvalidState, JobStore, Refused
from worker.jobs import TERMINAL, Action, JobRecord, JobStatus

CANCELS = int(os.environ.get("CANCELS", "300"))
STATES = ("queued", "running", "pausing", "stopping", "cancelling", "paused", "resumed", "succeeded", "failed", "cancelled")
LEASE_MS, MAX_CRASHES = 30_000, 3


def bring_to(store: JobStore, spec: JobSpec, state: str) -> int:
    """Submits a job and takes it to a state; returns the epoch of the last claim, 0 where there was none."""
    store.submit(spec, idempotency_key=None, body_sha256="")
    if state in ("queued", "paused", "resumed"):
        if state != "queued":
            store.request(spec.id, Action.PAUSE)
        if state == "resumed":
            store.resume(spec.id)
        return 0
    claim = store.claim(spec.id, "worker-1", LEASE_MS, MAX_CRASHES)
    assert isinstance(claim, Claim)
    wishes = {"pausing": Action.PAUSE, "stopping": Action.STOP_NOW, "cancelling": Action.CANCEL}
    if state in wishes:
        store.request(spec.id, wishes[state])
    elif state != "running":
        store.finish(spec.id, claim.epoch, JobStatus(state), extensions=0)  # type: ignore[arg-type]  # one of the terminal ones
    return claim.epoch


def moves(store: JobStore, job_id: str, epoch: int) -> dict[str, Callable[[], object]]:
    """What else can happen to a job at that moment."""
    return {
        "finishes": lambda: store.finish(job_id, epoch, JobStatus.SUCCEEDED, extensions=0),
        "fails": lambda: store.finish(job_id, epoch, JobStatus.FAILED, extensions=0),
        "is given back": lambda: store.release(job_id, epoch, "drained"),
        "crashes": lambda: store.fail_attempt(job_id, epoch, "died", MAX_CRASHES),
        "is claimed": lambda: store.claim(job_id, "worker-2", LEASE_MS, MAX_CRASHES),
        "is paused": lambda: store.request(job_id, Action.PAUSE),
        "is resumed": lambda: store.resume(job_id),
    }


def record_of(store: JobStore, job_id: str) -> JobRecord:
    record = store.get(job_id)
    assert record is not None
    return record


def test_a_cancel_ends_in_a_legal_state_whatever_happens_at_the_same_moment(job_store: JobStore, new_spec: Callable[[], JobSpec]) -> None:
    with ThreadPoolExecutor(3) as threads:
        for seed in range(CANCELS):
            random_ = random.Random(seed)
            spec, state = new_spec(), random_.choice(STATES)
            epoch = bring_to(job_store, spec, state)
            name, move = random_.choice(list(moves(job_store, spec.id, epoch).items()))
            told = f"seed {seed}: a {state} job {name} while it is cancelled twice"

            def cancel(job_id: str = spec.id) -> bool:
                try:
                    job_store.request(job_id, Action.CANCEL)
                except InvalidState:
                    return False
                return True

            def other(move: Callable[[], object] = move) -> object:
                with suppress(InvalidState, ExtendedMeanwhile):
                    return move()
                return None

            tasks: list[Callable[[], object]] = [cancel, cancel, other]
            random_.shuffle(tasks)
            answers = [(task is other, future.result(10)) for task, future in [(task, threads.submit(task)) for task in tasks]]
            accepted = any(answer for is_other, answer in answers if not is_other)
            moved = next(answer for is_other, answer in answers if is_other)
            record = record_of(job_store, spec.id)
            if record.status == JobStatus.RUNNING:  # its worker hears of it with the next beat, and obeys
                assert accepted, told
                holder = moved.epoch if isinstance(moved, Claim) else epoch
                assert job_store.beat(spec.id, holder, LEASE_MS).requested_action == Action.CANCEL, told
                assert job_store.finish(spec.id, holder, JobStatus.CANCELLED, extensions=0), told
                record = record_of(job_store, spec.id)
            check(job_store, record, told, accepted=accepted)


def check(store: JobStore, record: JobRecord, told: str, *, accepted: bool) -> None:
    """The job has ended, once, by legal steps; a cancel that came too late was refused; nobody can take the job up."""
    assert record.status in TERMINAL, told
    assert accepted or record.status != JobStatus.CANCELLED, told
    path = [JobStatus(change["to"]) for change in record.transitions]
    assert path[0] == JobStatus.QUEUED, told
    assert all(after in LEGAL[before] for before, after in pairwise(path)), f"{told}: {path}"
    events = [event.type for event in store.events(record.id, limit=1000)]
    assert events.count("end") == 1, told
    assert events[-1] == "end", told
    assert isinstance(store.claim(record.id, "worker-3", LEASE_MS, MAX_CRASHES), Refused), told
    assert record_of(store, record.id) == record, told
