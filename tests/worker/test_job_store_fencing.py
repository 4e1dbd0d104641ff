"""A worker that lost its job changes nothing any more, and a call whose answer was lost does no harm when it is repeated."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.worker.training_jobs import record_of
from worker.job_specs import JobSpec
from worker.job_store import Beat, Claim, Commit, JobStore
from worker.jobs import Action, JobStatus, Phase
from worker.restoration import StoredJob

NewSpec = Callable[[], JobSpec]
LEASE_MS = 30_000

CHANGES: dict[str, tuple[Callable[[JobStore, str, int], object], object]] = {
    "beat": (lambda store, job, epoch: store.beat(job, epoch, LEASE_MS, {"step": 9}), Beat(ours=False, requested_action=None)),
    "report": (lambda store, job, epoch: store.report(job, epoch, progress={}, event=("log", {}), phase=Phase.EVALUATING), False),
    "reset_metrics": (lambda store, job, epoch: store.reset_metrics(job, epoch, [[1, 0, 0, 0, 0]]), False),
    "commit_snapshot": (lambda store, job, epoch: store.commit_snapshot(job, epoch, 0, {"id": "snap"}, {"cycle": 0}), Commit.FENCED),
    "release": (lambda store, job, epoch: store.release(job, epoch, "drained"), False),
    "finish": (lambda store, job, epoch: store.finish(job, epoch, JobStatus.FAILED, error={"category": "internal"}), False),
    "fail_attempt": (lambda store, job, epoch: store.fail_attempt(job, epoch, "died", 3), "fenced"),
}


def everything(client: redis.Redis) -> dict[str | bytes, Any]:
    """The whole database, but for the number of refusals."""
    return {key: client.dump(key) for key in sorted(client.keys()) if key != b"snapcycle:counters"}


def claim(store: JobStore, job_id: str, owner: str) -> int:
    granted = store.claim(job_id, owner, LEASE_MS, 3)
    assert isinstance(granted, Claim), granted
    return granted.epoch


@pytest.fixture
def raw(valkey: Any) -> redis.Redis:
    """A client that doesn't decode, for comparing dumps."""
    return redis.Redis.from_url(valkey.url)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "situation", ["taken over", "requeued", "paused", "succeeded", "extended", "cancelled", "deleted", "rebuilt", "rebuilt and taken over"]
)
def test_an_old_epoch_changes_nothing(job_store: JobStore, new_spec: NewSpec, raw: redis.Redis, change: str, situation: str) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    old = claim(job_store, spec.id, "worker-1")
    job_store.expire_owner("worker-1")
    new = claim(job_store, spec.id, "worker-2")
    match situation:
        case "requeued":
            job_store.release(spec.id, new, "drained")
        case "succeeded":
            job_store.finish(spec.id, new, JobStatus.SUCCEEDED)
        case "paused":
            job_store.request(spec.id, Action.PAUSE)
            job_store.release(spec.id, new, "drained")
        case "extended":
            job_store.finish(spec.id, new, JobStatus.SUCCEEDED)
            ended = record_of(job_store, spec.id)
            job_store.extend(ended, 1, config={}, progress={}, idempotency_key=None, body_sha256="")
            assert claim(job_store, spec.id, "worker-3") > new
        case "rebuilt" | "rebuilt and taken over":
            raw.flushall()
            token = job_store.begin_rebuild()
            assert token is not None
            assert job_store.restore(token, StoredJob(spec, None, [], 0)) == "restored"
            assert job_store.end_rebuild(token)
            if situation == "rebuilt and taken over":
                assert claim(job_store, spec.id, "worker-1") > new  # although the database had forgotten that there was one
        case "cancelled":
            job_store.request(spec.id, Action.CANCEL)
            job_store.finish(spec.id, new, JobStatus.CANCELLED)
        case "deleted":
            job_store.finish(spec.id, new, JobStatus.SUCCEEDED)
            job_store.delete(spec.id)
    before = everything(raw)
    attempt, refusal = CHANGES[change]
    assert attempt(job_store, spec.id, old) == refusal
    assert everything(raw) == before


