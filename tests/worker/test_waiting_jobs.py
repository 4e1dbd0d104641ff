"""Jobs that wait for runs of their own: queued, but where no worker can take them."""

import pytest

from clr.study_config import StudyConfig
from tests.worker.training_jobs import record_of
from worker.ids import new_id
from worker.job_specs import StudySpec
from worker.job_store import Claim, InvalidState, JobStore, Refused
from worker.jobs import Action, JobStatus, Phase, now_rfc3339
from worker.restoration import StoredJob


def waiting_spec() -> StudySpec:
    return StudySpec(
        id=new_id("job"),
        name=None,
        dataset_id="ds_01M84K9HDDAJZAD5F3E26JSCXC",
        metadata={},
        created_at=now_rfc3339(),
        config=StudyConfig(seeds=(0,)),
        num_steps=100,
        steps_per_epoch=10,
    )


@pytest.fixture
def waiting(job_store: JobStore) -> str:
    spec = waiting_spec()
    job_store.submit(spec, idempotency_key=None, body_sha256="")
    return spec.id


def test_a_job_that_waits_for_its_runs_can_be_claimed_once_it_was_woken(job_store: JobStore, waiting: str) -> None:
    record = record_of(job_store, waiting)
    assert (record.status, record.phase, record.position) == (JobStatus.QUEUED, Phase.WAITING_FOR_RUNS, None)
    assert job_store.waiting() == [waiting]
    assert job_store.claim(waiting, "worker-1", 30_000, 3) == Refused("waiting")
    assert job_store.unannounced(0) == []  # it has no message, and needs none

    assert job_store.wake(waiting, "its runs have ended")
    record = record_of(job_store, waiting)
    assert (record.status, record.phase, record.position) == (JobStatus.QUEUED, Phase.WAITING_FOR_WORKER, 1)
    assert record.transitions[-1]["reason"] == "its runs have ended"
    assert job_store.waiting() == []
    assert not job_store.wake(waiting, "once more")
    assert isinstance(job_store.claim(waiting, "worker-1", 30_000, 3), Claim)


def test_a_cancelled_job_waits_no_longer(job_store: JobStore, waiting: str) -> None:
    with pytest.raises(InvalidState):
        job_store.request(waiting, Action.STOP_NOW)
    assert job_store.request(waiting, Action.CANCEL).status == JobStatus.CANCELLED
    assert job_store.waiting() == []
    assert not job_store.wake(waiting, "too late")


def test_a_rebuilt_database_has_it_waiting_again(job_store: JobStore) -> None:
    job_store._redis.flushall()
    token = job_store.begin_rebuild()
    assert token is not None
    spec = waiting_spec()
    assert job_store.restore(token, StoredJob(spec, None, [], 0)) == "restored"
    assert job_store.end_rebuild(token)
    assert job_store.waiting() == [spec.id]
    assert record_of(job_store, spec.id).phase == Phase.WAITING_FOR_RUNS
