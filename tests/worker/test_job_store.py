"""What a job goes through, told by the job store against a real server."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.job_stores import complete_store
from worker.ids import snapshot_id_of
from worker.job_specs import JobSpec
from worker.job_store import (
    Beat,
    Claim,
    Commit,
    DatasetGone,
    DatasetInUse,
    IdempotencyMismatch,
    InvalidState,
    JobMissing,
    JobStore,
    Refused,
    SubmitResult,
)
from worker.jobs import Action, JobRecord, JobStatus, Phase, key_sha256

NewSpec = Callable[[], JobSpec]
LEASE_MS = 30_000
MAX_CRASHES = 3


def submit(store: JobStore, spec: JobSpec, key: str | None = None, body: str = "sha") -> SubmitResult:
    return store.submit(spec, idempotency_key=key, body_sha256=body)


def run(store: JobStore, spec: JobSpec, owner: str = "worker-1") -> int:
    """Submits and claims a job and returns the epoch."""
    submit(store, spec)
    return claim(store, spec.id, owner)


def claim(store: JobStore, job_id: str, owner: str = "worker-1") -> int:
    granted = store.claim(job_id, owner, LEASE_MS, MAX_CRASHES)
    assert isinstance(granted, Claim), granted
    return granted.epoch


def record_of(store: JobStore, job_id: str) -> JobRecord:
    record = store.get(job_id)
    assert record is not None
    return record


def manifest_of(job_id: str, cycle: int) -> dict[str, Any]:
    return {
        "id": snapshot_id_of(job_id, cycle),
        "cycle": cycle,
        "step": 8 * (cycle + 1),
        "metrics": {"validation": {"loss": 0.1 + cycle / 3}},
        "ensemble": {"members": cycle + 1, "version": cycle + 1},
        "files": {},
    }


def history(store: JobStore, job_id: str) -> list[tuple[str, str | None, str | None]]:
    """Type, status and phase of each event; numbers are checked to have no gap."""
    events = store.events(job_id, limit=1000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [(event.type, event.data.get("status"), event.data.get("phase")) for event in events]


def test_a_submitted_job_waits_in_the_queue(job_store: JobStore, new_spec: NewSpec) -> None:
    first, second = new_spec(), new_spec()
    made = submit(job_store, first)
    assert (made.job_id, made.replayed, made.record) == (first.id, False, job_store.get(first.id))
    submit(job_store, second)
    record = record_of(job_store, second.id)
    assert (record.status, record.phase, record.position) == (JobStatus.QUEUED, Phase.WAITING_FOR_WORKER, 2)
    assert (record.name, record.dataset_id, record.metadata) == ("first run", first.dataset_id, {"team": "vision"})
    assert record.config == second.config.model_dump(mode="json")
    assert record.progress == second.initial_progress()
    assert (record.epoch, record.attempt, record.started_at, record.created_at) == (0, 0, None, second.created_at)


def test_a_job_runs_and_succeeds(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    record = record_of(job_store, spec.id)
    assert (record.status, record.phase, record.owner, record.attempt) == (JobStatus.RUNNING, Phase.PREPARING_DATA, "worker-1", 1)
    assert (record.position, record.epoch) == (None, epoch)

    assert job_store.report(spec.id, epoch, phase=Phase.TRAINING, training_started=True)
    assert job_store.beat(spec.id, epoch, LEASE_MS, {"step": 8}) == Beat(ours=True, requested_action=None)
    assert record_of(job_store, spec.id).progress == {"step": 8}
    best = {"cycle": 0, "metrics": {"validation": {"loss": 0.1}}}
    assert job_store.commit_snapshot(spec.id, epoch, 0, manifest_of(spec.id, 0), best) == Commit.COMMITTED
    assert job_store.finish(spec.id, epoch, JobStatus.SUCCEEDED)

    record = record_of(job_store, spec.id)
    assert (record.status, record.phase, record.snapshot_count, record.best) == (JobStatus.SUCCEEDED, None, 1, best)
    assert [(change["to"], change["reason"], change["actor"]) for change in record.transitions] == [
        ("queued", "submitted", "client"),
        ("running", "claimed", "worker-1"),
        ("succeeded", "completed", "worker-1"),
    ]
    times = [record.started_at, record.training_started_at, record.finished_at]
    assert None not in times
    assert times == sorted(times, key=str)
    assert history(job_store, spec.id) == [
        ("state", "queued", "waiting_for_worker"),
        ("state", "running", "preparing_data"),
        ("state", "running", "training"),
        ("snapshot", None, None),
        ("state", "succeeded", None),
        ("end", "succeeded", None),
    ]


def test_a_snapshots_event_carries_what_followers_need(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    manifest = manifest_of(spec.id, 0)
    job_store.commit_snapshot(spec.id, epoch, 0, manifest)
    [event] = job_store.events(spec.id, types=["snapshot"])
    assert event.data == {
        "snapshot_id": snapshot_id_of(spec.id, 0),
        "cycle": 0,
        "step": 8,
        "metrics": manifest["metrics"],
        "ensemble": manifest["ensemble"],
    }
    assert job_store.snapshot(snapshot_id_of(spec.id, 0)) == manifest


def test_of_eight_racing_claimants_one_wins(job_store: JobStore, new_spec: NewSpec) -> None:
    jobs = [new_spec() for _ in range(60)]
    for spec in jobs:
        submit(job_store, spec)
    barrier = threading.Barrier(8)

    def claim_all(owner: str) -> list[Claim | Refused]:
        barrier.wait()
        return [job_store.claim(spec.id, owner, LEASE_MS, MAX_CRASHES) for spec in jobs]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(claim_all, [f"worker-{i}" for i in range(8)]))
    for answers_to_job in zip(*answers, strict=True):
        assert sum(isinstance(answer, Claim) for answer in answers_to_job) == 1
        assert sum(answer == Refused("held") for answer in answers_to_job) == 7
    assert job_store.counts()[JobStatus.RUNNING] == 60


def test_racing_submissions_with_one_key_make_one_job(job_store: JobStore, new_spec: NewSpec) -> None:
    specs = [new_spec() for _ in range(8)]
    barrier = threading.Barrier(8)

    def send(spec: JobSpec) -> SubmitResult:
        barrier.wait()
        return submit(job_store, spec, key="k1")

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(send, specs))
    assert len({result.job_id for result in results}) == 1
    assert sorted(result.replayed for result in results) == [False] + 7 * [True]
    assert len(job_store.list().records) == 1


def test_a_key_with_another_body_is_refused(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    submit(job_store, spec, key="k1", body="a")
    with pytest.raises(IdempotencyMismatch, match=f"made {spec.id} from another body") as caught:
        submit(job_store, new_spec(), key="k1", body="b")
    assert caught.value.job_id == spec.id
    with pytest.raises(IdempotencyMismatch):
        job_store.find_submission("k1", "b")
    assert job_store.find_submission("k1", "a") == spec.id
    assert job_store.find_submission("k2", "a") is None
    assert len(job_store.list().records) == 1


def test_a_key_is_kept_for_a_day_and_freed_with_its_job(job_store: JobStore, new_spec: NewSpec, redis_client: Any) -> None:
    spec, other = new_spec(), new_spec()
    submit(job_store, spec, key="k1")
    assert 86_000 < redis_client.ttl(f"snapcycle:idempotency:default:{key_sha256('k1')}") <= 86_400
    job_store.request(spec.id, Action.CANCEL)
    job_store.delete(spec.id)
    made = submit(job_store, other, key="k1", body="other")
    assert (made.job_id, made.replayed) == (other.id, False)


def test_submitting_the_same_job_again_changes_nothing(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    submit(job_store, spec, key="k1")
    claim(job_store, spec.id)
    for made in (submit(job_store, spec, key="k1"), submit(job_store, spec)):
        assert (made.job_id, made.replayed, made.record) == (spec.id, False, job_store.get(spec.id))
    assert record_of(job_store, spec.id).status == JobStatus.RUNNING


def test_a_drained_job_waits_again_and_burns_no_crash(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epochs = []
    submit(job_store, spec)
    for _ in range(MAX_CRASHES + 2):
        epochs.append(claim(job_store, spec.id))
        assert job_store.release(spec.id, epochs[-1], "worker drained")
    assert epochs == sorted(set(epochs))
    record = record_of(job_store, spec.id)
    assert (record.status, record.crashes, record.attempt, record.position) == (JobStatus.QUEUED, 0, MAX_CRASHES + 2, 1)
    assert record.transitions[-1]["reason"] == "worker drained"


def test_three_crashes_without_progress_fail_a_job(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    submit(job_store, spec)
    outcomes = [job_store.fail_attempt(spec.id, claim(job_store, spec.id), "killed by signal 9", MAX_CRASHES) for _ in range(3)]
    assert outcomes == ["requeued", "requeued", "failed"]
    record = record_of(job_store, spec.id)
    assert (record.status, record.crashes) == (JobStatus.FAILED, 3)
    assert record.error == {
        "category": "worker_lost",
        "message": "The worker or its trainer died 3 times without progress; the last time: killed by signal 9.",
        "suggestion": "Look into the worker's log; if memory ran out, use a smaller batch_size or model.",
    }
    assert job_store.claim(spec.id, "worker-1", LEASE_MS, MAX_CRASHES) == Refused("done")


@pytest.mark.parametrize("progress", ["snapshot", "checkpoint"])
def test_progress_ends_the_count_of_crashes(job_store: JobStore, new_spec: NewSpec, progress: str) -> None:
    spec = new_spec()
    submit(job_store, spec)
    for attempt in range(7):
        epoch = claim(job_store, spec.id)
        if progress == "snapshot":
            job_store.commit_snapshot(spec.id, epoch, attempt, manifest_of(spec.id, attempt))
        else:
            job_store.report(spec.id, epoch, checkpoint_step=attempt)
        assert job_store.fail_attempt(spec.id, epoch, "died", MAX_CRASHES) == "requeued"
        assert record_of(job_store, spec.id).crashes == 1


def test_repeated_work_is_no_progress(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    submit(job_store, spec)
    outcomes = []
    for _ in range(4):
        epoch = claim(job_store, spec.id)
        job_store.commit_snapshot(spec.id, epoch, 0, manifest_of(spec.id, 0))
        job_store.report(spec.id, epoch, checkpoint_step=8)
        outcomes.append(job_store.fail_attempt(spec.id, epoch, "died", MAX_CRASHES))
        if outcomes[-1] == "failed":
            break
    assert outcomes == ["requeued", "requeued", "failed"]


def test_a_lease_ends_with_its_worker(job_store: JobStore, new_spec: NewSpec) -> None:
    lost, kept = new_spec(), new_spec()
    run(job_store, lost, "worker-1")
    run(job_store, kept, "worker-2")
    assert job_store.expired_leases() == []
    assert job_store.requeue_expired(lost.id, MAX_CRASHES) == "held"
    assert job_store.expire_owner("worker-1") == [lost.id]
    assert job_store.expired_leases() == [lost.id]
    assert job_store.requeue_expired(lost.id, MAX_CRASHES) == "requeued"
    assert job_store.expired_leases() == []
    record = record_of(job_store, lost.id)
    assert (record.status, record.crashes) == (JobStatus.QUEUED, 1)
    assert record_of(job_store, kept.id).status == JobStatus.RUNNING


def test_a_beat_revives_a_lease_that_nobody_took(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    job_store.expire_owner("worker-1")
    assert job_store.beat(spec.id, epoch, LEASE_MS).ours
    assert job_store.expired_leases() == []
    assert job_store.claim(spec.id, "worker-2", LEASE_MS, MAX_CRASHES) == Refused("held")


def test_a_claim_takes_over_a_job_whose_lease_has_ended(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    first = run(job_store, spec, "worker-1")
    job_store.expire_owner("worker-1")
    assert claim(job_store, spec.id, "worker-2") > first
    assert record_of(job_store, spec.id).crashes == 1
    for owner in ("worker-2", "worker-3"):
        job_store.expire_owner(owner)
        answer = job_store.claim(spec.id, "worker-3", LEASE_MS, MAX_CRASHES)
    assert answer == Refused("poison")
    assert record_of(job_store, spec.id).status == JobStatus.FAILED


def test_an_epoch_is_ahead_of_those_of_a_lost_database(job_store: JobStore, new_spec: NewSpec, redis_client: Any) -> None:
    spec = new_spec()
    before = run(job_store, spec)
    redis_client.flushall()
    complete_store(redis_client)
    assert run(job_store, spec) > before


def test_cancelling_a_waiting_job_ends_it_at_once(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    submit(job_store, spec)
    record = job_store.request(spec.id, Action.CANCEL)
    assert (record.status, record.position, record.requested_action) == (JobStatus.CANCELLED, None, None)
    assert job_store.request(spec.id, Action.CANCEL) == record
    assert job_store.claim(spec.id, "worker-1", LEASE_MS, MAX_CRASHES) == Refused("cancelled")
    assert [entry[0] for entry in history(job_store, spec.id)] == ["state", "state", "end"]


def test_a_running_jobs_worker_learns_what_was_asked(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    assert job_store.requested_action(spec.id) is None
    asked = []
    for action in (Action.STOP_CYCLE_END, Action.STOP_NOW, Action.STOP_CYCLE_END, Action.CANCEL, Action.STOP_NOW):
        record = job_store.request(spec.id, action)
        assert record.status == JobStatus.RUNNING
        asked.append(job_store.beat(spec.id, epoch, LEASE_MS).requested_action)
        assert asked[-1] == record.requested_action == job_store.requested_action(spec.id)
    # A weaker wish doesn't take back a stronger one.
    assert asked == [Action.STOP_CYCLE_END, Action.STOP_NOW, Action.STOP_NOW, Action.CANCEL, Action.CANCEL]
    assert record_of(job_store, spec.id).phase == Phase.STOPPING
    assert job_store.finish(spec.id, epoch, JobStatus.CANCELLED)
    assert record_of(job_store, spec.id).requested_action is None


def test_a_stop_that_took_effect_can_be_repeated(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    job_store.request(spec.id, Action.STOP_NOW)
    job_store.finish(spec.id, epoch, JobStatus.SUCCEEDED, stop_reason="stopped")
    assert job_store.request(spec.id, Action.STOP_NOW).stop_reason == "stopped"
    with pytest.raises(InvalidState):
        job_store.request(spec.id, Action.CANCEL)


@pytest.mark.parametrize("ending", ["release", "fail_attempt", "requeue_expired", "claim"])
def test_a_cancel_survives_the_loss_of_the_worker(job_store: JobStore, new_spec: NewSpec, ending: str) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    job_store.request(spec.id, Action.CANCEL)
    match ending:
        case "release":
            assert job_store.release(spec.id, epoch, "drained")
        case "fail_attempt":
            assert job_store.fail_attempt(spec.id, epoch, "died", MAX_CRASHES) == "cancelled"
        case "requeue_expired":
            job_store.expire_owner("worker-1")
            assert job_store.requeue_expired(spec.id, MAX_CRASHES) == "cancelled"
        case "claim":
            job_store.expire_owner("worker-1")
            assert job_store.claim(spec.id, "worker-2", LEASE_MS, MAX_CRASHES) == Refused("cancelled")
    assert record_of(job_store, spec.id).status == JobStatus.CANCELLED
    assert job_store.unannounced(0) == []


def test_a_stop_survives_a_drain(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    job_store.request(spec.id, Action.STOP_CYCLE_END)
    job_store.release(spec.id, epoch, "drained")
    assert job_store.request(spec.id, Action.STOP_CYCLE_END).status == JobStatus.QUEUED
    assert job_store.beat(spec.id, claim(job_store, spec.id), LEASE_MS).requested_action == Action.STOP_CYCLE_END


def test_what_a_state_does_not_allow_is_refused_with_what_it_does(job_store: JobStore, new_spec: NewSpec) -> None:
    queued, running, succeeded, cancelled = specs = [new_spec() for _ in range(4)]
    for spec in specs:
        submit(job_store, spec)
    claim(job_store, running.id)
    job_store.finish(succeeded.id, claim(job_store, succeeded.id), JobStatus.SUCCEEDED)
    job_store.request(cancelled.id, Action.CANCEL)
    refused: list[tuple[Callable[[], object], JobSpec, tuple[str, ...]]] = [
        (lambda: job_store.request(queued.id, Action.STOP_NOW), queued, ("cancel", "pause")),
        (lambda: job_store.delete(queued.id), queued, ("cancel", "pause")),
        (lambda: job_store.delete(running.id), running, ("cancel", "stop", "pause")),
        (lambda: job_store.request(succeeded.id, Action.CANCEL), succeeded, ("delete",)),
        (lambda: job_store.request(succeeded.id, Action.STOP_NOW), succeeded, ("delete",)),
        (lambda: job_store.request(cancelled.id, Action.STOP_CYCLE_END), cancelled, ("delete",)),
    ]
    before = [job_store.get(spec.id) for spec in specs]
    for attempt, spec, allowed in refused:
        with pytest.raises(InvalidState, match=spec.id) as caught:
            attempt()
        assert caught.value.allowed == allowed
    assert [job_store.get(spec.id) for spec in specs] == before


def test_unknown_jobs_are_missing(job_store: JobStore) -> None:
    assert job_store.get("job_x") is None
    assert job_store.claim("job_x", "worker-1", LEASE_MS, MAX_CRASHES) == Refused("missing")
    for attempt in (lambda: job_store.request("job_x", Action.CANCEL), lambda: job_store.delete("job_x")):
        with pytest.raises(JobMissing, match="there is no job job_x"):
            attempt()


def test_a_deleted_job_leaves_nothing_behind(job_store: JobStore, new_spec: NewSpec, redis_client: Any) -> None:
    spec = new_spec()
    epoch = run(job_store, spec)
    job_store.report(spec.id, epoch, metrics_rows=[[1, 0.1, 0, 0.1, 2.3]])
    job_store.commit_snapshot(spec.id, epoch, 0, manifest_of(spec.id, 0))
    job_store.finish(spec.id, epoch, JobStatus.SUCCEEDED)
    job_store.begin_delete(spec.id)
    assert job_store.deleting() == [spec.id]
    job_store.delete(spec.id)
    assert job_store.get(spec.id) is None
    assert redis_client.keys() == ["snapcycle:generation"]


def test_a_dataset_is_kept_while_jobs_use_it(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    submit(job_store, spec)
    job_store.request(spec.id, Action.CANCEL)
    with pytest.raises(DatasetInUse, match=f"is used by 1 job .{spec.id}.: delete those first") as caught:
        job_store.delete_dataset_guard(spec.dataset_id)
    assert caught.value.job_ids == [spec.id]
    job_store.delete(spec.id)
    job_store.delete_dataset_guard(spec.dataset_id)
    with pytest.raises(DatasetGone, match=f"dataset {spec.dataset_id} was deleted"):
        submit(job_store, new_spec())
    assert job_store.list().records == []