def test_events_of_several_workers_are_numbered_without_gaps(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    for attempt in range(4):
        epoch = claim(job_store, spec.id, f"worker-{attempt}")
        assert job_store.report(spec.id, epoch, event=("progress", {"step": attempt}))
        job_store.beat(spec.id, epoch, LEASE_MS)
        job_store.commit_snapshot(spec.id, epoch, attempt, {"id": "snap", "cycle": attempt})
        assert job_store.release(spec.id, epoch, "drained")
        assert not job_store.report(spec.id, epoch, event=("progress", {"step": -1}))
    job_store.request(spec.id, Action.CANCEL)
    events = job_store.events(spec.id, limit=100)
    assert [event.seq for event in events] == list(range(1, 1 + 4 * 4 + 3))
    assert [event.data["step"] for event in events if event.type == "progress"] == [0, 1, 2, 3]
    assert [event.type for event in events[-2:]] == ["state", "end"]


class LosingFirstAnswer:
    """A script whose first answer is lost after it has run, as when a connection breaks: the client sends it again."""

    def __init__(self, script: Any) -> None:
        self._script = script

    def __call__(self, *, keys: list[str], args: tuple[Any, ...]) -> Any:
        self._script(keys=keys, args=args)
        return self._script(keys=keys, args=args)


def repeat(store: JobStore, script: str) -> None:
    scripts = store._scripts._scripts  # the seam between the store and the server
    scripts[script] = LosingFirstAnswer(scripts[script])  # type: ignore[assignment]  # stands in for a Script


def test_a_repeated_submit_and_claim_are_granted_once(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    repeat(job_store, "submit")
    repeat(job_store, "claim")
    assert job_store.submit(spec, idempotency_key="k", body_sha256="a").replayed is False
    epoch = claim(job_store, spec.id, "worker-1")
    record = job_store.get(spec.id)
    assert record is not None
    assert (record.epoch, record.attempt, record.crashes) == (epoch, 1, 0)
    assert len(job_store.events(spec.id)) == 2


def test_a_repeated_report_adds_no_row_twice(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    epoch = claim(job_store, spec.id, "worker-1")
    repeat(job_store, "report")
    rows = [[step, step / 2, 0, 0.1, 1.5] for step in range(1, 4)]
    assert job_store.report(spec.id, epoch, metrics_rows=rows[:2])
    assert job_store.report(spec.id, epoch, metrics_rows=rows[2:])
    assert job_store.metrics(spec.id).rows == rows


def test_a_repeated_report_says_its_event_once(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    for owner in ("worker-1", "worker-2"):
        epoch = claim(job_store, spec.id, owner)
        for step in (1, 1, 2, 2):  # the second time because the answer was lost
            assert job_store.report(spec.id, epoch, event=("progress", {"step": step}))
        job_store.release(spec.id, epoch, "drained")
    assert [event.data["step"] for event in job_store.events(spec.id, types=["progress"])] == [1, 2, 1, 2]


def test_a_repeated_commit_is_known_as_such(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    epoch = claim(job_store, spec.id, "worker-1")
    repeat(job_store, "commit_snapshot")
    assert job_store.commit_snapshot(spec.id, epoch, 0, {"id": "snap", "cycle": 0}) == Commit.ALREADY
    assert len(job_store.snapshots(spec.id)) == 1
    assert len(job_store.events(spec.id, types=["snapshot"])) == 1


@pytest.mark.parametrize("ending", ["release", "finish", "fail_attempt"])
def test_a_repeated_ending_is_still_ours(job_store: JobStore, new_spec: NewSpec, ending: str) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    epoch = claim(job_store, spec.id, "worker-1")
    repeat(job_store, ending)
    match ending:
        case "release":
            assert job_store.release(spec.id, epoch, "drained")
        case "finish":
            assert job_store.finish(spec.id, epoch, JobStatus.SUCCEEDED)
        case "fail_attempt":
            assert job_store.fail_attempt(spec.id, epoch, "died", 3) == "requeued"
    record = job_store.get(spec.id)
    assert record is not None
    assert [change["to"] for change in record.transitions] == [
        "queued",
        "running",
        "succeeded" if ending == "finish" else "queued",
    ]
    assert record.crashes == (ending == "fail_attempt")
