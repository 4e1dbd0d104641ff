"""A tenant's view of the job store: none of its methods reaches another tenant's job, whatever is added to the job store later."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from clr.config import TrainingConfig
from clr.study_config import StudyConfig
from service.tenant_jobs import ABOUT_NO_JOB, FOR_WORKERS, TenantJobStore
from tests.job_stores import emptied_store
from worker.ids import new_id, snapshot_id_of
from worker.job_errors import JobMissing
from worker.job_specs import JobSpec, StudySpec, TrainSpec
from worker.job_store import Claim, JobStore
from worker.jobs import Action, JobStatus, now_rfc3339
from worker.redis_connection import connect
from worker.valkey_server import ValkeyServer

PREFIX = "view:"
PUBLIC = sorted(name for name, _ in inspect.getmembers(JobStore, inspect.isfunction) if not name.startswith("_"))
IN_A_VIEW = [name for name in PUBLIC if name not in FOR_WORKERS | ABOUT_NO_JOB]
OWN = "default"


@pytest.fixture(scope="module")
def store(valkey: ValkeyServer) -> Iterator[JobStore]:
    """The whole store, apart from what else is in the server."""
    with connect(valkey.url) as client:
        yield emptied_store(client, prefix=PREFIX)


@pytest.fixture(scope="module")
def jobs(store: JobStore) -> dict[str, str]:
    """Another tenant's jobs by what there is to do about them: to file, to amend, to delete, to stop, to wake."""
    ids = {state: _submit(store, tenant="theirs") for state in ("running", "queued", "paused", "succeeded", "deleting")}
    for state in ("running", "succeeded", "deleting"):
        claim = store.claim(ids[state], "worker", 60_000, 3)
        assert isinstance(claim, Claim)
        store.report(ids[state], claim.epoch, event=("progress", {"step": 1}), metrics_rows=[[1, 0.1, 0, 0.1, 1.0]])
        store.commit_snapshot(ids[state], claim.epoch, 0, _manifest(ids[state]))
        if state != "running":
            store.finish(ids[state], claim.epoch, JobStatus.SUCCEEDED)
    store.request(ids["paused"], Action.PAUSE)
    store.begin_delete(ids["deleting"])
    ids["study"] = _submit(store, tenant="theirs", is_study=True)
    ids["cancelled study"] = _submit(store, tenant="theirs", is_study=True)
    ids["stray"] = _submit(store, tenant="theirs", parent_id=ids["cancelled study"])
    store.request(ids["cancelled study"], Action.CANCEL)
    return ids


@pytest.fixture
def view(store: JobStore) -> TenantJobStore:
    return TenantJobStore(store, OWN)


def _submit(store: JobStore, *, tenant: str, is_study: bool = False, **changes: Any) -> str:
    fields: dict[str, Any] = {"id": new_id("job"), "name": None, "dataset_id": new_id("ds"), "metadata": {}, "created_at": now_rfc3339()}
    spec: JobSpec
    if is_study:
        config = StudyConfig.model_validate({"seeds": [0], "cycles": 2, "epochs": 2, "max_lr": 0.1})
        spec = StudySpec(**fields, tenant=tenant, config=config, num_steps=4, steps_per_epoch=2)
    else:
        spec = TrainSpec(
            **fields, **changes, tenant=tenant, config=TrainingConfig(), num_steps=40, num_cycles=5, epochs=20.0, steps_per_epoch=2
        )
    store.submit(spec, idempotency_key=None, body_sha256="")
    return spec.id


def _manifest(job_id: str) -> dict[str, Any]:
    return {
        "id": snapshot_id_of(job_id, 0),
        "job_id": job_id,
        "cycle": 0,
        "step": 8,
        "metrics": {"validation": {"loss": 0.1}},
        "ensemble": {"members": 1, "version": 1, "validation": {"loss": 0.1}, "test": None},
    }


