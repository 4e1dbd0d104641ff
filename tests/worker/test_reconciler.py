import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from worker import reconciler
from worker.artifacts import ArtifactStore
from worker.fleet import QUEUE
from worker.ids import snapshot_id_of
from worker.job_specs import JobSpec
from worker.job_store import Claim, JobStore
from worker.jobs import Action, JobStatus
from worker.reconciler import Pass, reconcile_once, run_reconciler
from worker.records import read_document, result_key, write_document
from worker.results import LASTING
from worker.settings import Settings

NewSpec = Callable[[], JobSpec]


class Broker:
    """Publishes into the list that Celery reads; may lose messages."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.sent: list[str] = []

    def publish(self, job_id: str) -> None:
        self.sent.append(job_id)
        self._client.lpush(f"snapcycle:{QUEUE}", job_id)

    def take(self) -> None:
        self._client.rpop(f"snapcycle:{QUEUE}")


@pytest.fixture
def broker(redis_client: redis.Redis) -> Broker:
    return Broker(redis_client)


def submit(store: JobStore, spec: JobSpec) -> str:
    return store.submit(spec, idempotency_key=None, body_sha256="").job_id


def claim(store: JobStore, job_id: str, owner: str) -> int:
    granted = store.claim(job_id, owner, 30_000, 3)
    assert isinstance(granted, Claim), granted
    return granted.epoch


def one_pass(store: JobStore, artifacts: ArtifactStore, broker: Broker, *, trust_leases: bool = True) -> Pass:
    return reconcile_once(store, artifacts, broker.publish, max_crashes=3, trust_leases=trust_leases, unannounced_seconds=0)


def test_a_healthy_service_is_left_alone(job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec) -> None:
    broker.publish(submit(job_store, new_spec()))
    claim(job_store, submit(job_store, new_spec()), "worker-1")
    job_store.register_worker("worker-1", {}, 60_000)
    assert one_pass(job_store, artifacts, broker) == Pass([], [], [], [], [], [])
    assert len(broker.sent) == 1


def test_a_dead_workers_jobs_are_queued_again(job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec) -> None:
    lost = submit(job_store, new_spec())
    claim(job_store, lost, "worker-1")
    job_store.register_worker("worker-1", {}, 1)
    job_store.expire_owner("worker-1")
    assert one_pass(job_store, artifacts, broker, trust_leases=False).requeued == []
    done = one_pass(job_store, artifacts, broker)
    assert (done.requeued, done.republished, broker.sent) == ([lost], [], [lost])
    assert job_store.workers() == []
    record = job_store.get(lost)
    assert record is not None
    assert (record.status, record.crashes) == (JobStatus.QUEUED, 1)


def test_lost_messages_are_sent_again_and_no_more_than_that(
    job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec
) -> None:
    jobs = [submit(job_store, new_spec()) for _ in range(5)]
    assert one_pass(job_store, artifacts, broker).republished == jobs
    for _ in range(10):
        assert one_pass(job_store, artifacts, broker).republished == []
    broker.take()
    assert one_pass(job_store, artifacts, broker).republished == jobs[:1]
    assert len(broker.sent) == 6


def test_every_lost_message_is_found_in_the_end(job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec) -> None:
    jobs = [submit(job_store, new_spec()) for _ in range(5)]
    for job_id in jobs:
        if job_id != jobs[2]:
            broker.publish(job_id)
    ran = []
    queue = broker.sent
    for _ in range(20):  # a worker takes one message after the other
        one_pass(job_store, artifacts, broker)
        if not queue:
            break
        job_id = queue.pop(0)
        broker.take()
        if isinstance(granted := job_store.claim(job_id, "worker-1", 30_000, 3), Claim):
            ran.append(job_id)
            job_store.finish(job_id, granted.epoch, JobStatus.SUCCEEDED)
    assert sorted(ran) == sorted(jobs)


def test_a_job_that_crashes_too_often_fails_with_a_result(
    job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec
) -> None:
    spec = new_spec()
    submit(job_store, spec)
    for crash in range(3):
        epoch = claim(job_store, spec.id, "worker-1")
        if crash == 0:
            metrics = {"validation": {"loss": 0.5}}
            manifest = {"id": snapshot_id_of(spec.id, 0), "cycle": 0, "metrics": metrics, "ensemble": {"members": 1}}
            job_store.commit_snapshot(spec.id, epoch, 0, manifest)
            job_store.report(spec.id, epoch, metrics_rows=[[1, 0.1, 0, 0.1, 2.5]])
        job_store.expire_owner("worker-1")
        done = one_pass(job_store, artifacts, broker)
    assert (done.ended, done.filed) == ([spec.id], [spec.id])
    record = job_store.get(spec.id)
    assert record is not None
    assert read_document(artifacts, result_key(spec.id)) == {
        "status": "failed",
        "stop_reason": None,
        "error": record.error,
        "finished_at": record.finished_at,
        "snapshots": [{"cycle": 0, "snapshot_id": snapshot_id_of(spec.id, 0), "metrics": {"validation": {"loss": 0.5}}}],
        "ensemble": [{"members": 1}],
        "manifests": job_store.snapshots(spec.id),
        "history": {"columns": ["step", "epoch", "cycle", "learning_rate", "train_loss"], "rows": [[1, 0.1, 0, 0.1, 2.5]]},
        "config": spec.config.model_dump(mode="json"),
        "output": {},
        "extensions": 0,
        "record": {name: getattr(record, name) for name in LASTING},
    }


def test_results_are_stored_once(job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec) -> None:
    cancelled, finished, deleted = (submit(job_store, new_spec()) for _ in range(3))
    job_store.request(cancelled, Action.CANCEL)
    write_document(artifacts, result_key(finished), {"status": "succeeded", "by": "its supervisor"})
    job_store.finish(finished, claim(job_store, finished, "worker-1"), JobStatus.SUCCEEDED)
    job_store.request(deleted, Action.CANCEL)
    job_store.delete(deleted)
    assert one_pass(job_store, artifacts, broker).filed == [cancelled]
    assert one_pass(job_store, artifacts, broker).filed == []
    assert read_document(artifacts, result_key(finished)) == {"status": "succeeded", "by": "its supervisor"}
    assert read_document(artifacts, result_key(deleted)) is None


def test_a_result_waits_for_the_store(
    job_store: JobStore, artifacts: ArtifactStore, broker: Broker, new_spec: NewSpec, tmp_path: Path
) -> None:
    cancelled = submit(job_store, new_spec())
    job_store.request(cancelled, Action.CANCEL)
    (tmp_path / "artifacts" / "jobs").write_bytes(b"in the way")
    assert one_pass(job_store, artifacts, broker).filed == []
    (tmp_path / "artifacts" / "jobs").unlink()
    assert one_pass(job_store, artifacts, broker).filed == [cancelled]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def test_reconcilers_work_one_at_a_time_until_they_are_stopped(
    job_store: JobStore,
    artifacts: ArtifactStore,
    broker: Broker,
    new_spec: NewSpec,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    redis_client: redis.Redis,
) -> None:
    monkeypatch.setattr(reconciler, "PASS_SECONDS", 0.02)
    settings = settings.model_copy(update={"beat_seconds": 0.1})
    lost = submit(job_store, new_spec())
    claim(job_store, lost, "worker-1")
    job_store.expire_owner("worker-1")
    stop = threading.Event()
    threads = [
        threading.Thread(target=run_reconciler, args=(job_store, artifacts, broker.publish), kwargs={"settings": settings, "stop": stop})
        for _ in range(3)
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: broker.sent == [lost])
        assert time.monotonic() - started >= 0.2  # two beats, in which the worker could have shown that it lives
        assert redis_client.get("snapcycle:leader") is not None
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert redis_client.get("snapcycle:leader") is None
    assert broker.sent == [lost]


def test_after_an_outage_leases_are_not_trusted_at_once(
    job_store: JobStore,
    artifacts: ArtifactStore,
    broker: Broker,
    new_spec: NewSpec,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    redis_client: redis.Redis,
) -> None:
    monkeypatch.setattr(reconciler, "PASS_SECONDS", 0.02)
    settings = settings.model_copy(update={"beat_seconds": 0.6})
    stop = threading.Event()
    arguments = {"settings": settings, "stop": stop}
    thread = threading.Thread(target=run_reconciler, args=(job_store, artifacts, broker.publish), kwargs=arguments)
    thread.start()
    try:
        first = submit(job_store, new_spec())
        claim(job_store, first, "worker-1")
        job_store.expire_owner("worker-1")
        wait_until(lambda: broker.sent == [first])

        second = submit(job_store, new_spec())
        granted = job_store.claim(second, "worker-2", 800, 3)
        assert isinstance(granted, Claim)
        redis_client.config_set("maxmemory", "1mb")  # the server refuses to write: nobody can lead, nobody can beat
        wait_until(lambda: job_store.expired_leases() == [second])
        redis_client.config_set("maxmemory", "1gb")
        assert job_store.beat(second, granted.epoch, 30_000).ours
    finally:
        redis_client.config_set("maxmemory", "1gb")
        stop.set()
        thread.join(10)
    assert broker.sent == [first]
