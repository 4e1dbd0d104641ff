import time
from collections.abc import Callable

import redis

from worker.fleet import QUEUE
from worker.job_specs import JobSpec
from worker.job_store import Claim, JobStore

NewSpec = Callable[[], JobSpec]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def test_one_leader_at_a_time(job_store: JobStore) -> None:
    assert job_store.acquire_leader("a", 10_000)
    assert job_store.acquire_leader("a", 10_000)
    assert not job_store.acquire_leader("b", 10_000)
    job_store.release_leader("b")
    assert not job_store.acquire_leader("b", 10_000)
    job_store.release_leader("a")
    assert job_store.acquire_leader("b", 50)
    wait_until(lambda: job_store.acquire_leader("a", 10_000))


def test_the_leadership_of_a_dead_process_is_free_and_no_other_one(job_store: JobStore) -> None:
    assert job_store.acquire_leader("machine:123:ab", 10_000)
    job_store.expire_owner("machine:12")
    job_store.expire_owner("machine:123:a")
    assert not job_store.acquire_leader("machine:124:cd", 10_000)
    job_store.expire_owner("machine:123")
    assert job_store.acquire_leader("machine:124:cd", 10_000)


def test_workers_live_as_long_as_they_say(job_store: JobStore) -> None:
    job_store.register_worker("w1", {"device": "cpu", "job_id": None}, 60_000)
    job_store.register_worker("w2", {"device": "cuda:0"}, 1)
    wait_until(lambda: len(job_store.workers()) == 1)
    assert job_store.workers() == [{"id": "w1", "device": "cpu", "job_id": None}]
    assert job_store.forget_dead_workers() == ["w2"]
    assert job_store.forget_dead_workers() == []
    job_store.register_worker("w1", {"device": "cpu", "job_id": "job_x"}, 60_000)
    assert job_store.workers() == [{"id": "w1", "device": "cpu", "job_id": "job_x"}]
    job_store.forget_worker("w1")
    assert job_store.workers() == []


def test_a_short_lease_runs_out_by_itself(job_store: JobStore, new_spec: NewSpec) -> None:
    spec = new_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    assert isinstance(job_store.claim(spec.id, "w1", 50, 3), Claim)
    wait_until(lambda: job_store.expired_leases() == [spec.id])
    assert job_store.requeue_expired(spec.id, 3) == "requeued"


def test_only_missing_messages_are_named(job_store: JobStore, new_spec: NewSpec, redis_client: redis.Redis) -> None:
    ids = []
    for _ in range(3):
        spec = new_spec()
        job_store.submit(spec, idempotency_key=None, body_sha256="")
        ids.append(spec.id)
    assert job_store.unannounced(60_000) == []
    assert job_store.unannounced(0) == ids
    redis_client.lpush(f"snapcycle:{QUEUE}", "message", "message")
    assert job_store.unannounced(0) == ids[:1]
    redis_client.lpush(f"snapcycle:{QUEUE}", "message", "duplicate")
    assert job_store.unannounced(0) == []


def test_a_fit_server_gives_no_warnings(job_store: JobStore, redis_client: redis.Redis) -> None:
    assert job_store.check_server() == []
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    redis_client.config_set("appendfsync", "everysec")
    try:
        assert [warning.split(":")[0] for warning in job_store.check_server()] == [
            "Redis answers before its log is on the disk, so a power cut can lose jobs",
            "Redis may evict jobs (maxmemory-policy allkeys-lru)",
        ]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.config_set("appendfsync", "always")
