"""Jobs that rest: their device is free, a lost database changes nothing, and they go on bit for bit where they were."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.worker.training_jobs import record_of, snapshot_sha256s, tiny_config, tiny_range_test, wait_until
from tests.worker.workshops import Workshop
from worker.amendments import AmendmentKind, file_amendments, list_amendments
from worker.job_specs import JobSpec
from worker.job_store import InvalidState, JobStore
from worker.jobs import Action, JobStatus, Phase
from worker.rebuild import rebuild
from worker.reconciler import reconcile_once
from worker.supervisor import Outcome

LONG = tiny_config(cycles=3, epochs_per_cycle=20)


def wipe(workshop: Workshop) -> None:
    """Loses the database, and reads it back."""
    workshop.bench.store._redis.flushall()
    assert rebuild(workshop.bench.store, workshop.bench.artifacts) is not None


def pause_in_the_middle(workshop: Workshop, job_id: str) -> "Future[Outcome]":
    run = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 1)
    workshop.bench.store.request(job_id, Action.PAUSE)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("is_wiped", [False, True], ids=["kept", "wiped"])
def test_a_paused_job_goes_on_with_the_same_bits(workshop: Workshop, is_wiped: bool) -> None:
    store = workshop.bench.store
    undisturbed = workshop.submit(LONG)
    assert workshop.supervise(undisturbed) == Outcome.FINISHED

    job_id = workshop.submit(LONG)
    assert pause_in_the_middle(workshop, job_id).result(timeout=30) == Outcome.RELEASED
    assert workshop.record(job_id).status == JobStatus.PAUSED
    assert store.unamended() == []
    if is_wiped:
        wipe(workshop)
    record = workshop.record(job_id)
    assert (record.status, record.phase, record.crashes, record.requested_action) == (JobStatus.PAUSED, Phase.PAUSED, 0, None)
    assert (record.position, store.next_job()) == (None, None)
    assert workshop.supervise(job_id) == Outcome.REFUSED
    assert store.request(job_id, Action.PAUSE).status == JobStatus.PAUSED

    assert store.resume(job_id).status == JobStatus.QUEUED
    assert store.resume(job_id).position == 1
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert snapshot_sha256s(store, job_id) == snapshot_sha256s(store, undisturbed)
    assert store.metrics(job_id).rows == store.metrics(undisturbed).rows
    file_amendments(store, workshop.bench.artifacts, job_id)
    assert [each.kind for each in list_amendments(store, job_id)] == [AmendmentKind.PAUSED, AmendmentKind.RESUMED]
    with pytest.raises(InvalidState, match="resume is not possible"):
        store.resume(job_id)


def test_a_range_test_can_be_paused_too(workshop: Workshop) -> None:
    job_id = workshop.submit(tiny_range_test(num_rates=10_000))
    run = workshop.start(job_id)
    wait_until(lambda: workshop.record(job_id).phase == Phase.MEASURING)
    workshop.bench.store.request(job_id, Action.PAUSE)
    assert run.result(timeout=20) == Outcome.RELEASED
    assert workshop.record(job_id).status == JobStatus.PAUSED


def test_a_job_that_ends_before_it_can_pause_has_ended(workshop: Workshop) -> None:
    job_id = workshop.submit(tiny_config(cycles=1))
    assert workshop.supervise(job_id) == Outcome.FINISHED
    with pytest.raises(InvalidState) as caught:
        workshop.bench.store.request(job_id, Action.PAUSE)
    assert caught.value.allowed == ("delete", "extend")


def test_a_paused_job_that_is_stopped_ends_with_what_there_is(workshop: Workshop) -> None:
    job_id = workshop.submit(LONG)
    assert pause_in_the_middle(workshop, job_id).result(timeout=30) == Outcome.RELEASED
    count = workshop.record(job_id).snapshot_count
    assert workshop.bench.store.request(job_id, Action.STOP_NOW).status == JobStatus.QUEUED
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.stop_reason, record.snapshot_count) == (JobStatus.SUCCEEDED, "stopped", count)


def test_a_waiting_job_pauses_at_once_and_joins_the_queue_behind_the_others(job_store: JobStore, new_spec: Callable[[], JobSpec]) -> None:
    first, second = (submitted(job_store, new_spec()) for _ in range(2))
    paused = job_store.request(first, Action.PAUSE)
    assert (paused.status, paused.position, record_of(job_store, second).position) == (JobStatus.PAUSED, None, 1)
    assert [change["to"] for change in paused.transitions] == ["queued", "paused"]
    assert (job_store.resume(first).position, record_of(job_store, second).position) == (2, 1)
    assert job_store.request(first, Action.PAUSE).status == JobStatus.PAUSED
    assert job_store.request(first, Action.CANCEL).status == JobStatus.CANCELLED


def test_a_worker_lost_while_it_paused_a_job_leaves_it_paused(
    job_store: JobStore, artifacts: Any, new_spec: Callable[[], JobSpec], tmp_path: Path
) -> None:
    job_id = submitted(job_store, new_spec())
    job_store.claim(job_id, "worker-1", 30_000, 3)
    assert job_store.request(job_id, Action.PAUSE).phase == Phase.STOPPING
    job_store.expire_owner("worker-1")
    reconcile_once(job_store, artifacts, lambda _: None, max_crashes=3)
    record = record_of(job_store, job_id)
    assert (record.status, record.crashes, job_store.unamended()) == (JobStatus.PAUSED, 1, [])
    assert artifacts.list_names(f"jobs/{job_id}/amendments") == ["1.json"]


def submitted(store: JobStore, spec: JobSpec) -> str:
    return store.submit(spec, idempotency_key=None, body_sha256="").job_id
