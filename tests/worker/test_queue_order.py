"""Who is next: priorities first, then the tenants in turn, then arrival; and every position says so beforehand."""

import random
from collections.abc import Callable

import pytest

from tests.worker.queue_model import QueueModel
from tests.worker.training_jobs import record_of
from worker.job_specs import JobSpec
from worker.job_store import Claim, JobStore
from worker.jobs import JobStatus, Priority

NewSpec = Callable[[], JobSpec]


def submit(store: JobStore, spec: JobSpec, tenant: str = "default", priority: Priority = Priority.NORMAL) -> str:
    placed = spec.model_copy(update={"tenant": tenant, "priority": priority})
    return store.submit(placed, idempotency_key=None, body_sha256="").job_id


def take(store: JobStore) -> str:
    job_id = store.next_job()
    assert job_id is not None
    assert isinstance(store.claim(job_id, "worker-1", 30_000, 3), Claim)
    return job_id


def test_tenants_take_turns_whatever_the_length_of_their_queues(job_store: JobStore, new_spec: NewSpec) -> None:
    many = [submit(job_store, new_spec(), "many") for _ in range(5)]
    few = [submit(job_store, new_spec(), "few") for _ in range(2)]
    assert [record_of(job_store, job_id).position for job_id in (*many, *few)] == [1, 3, 5, 6, 7, 2, 4]
    assert [take(job_store) for _ in range(7)] == [many[0], few[0], many[1], few[1], *many[2:]]
    assert job_store.next_job() is None


def test_a_higher_priority_comes_first_also_for_a_tenant_that_has_just_had_its_turn(job_store: JobStore, new_spec: NewSpec) -> None:
    low = submit(job_store, new_spec(), "a", Priority.LOW)
    normal = submit(job_store, new_spec(), "b")
    high = [submit(job_store, new_spec(), "a", Priority.HIGH) for _ in range(2)]
    assert [record_of(job_store, job_id).position for job_id in (low, normal, *high)] == [4, 3, 1, 2]
    assert [take(job_store) for _ in range(4)] == [*high, normal, low]


def test_an_interrupted_job_comes_back_to_its_place(job_store: JobStore, new_spec: NewSpec) -> None:
    first, second = (submit(job_store, new_spec()) for _ in range(2))
    granted = job_store.claim(first, "worker-1", 30_000, 3)
    assert isinstance(granted, Claim)
    job_store.release(first, granted.epoch, "drained")
    assert [record_of(job_store, job_id).position for job_id in (first, second)] == [1, 2]


def test_tenants_have_their_own_lists_and_keys(job_store: JobStore, new_spec: NewSpec) -> None:
    a, b = (submit(job_store, new_spec(), tenant) for tenant in "ab")
    take(job_store)
    assert [record.id for record in job_store.list(tenant="a").records] == [a]
    assert [record.id for record in job_store.list(tenant="a", status=JobStatus.QUEUED).records] == []
    assert [record.id for record in job_store.list(tenant="b", kind=record_of(job_store, b).kind).records] == [b]
    assert job_store.counts()[JobStatus.QUEUED] == 1
    made = [
        job_store.submit(new_spec().model_copy(update={"tenant": tenant}), idempotency_key="k", body_sha256="x")
        for tenant in ("a", "b", "a")
    ]
    assert [result.replayed for result in made] == [False, False, True]
    assert made[0].job_id == made[2].job_id != made[1].job_id
    assert job_store.find_submission("k", "x", tenant="b") == made[1].job_id
    assert job_store.find_submission("k", "x") is None


@pytest.mark.parametrize("seed", range(5))
def test_positions_are_the_order_in_which_jobs_are_taken(job_store: JobStore, new_spec: NewSpec, seed: int) -> None:
    rng, model = random.Random(seed), QueueModel()
    for _ in range(40):
        tenant, priority = rng.choice("abcde"), rng.choice(list(Priority))
        job_id = submit(job_store, new_spec(), tenant, priority)
        model.homes[job_id] = (priority, tenant)
        model.join(job_id)
        if rng.random() < 0.3:
            model.leave(take(job_store), is_claimed=True)
    waiting = job_store.list(status=JobStatus.QUEUED, limit=100).records
    foretold = sorted(waiting, key=lambda record: record.position or 0)
    assert [record.position for record in foretold] == list(range(1, len(waiting) + 1))
    assert [record.id for record in foretold] == model.order()
    assert [take(job_store) for _ in waiting] == model.order()