def _arguments(store: JobStore, name: str, job_id: str) -> dict[str, Any]:
    """Arguments of a method that name the job wherever a job can be named. A parameter that is missing here fails its method's test."""
    job = store.get(job_id)
    assert job is not None
    values: dict[str, Any] = {
        "job_id": job_id,
        "job_ids": [job_id],
        "job": job,
        "snapshot_id": snapshot_id_of(job_id, 0),
        "study_id": job_id,
        "action": Action.CANCEL,
        "count": 0,
        "cycles": 1,
        "config": {},
        "progress": {"step": 0, "fraction": 0.0},
        "event": {},
        "idempotency_key": None,
        "body_sha256": "",
        "reason": "woken",
    }
    parameters = inspect.signature(getattr(JobStore, name)).parameters.values()
    return {
        parameter.name: values[parameter.name]
        for parameter in parameters
        if parameter.name != "self" and (parameter.default is inspect.Parameter.empty or parameter.name in values)
    }


def _everything(client: redis.Redis) -> dict[Any, Any]:
    """The database as it is; a DUMP tells one hash in two orders."""
    readers: dict[str, Callable[[str], Any]] = {
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "stream": client.xrange,
        "string": client.get,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    return {key: readers[str(client.type(key))](key) for key in client.scan_iter(f"{PREFIX}*")}


def test_every_method_of_the_job_store_has_been_decided_on() -> None:
    own = {name for name in vars(TenantJobStore) if not name.startswith("_")}
    assert FOR_WORKERS.isdisjoint(ABOUT_NO_JOB)
    assert set(IN_A_VIEW) == own - FOR_WORKERS
    assert set(PUBLIC) >= FOR_WORKERS | ABOUT_NO_JOB


@pytest.mark.parametrize("name", [name for name in IN_A_VIEW if name not in ("submit", "find_submission")])
def test_no_method_reaches_another_tenants_job(store: JobStore, view: TenantJobStore, jobs: dict[str, str], name: str) -> None:
    for job_id in jobs.values():
        before = _everything(store._redis)
        answer = None
        with suppress(JobMissing):
            answer = getattr(view, name)(**_arguments(store, name, job_id))
        assert job_id[4:] not in repr(answer)
        assert not _says_something(answer), answer
        assert _everything(store._redis) == before


def _says_something(answer: Any) -> bool:
    """Whether an answer has anything in it but names and nothings."""
    if isinstance(answer, dict):
        return any(map(_says_something, answer.values()))
    if isinstance(answer, list | tuple):
        return any(map(_says_something, answer))
    return bool(answer) and not isinstance(answer, str)


def test_the_whole_store_would_have_reached_them(store: JobStore, jobs: dict[str, str]) -> None:
    """Else the test above could not fail."""
    assert store.snapshots(jobs["succeeded"])
    assert store.metrics(jobs["succeeded"]).rows
    assert store.events(jobs["queued"])
    assert store.amendments(jobs["paused"])
    assert jobs["paused"] in store.unamended()
    assert jobs["succeeded"] in store.unfiled()
    assert jobs["deleting"] in store.deleting()
    assert jobs["stray"] in store.stray_runs()
    assert jobs["study"] in store.waiting()
    assert store.standing([jobs["running"]])[0] is not None
    assert store.counts()[JobStatus.QUEUED]
    assert store.list().records


@pytest.mark.parametrize("name", sorted(FOR_WORKERS))
def test_what_workers_do_a_view_refuses(view: TenantJobStore, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is for workers and the reconciler"):
        getattr(view, name)()


def test_a_view_submits_and_finds_as_its_tenant_alone(store: JobStore, view: TenantJobStore) -> None:
    with pytest.raises(AssertionError, match="a view has one tenant"):
        _submit(view, tenant="theirs")
    with pytest.raises(AssertionError, match="a view has one tenant"):
        view.find_submission("key", "sha", tenant="theirs")
    mine = _submit(view, tenant=OWN)
    assert [record.id for record in view.list().records] == [mine]
    assert view.standing([mine])[0] is not None
    assert view.request(mine, Action.PAUSE).status is JobStatus.PAUSED
    assert view.unamended() == [mine]
    assert view.resume(mine).status is JobStatus.QUEUED
    assert len(view.amendments(mine)) == 2
    view.request(mine, Action.CANCEL)
    assert view.unfiled() == [mine]
    view.begin_delete(mine)
    assert view.deleting() == [mine]
    view.delete(mine)
    assert store.get(mine) is None
