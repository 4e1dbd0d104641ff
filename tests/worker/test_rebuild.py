"""Redis loses everything; the jobs come back from the artifact store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.job_stores import complete_store
from tests.worker.training_jobs import record_of
from worker.artifacts import ArtifactStore, ArtifactUnavailable
from worker.deletion import delete_job
from worker.fleet import QUEUE
from worker.ids import new_id, snapshot_id_of
from worker.job_specs import JobSpec
from worker.job_store import Claim, Commit, DatasetInUse, JobMissing, StoreUnavailable
from worker.jobs import Action, JobRecord, JobStatus, TerminalStatus, key_sha256, now_rfc3339
from worker.rebuild import rebuild, recheck, remove_half_deleted
from worker.reconciler import reconcile_once
from worker.records import (
    MANIFEST,
    attempt_key,
    checkpoint_prefix,
    job_prefix,
    learning_rate_key,
    result_key,
    snapshot_prefix,
    spec_key,
    write_document,
)
from worker.results import best_snapshot, result_of
from worker.stored_specs import stored_spec

NewSpec = Callable[[], JobSpec]
Json = dict[str, Any]

ROWS = [[1, 0.1, 0, 0.1, 2.5], [40, 20.0, 4, 0.0, 0.123456789012345678]]


class Place:
    """Both stores, and jobs that are carried to where a test wants them."""

    def __init__(self, client: redis.Redis, artifacts: ArtifactStore, new_spec: NewSpec) -> None:
        self.client = client
        self.store = complete_store(client)
        self.artifacts = artifacts
        self.new_spec = new_spec
        self.epochs: dict[str, int] = {}

    def queued(self, key: str | None = None) -> str:
        made = self.new_spec()
        spec = made.model_copy(update={"idempotency_key_sha256": key_sha256(key) if key else None, "body_sha256": "body"})
        write_document(self.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
        return self.store.submit(spec, idempotency_key=key, body_sha256="body").job_id

    def running(self, *, cycles: int = 2) -> str:
        """A job with snapshots, and a checkpoint at the end of the last cycle."""
        job_id = self.queued()
        claim = self.store.claim(job_id, "worker-1", 30_000, 3)
        assert isinstance(claim, Claim)
        self.epochs[job_id] = claim.epoch
        for cycle in range(cycles):
            self.snapshot(job_id, cycle)
        folder = checkpoint_prefix(job_id, 8 * cycles, claim.epoch)
        write_document(self.artifacts, f"{folder}/{MANIFEST}", {"step": 8 * cycles})
        return job_id

    def snapshot(self, job_id: str, cycle: int) -> Commit:
        manifest = {
            "id": snapshot_id_of(job_id, cycle),
            "cycle": cycle,
            "step": 8 * (cycle + 1),
            "metrics": {"validation": {"loss": 1 / 3 + abs(cycle - 1)}},
            "ensemble": {"members": cycle + 1},
        }
        write_document(self.artifacts, f"{snapshot_prefix(job_id, cycle)}/{MANIFEST}", manifest)
        best = best_snapshot([*self.store.snapshots(job_id), manifest])
        return self.store.commit_snapshot(job_id, self.epochs[job_id], cycle, manifest, best)

    def ended(self, status: TerminalStatus, error: Json | None = None, stop_reason: str | None = None) -> str:
        job_id = self.running(cycles=3)
        epoch = self.epochs[job_id]
        assert self.store.report(job_id, epoch, metrics_rows=ROWS, resolved_config={"precision": "fp32"})
        assert self.store.finish(job_id, epoch, status, error=error, stop_reason=stop_reason)
        write_document(self.artifacts, result_key(job_id), result_of(self.store, record_of(self.store, job_id)))
        return job_id

    def wipe(self) -> None:
        self.client.flushall()

    def rebuild(self) -> int | None:
        return rebuild(self.store, self.artifacts)


@pytest.fixture
def place(redis_client: redis.Redis, artifacts: ArtifactStore, new_spec: NewSpec) -> Place:
    return Place(redis_client, artifacts, new_spec)


@pytest.fixture
def jobs(place: Place) -> dict[str, str]:
    """One job of each state."""
    error = {"category": "diverged", "message": "the loss is inf", "suggestion": "lower max_lr"}
    waiting = place.queued()
    return {
        "queued": waiting,
        "running": place.running(),
        "succeeded": place.ended(JobStatus.SUCCEEDED),
        "stopped": place.ended(JobStatus.SUCCEEDED, stop_reason="stopped"),
        "failed": place.ended(JobStatus.FAILED, error=error),
        "cancelled": place.ended(JobStatus.CANCELLED),
    }


def lasting(record: JobRecord) -> JobRecord:
    """A record without what belongs to the attempts of before, which nobody knows any more."""
    return replace(
        record, epoch=0, attempt=0, owner=None, started_at=None, training_started_at=None, transitions=[], progress={}, crashes=0
    )


def everything(client: redis.Redis) -> dict[str, bytes | None]:
    return {key: client.dump(key) for key in sorted(client.keys())}  # type: ignore[misc]  # redis-py mixes sync and async


def test_jobs_that_had_ended_are_as_they_were(place: Place, jobs: dict[str, str]) -> None:
    ended = [jobs[name] for name in ("succeeded", "stopped", "failed", "cancelled")]
    before = {job_id: record_of(place.store, job_id) for job_id in ended}
    snapshots = {job_id: place.store.snapshots(job_id) for job_id in ended}
    place.wipe()
    assert place.rebuild() == 6
    for job_id in ended:
        after = record_of(place.store, job_id)
        assert lasting(after) == lasting(before[job_id])
        assert (after.progress["step"], after.progress["fraction"], after.progress["cycle"]) == (40, 1.0, 3)
        assert place.store.snapshots(job_id) == snapshots[job_id]
        assert place.store.metrics(job_id).rows == ROWS
    assert place.store.unfiled() == []


def test_jobs_that_had_not_ended_wait_at_their_old_places(place: Place, jobs: dict[str, str]) -> None:
    later = place.queued()
    place.wipe()
    place.rebuild()
    waiting = [jobs["queued"], jobs["running"], later]
    assert [record_of(place.store, job_id).position for job_id in waiting] == [1, 2, 3]
    record = record_of(place.store, jobs["running"])
    assert (record.status, record.snapshot_count, record.crashes) == (JobStatus.QUEUED, 2, 0)
    assert record.best == {"cycle": 1, "snapshot_id": snapshot_id_of(record.id, 1), "metrics": {"validation": {"loss": 1 / 3}}}
    assert {name: record.progress[name] for name in ("step", "epoch", "fraction", "cycle")} == {
        "step": 16, "epoch": 8.0, "fraction": 0.4, "cycle": 2
    }  # fmt: skip
    sent: list[str] = []

    def publish(job_id: str) -> None:
        sent.append(job_id)
        place.client.lpush(f"snapcycle:{QUEUE}", job_id)

    for _ in range(2):
        reconcile_once(place.store, place.artifacts, publish, max_crashes=3, unannounced_seconds=0)
    assert sent == waiting


def test_attempts_times_and_transitions_come_back(place: Place, jobs: dict[str, str]) -> None:
    ended, running = jobs["succeeded"], jobs["running"]
    before = {job_id: record_of(place.store, job_id) for job_id in (ended, running)}
    claim = {
        "epoch": place.epochs[running],
        "attempt": 1,
        "owner": "worker-1",
        "at": now_rfc3339(),
        "started_at": before[running].started_at,
    }
    write_document(place.artifacts, attempt_key(running, place.epochs[running]), claim)
    write_document(place.artifacts, learning_rate_key(running), {"max_lr": 0.25, "epochs": 1.0, "result": {}})
    folder = checkpoint_prefix(running, 24, place.epochs[running] + 5)
    write_document(place.artifacts, f"{folder}/{MANIFEST}", {"step": 24, "seconds_run": 12.5})
    place.wipe()
    place.rebuild()
    for job_id in (ended, running):
        after = record_of(place.store, job_id)
        assert (after.attempt, after.started_at) == (1, before[job_id].started_at)
        assert [each["to"] for each in after.transitions[:3]] == ["queued", "running", "queued"]
    assert record_of(place.store, ended).transitions[:2] == before[ended].transitions[:2]
    assert place.store.seconds_run(running) == 12.5
    assert record_of(place.store, running).config["schedule"]["max_lr"] == 0.25
    assert [event.data["max_lr"] for event in place.store.events(running) if event.type == "learning_rate"] == [0.25]
    again = place.store.claim(running, "worker-2", 30_000, 3)
    assert isinstance(again, Claim)
    assert again.epoch > place.epochs[running] + 5
    assert record_of(place.store, running).attempt == 2


def test_a_lost_manifest_comes_back_from_the_result(place: Place, jobs: dict[str, str], tmp_path: Path) -> None:
    job_id = jobs["succeeded"]
    snapshots = place.store.snapshots(job_id)
    path = tmp_path / "artifacts" / snapshot_prefix(job_id, 1) / MANIFEST
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    place.wipe()
    place.rebuild()
    assert place.store.snapshots(job_id) == snapshots
    assert path.read_bytes() == content


def test_a_job_whose_result_is_damaged_has_failed_and_is_not_run_again(place: Place, jobs: dict[str, str], tmp_path: Path) -> None:
    job_id = jobs["cancelled"]
    (tmp_path / "artifacts" / result_key(job_id)).write_bytes(b"{}")
    place.wipe()
    place.rebuild()
    record = record_of(place.store, job_id)
    assert (record.status, record.snapshot_count) == (JobStatus.FAILED, 3)
    assert record.error is not None
    assert record.error["category"] == "data"


def test_a_failure_that_an_attempt_stored_after_it_had_lost_the_job_ends_nothing(place: Place, jobs: dict[str, str]) -> None:
    running = jobs["running"]
    epoch = place.epochs[running]
    claim = {"epoch": epoch, "attempt": 1, "owner": "worker-1", "at": now_rfc3339(), "started_at": now_rfc3339()}
    write_document(place.artifacts, attempt_key(running, epoch), claim)
    record: dict[str, Any] = {"attempt": 1, "epoch": epoch - 1, "started_at": None, "training_started_at": None, "transitions": []}
    failure: dict[str, Any] = {"status": "failed", "error": None, "stop_reason": None, "manifests": [], "record": record}
    write_document(place.artifacts, result_key(running), failure)
    place.wipe()
    place.rebuild()
    assert record_of(place.store, running).status == JobStatus.QUEUED


def test_lists_counts_datasets_and_keys_come_back(place: Place, jobs: dict[str, str]) -> None:
    keyed = place.queued(key="k1")
    before = [record.id for record in place.store.list(limit=100).records]
    place.wipe()
    place.rebuild()
    assert [record.id for record in place.store.list(limit=100).records] == before
    assert [record.id for record in place.store.list(status=JobStatus.FAILED).records] == [jobs["failed"]]
    assert place.store.counts()[JobStatus.QUEUED] == 3
    with pytest.raises(DatasetInUse) as used:
        place.store.delete_dataset_guard(record_of(place.store, keyed).dataset_id)
    assert sorted(used.value.job_ids) == sorted(before)
    assert place.store.find_submission("k1", "body") == keyed
    again = place.store.submit(place.new_spec(), idempotency_key="k1", body_sha256="body")
    assert (again.job_id, again.replayed, again.record) == (keyed, True, place.store.get(keyed))
    assert 86_000 < int(place.client.ttl(f"snapcycle:idempotency:default:{key_sha256('k1')}")) <= 86_400


def test_of_several_tries_of_one_submission_the_last_is_the_job_and_the_others_are_removed(place: Place) -> None:
    specs = [place.new_spec().model_copy(update={"idempotency_key_sha256": key_sha256("k1"), "body_sha256": "body"}) for _ in range(3)]
    for spec in specs:
        write_document(place.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    other = place.new_spec().model_copy(update={"idempotency_key_sha256": key_sha256("k1"), "tenant": "other"})
    write_document(place.artifacts, spec_key(other.id), other.model_dump(mode="json"))
    place.wipe()
    assert place.rebuild() == 2
    last = max(spec.id for spec in specs)
    assert place.store.find_submission("k1", "body") == last
    assert sorted(record.id for record in place.store.list().records) == sorted([last, other.id])
    assert sorted(place.artifacts.list_names("jobs")) == sorted([last, other.id])


def test_a_job_that_has_run_is_no_abandoned_try_whoever_has_its_key(place: Place, jobs: dict[str, str]) -> None:
    ran = stored_spec(place.artifacts, jobs["succeeded"])
    later = place.new_spec().model_copy(update={"idempotency_key_sha256": ran.idempotency_key_sha256})
    write_document(place.artifacts, spec_key(later.id), later.model_dump(mode="json"))
    place.wipe()
    place.rebuild()
    assert place.store.get(jobs["succeeded"]) is not None
    assert place.store.get(later.id) is not None


def at_once(_: float) -> None:
    """Waits for nothing."""


class Recorded(ArtifactStore):
    """Remembers what was read."""

    keys: list[str]

    def read(self, key: str, sha256: str | None = None) -> bytes:
        self.keys.append(key)
        return super().read(key, sha256)


def test_jobs_that_a_server_lost_with_the_end_of_its_log_are_read_back_and_no_others(
    place: Place, jobs: dict[str, str], tmp_path: Path
) -> None:
    assert recheck(place.store, place.artifacts, wait=at_once) == []
    gone = jobs["succeeded"]
    keys = [*place.client.scan_iter(f"snapcycle:job:{gone}*")]
    place.client.delete(*keys)
    recorded = Recorded.open(tmp_path / "artifacts")
    recorded.keys = []
    assert recheck(place.store, recorded, wait=at_once) == [gone]
    assert {key.split("/")[1] for key in recorded.keys} == {gone}
    assert recheck(place.store, place.artifacts, wait=at_once) == []
    assert record_of(place.store, gone).status == "succeeded"


def test_meanwhile_nothing_is_said_to_be_missing_and_what_is_there_is_served(place: Place, jobs: dict[str, str]) -> None:
    place.client.delete(*place.client.scan_iter(f"snapcycle:job:{jobs['failed']}*"))

    def leave_it() -> bool:
        with pytest.raises(StoreUnavailable):
            place.store.get(jobs["failed"])
        assert record_of(place.store, jobs["queued"]).status == "queued"
        return False

    assert recheck(place.store, place.artifacts, may_go_on=leave_it, wait=at_once) is None
    assert place.rebuild() == 1
    assert record_of(place.store, jobs["failed"]).status == "failed"


def test_a_submission_that_is_under_way_puts_nothing_in_doubt(place: Place, jobs: dict[str, str]) -> None:
    spec = place.new_spec()
    write_document(place.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    before = place.client.get("snapcycle:generation")
    waits: list[float] = []

    def submit(seconds: float) -> None:
        waits.append(seconds)
        place.store.submit(spec, idempotency_key=None, body_sha256="")

    assert recheck(place.store, place.artifacts, wait=submit) == []
    assert waits == [1.0]
    assert place.client.get("snapcycle:generation") == before
    assert len(record_of(place.store, spec.id).transitions) == 1


def test_a_submission_that_died_before_its_record_becomes_a_job_unless_it_was_repeated(place: Place) -> None:
    def died(key: str) -> str:
        spec = place.new_spec().model_copy(update={"idempotency_key_sha256": key_sha256(key), "body_sha256": "body"})
        write_document(place.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
        return spec.id

    unrepeated, repeated = died("k1"), died("k2")
    made = place.queued(key="k2")
    second_thought = died("k2")
    assert recheck(place.store, place.artifacts, wait=at_once) == sorted([unrepeated, repeated, second_thought])
    assert sorted(place.artifacts.list_names("jobs")) == sorted([unrepeated, made])
    assert sorted(record.id for record in place.store.list().records) == sorted([unrepeated, made])
    assert place.store.find_submission("k1", "body") == unrepeated
    assert place.store.find_submission("k2", "body") == made
    reasons = [transition["reason"] for transition in record_of(place.store, unrepeated).transitions]
    assert reasons == ["submitted", "restored from the artifact store"]


def test_a_wipe_while_missing_jobs_are_read_back_is_not_declared_complete(place: Place, jobs: dict[str, str]) -> None:
    place.client.delete(*place.client.scan_iter(f"snapcycle:job:{jobs['failed']}*"))

    def wipe() -> bool:
        place.wipe()
        return True

    assert recheck(place.store, place.artifacts, may_go_on=wipe, wait=at_once) is None
    assert place.rebuild() == 6


def test_a_key_that_is_a_day_old_is_forgotten(place: Place) -> None:
    spec = place.new_spec().model_copy(update={"idempotency_key_sha256": key_sha256("k1"), "created_at": "2026-01-01T00:00:00.000Z"})
    write_document(place.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    place.wipe()
    place.rebuild()
    assert place.store.find_submission("k1", "") is None


def test_who_followed_a_job_goes_on_with_what_comes_after(place: Place, jobs: dict[str, str]) -> None:
    last_seen = {name: place.store.events(jobs[name])[-1].seq for name in ("running", "succeeded")}
    place.wipe()
    place.rebuild()
    events = place.store.events(jobs["running"], after=last_seen["running"])
    assert [event.type for event in events] == ["state", "snapshot", "snapshot"]
    assert [event.data.get("cycle") for event in events] == [None, 0, 1]
    assert [event.seq - events[0].seq for event in events] == [0, 1, 2]
    ended = place.store.events(jobs["succeeded"], after=last_seen["succeeded"])
    assert [event.type for event in ended] == ["state", "snapshot", "snapshot", "snapshot", "state", "end"]
    assert (ended[-2].data["status"], ended[-1].data) == ("succeeded", {"status": "succeeded"})
    assert place.store.events(jobs["succeeded"], after=ended[-3].seq, limit=1) == ended[-2:-1]


def test_a_second_rebuild_changes_nothing(place: Place, jobs: dict[str, str]) -> None:
    place.wipe()
    place.rebuild()
    before = everything(place.client)
    assert place.rebuild() is None
    place.client.delete("snapcycle:generation")
    assert place.rebuild() == 0
    place.client.set("snapcycle:generation", "other")
    after = everything(place.client)
    assert {**before, "snapcycle:generation": b""} == {**after, "snapcycle:generation": b""}


def test_a_worker_of_before_commits_nothing(place: Place, jobs: dict[str, str]) -> None:
    job_id, old = jobs["running"], place.epochs[jobs["running"]]
    place.wipe()
    assert not place.store.beat(job_id, old, 30_000).ours
    place.rebuild()
    assert place.snapshot(job_id, 2) == Commit.FENCED
    claim = place.store.claim(job_id, "worker-2", 30_000, 3)
    assert isinstance(claim, Claim)
    assert claim.epoch > old
    assert not place.store.beat(job_id, old, 30_000).ours
    assert not place.store.finish(job_id, old, JobStatus.SUCCEEDED)
    assert place.snapshot(job_id, 3) == Commit.FENCED
    assert record_of(place.store, job_id).snapshot_count == 2


def test_until_then_nothing_is_said_to_be_missing(place: Place, jobs: dict[str, str]) -> None:
    store, job_id = place.store, jobs["succeeded"]
    place.wipe()
    calls: list[Callable[[], object]] = [
        lambda: store.get(job_id),
        store.list,
        store.workers,
        store.check_complete,
        store.num_queued,
        lambda: store.snapshots(job_id),
        lambda: store.snapshot(snapshot_id_of(job_id, 0)),
        lambda: store.request(job_id, Action.CANCEL),
        lambda: store.begin_delete(job_id),
        lambda: store.delete(job_id),
        lambda: store.delete_dataset_guard("ds_1"),
        lambda: store.find_submission("k", "body"),
        lambda: store.submit(place.new_spec(), idempotency_key=None, body_sha256=""),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="read back from the artifact store"):
            call()
    place.rebuild()
    assert record_of(store, job_id).status == JobStatus.SUCCEEDED
    assert store.get(new_id("job")) is None
    with pytest.raises(JobMissing):
        store.delete(new_id("job"))


def test_a_rebuild_that_is_overtaken_by_another_wipe_begins_again(place: Place, jobs: dict[str, str]) -> None:
    place.wipe()

    def wipe_once_more() -> bool:
        place.wipe()
        return True

    assert rebuild(place.store, place.artifacts, may_go_on=wipe_once_more) is None
    with pytest.raises(StoreUnavailable):
        place.store.get(jobs["queued"])
    assert rebuild(place.store, place.artifacts, may_go_on=lambda: False) is None
    assert place.rebuild() == 6


def test_of_two_rebuilds_the_later_one_counts(place: Place, jobs: dict[str, str]) -> None:
    place.wipe()
    later: list[int | None] = []

    def let_another_do_it() -> bool:
        later.append(place.rebuild())
        delete_job(place.store, place.artifacts, jobs["failed"])
        return True

    assert rebuild(place.store, place.artifacts, may_go_on=let_another_do_it) is None
    assert later == [6]
    assert place.store.get(jobs["failed"]) is None


def test_a_damaged_spec_keeps_no_other_job_away(
    place: Place, jobs: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "artifacts" / spec_key(jobs["failed"])).write_bytes(b"{}")
    place.wipe()
    assert place.rebuild() == 5
    assert place.store.get(jobs["failed"]) is None
    assert jobs["failed"] in caplog.text


class Interrupted(ArtifactStore):
    """Loses its connection when it comes to one name."""

    at: str

    def delete(self, key: str) -> None:
        if key.endswith(self.at):
            raise ArtifactUnavailable(f"{key}: the connection was lost")
        super().delete(key)


@pytest.mark.parametrize("at", ["spec.json", "result.json", "0/manifest.json"])
def test_a_deletion_that_was_interrupted_is_finished(place: Place, jobs: dict[str, str], tmp_path: Path, at: str) -> None:
    job_id = jobs["succeeded"]
    interrupted = Interrupted.open(tmp_path / "artifacts")
    interrupted.at = at
    with pytest.raises(ArtifactUnavailable):
        delete_job(place.store, interrupted, job_id)
    assert record_of(place.store, job_id).status == JobStatus.SUCCEEDED, "it can be asked for again"
    reconcile_once(place.store, place.artifacts, print, max_crashes=3)
    assert place.store.get(job_id) is None
    assert job_id not in place.artifacts.list_names("jobs")
    assert place.store.deleting() == []


def test_a_half_deleted_job_does_not_come_back(place: Place, jobs: dict[str, str], tmp_path: Path) -> None:
    interrupted = Interrupted.open(tmp_path / "artifacts")
    interrupted.at = "result.json"
    with pytest.raises(ArtifactUnavailable):
        delete_job(place.store, interrupted, jobs["succeeded"])
    place.wipe()
    assert place.rebuild() == 5
    assert place.store.get(jobs["succeeded"]) is None
    assert remove_half_deleted(place.artifacts) == [jobs["succeeded"]]
    assert sorted(place.artifacts.list_names("jobs")) == sorted(job_id for name, job_id in jobs.items() if name != "succeeded")


class Slow(ArtifactStore):
    """Lets something happen before a result is written."""

    before: Callable[[], None]

    def create(self, key: str, data: bytes | Path) -> str:
        if key.endswith("result.json"):
            self.before()
        return super().create(key, data)


def test_a_job_that_is_deleted_while_its_result_is_stored_leaves_nothing(place: Place, tmp_path: Path) -> None:
    job_id = place.queued()
    place.store.request(job_id, Action.CANCEL)
    slow = Slow.open(tmp_path / "artifacts")
    slow.before = lambda: delete_job(place.store, place.artifacts, job_id)
    reconcile_once(place.store, slow, print, max_crashes=3)
    assert place.artifacts.list_keys(job_prefix(job_id)) == []
