"""The job store against a model of two pages: hypothesis makes up the history, both must agree after every step (F16)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from clr.config import TrainingConfig
from tests.job_stores import complete_store
from worker.ids import new_id
from worker.job_specs import TrainSpec
from worker.job_store import Claim, Commit, InvalidState, JobStore, Refused
from worker.jobs import TERMINAL, Action, JobStatus, TerminalStatus, now_rfc3339

MAX_CRASHES = 3
STRENGTH = list(Action)
OWNERS = st.sampled_from(["worker-1", "worker-2"])


@dataclass
class Job:
    status: JobStatus = JobStatus.QUEUED
    owner: str | None = None
    is_lease_live: bool = False
    epochs: list[int] = field(default_factory=list)
    crashes: int = 0
    checkpoint_step: int = -1
    snapshots: set[int] = field(default_factory=set)
    requested: Action | None = None
    stop_reason: str | None = None
    changes: list[JobStatus] = field(default_factory=lambda: [JobStatus.QUEUED])

    def become(self, status: JobStatus) -> None:
        self.status = status
        self.changes.append(status)
        if status in TERMINAL:
            self.requested = None

    def lose_attempt(self) -> str:
        self.crashes += 1
        if self.requested == Action.CANCEL:
            self.become(JobStatus.CANCELLED)
            return "cancelled"
        self.become(JobStatus.QUEUED if self.crashes < MAX_CRASHES else JobStatus.FAILED)
        return "requeued" if self.status == JobStatus.QUEUED else "failed"

    def is_ours(self, epoch: int) -> bool:
        return self.status == JobStatus.RUNNING and self.epochs[-1:] == [epoch]


class JobStoreMachine(RuleBasedStateMachine):
    store: JobStore
    claims: Bundle[tuple[str, int]] = Bundle("claims")
    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Job] = {}
        for job in self.store.list(limit=1000).records:
            raise AssertionError(f"{job.id} is left of an earlier run")

    def teardown(self) -> None:
        for job_id in self.model:
            events = self.store.events(job_id, limit=10_000)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert [event.data["status"] for event in events if event.type == "end"] == (
                [self.model[job_id].status] if self.model[job_id].status in TERMINAL else []
            )
        self.store._redis.flushall()
        complete_store(self.store._redis)

    @rule(target=jobs)
    def submit(self) -> str:
        spec = TrainSpec(
            id=new_id("job"),
            name=None,
            dataset_id="ds_1",
            metadata={},
            config=TrainingConfig(),
            created_at=now_rfc3339(),
            num_steps=10,
            num_cycles=2,
            epochs=1.0,
            steps_per_epoch=10,
        )
        self.store.submit(spec, idempotency_key=None, body_sha256="")
        self.model[spec.id] = Job()
        return spec.id

    @rule(target=claims, job_id=jobs, owner=OWNERS)
    def claim(self, job_id: str, owner: str) -> tuple[str, int] | MultipleResults[tuple[str, int]]:
        answer = self.store.claim(job_id, owner, 3_600_000, MAX_CRASHES)
        job = self.model[job_id]
        if job.status == JobStatus.CANCELLED:
            assert answer == Refused("cancelled")
        elif job.status in TERMINAL:
            assert answer == Refused("done")
        elif job.status == JobStatus.RUNNING and job.is_lease_live:
            assert answer == Refused("held")
        elif job.status == JobStatus.RUNNING and (outcome := job.lose_attempt()) != "requeued":
            assert answer == Refused("poison" if outcome == "failed" else "cancelled")
        else:
            assert isinstance(answer, Claim)
            assert not job.epochs or answer.epoch > job.epochs[-1]
            job.epochs.append(answer.epoch)
            job.owner, job.is_lease_live = owner, True
            job.become(JobStatus.RUNNING)
            return (job_id, answer.epoch)
        return multiple()

    @rule(claim=claims)
    def beat(self, claim: tuple[str, int]) -> None:
        job = self.model[claim[0]]
        beat = self.store.beat(*claim, 3_600_000, {"step": 1})
        assert beat.ours == job.is_ours(claim[1])
        assert beat.requested_action == (job.requested if beat.ours else None)
        job.is_lease_live |= beat.ours

    @rule(claim=claims, step=st.integers(0, 3))
    def checkpoint(self, claim: tuple[str, int], step: int) -> None:
        job = self.model[claim[0]]
        ours = self.store.report(*claim, checkpoint_step=step, event=("progress", {}))
        assert ours == job.is_ours(claim[1])
        if ours and step > job.checkpoint_step:
            job.checkpoint_step, job.crashes = step, 0

    @rule(claim=claims, cycle=st.integers(0, 2))
    def commit(self, claim: tuple[str, int], cycle: int) -> None:
        job = self.model[claim[0]]
        answer = self.store.commit_snapshot(*claim, cycle, {"id": "snap", "cycle": cycle})
        if not job.is_ours(claim[1]):
            assert answer == Commit.FENCED
        elif cycle in job.snapshots:
            assert answer == Commit.ALREADY
        else:
            assert answer == Commit.COMMITTED
            job.snapshots.add(cycle)
            job.crashes = 0

    @rule(claim=claims)
    def release(self, claim: tuple[str, int]) -> None:
        job = self.model[claim[0]]
        already = job.status == JobStatus.QUEUED and job.epochs[-1] == claim[1]
        assert self.store.release(*claim, "drained") == (job.is_ours(claim[1]) or already)
        if job.is_ours(claim[1]):
            job.become(JobStatus.CANCELLED if job.requested == Action.CANCEL else JobStatus.QUEUED)

    @rule(claim=claims)
    def fail_attempt(self, claim: tuple[str, int]) -> None:
        job = self.model[claim[0]]
        answer = self.store.fail_attempt(*claim, "died", MAX_CRASHES)
        if job.is_ours(claim[1]):
            assert answer == job.lose_attempt()
        else:
            same = {JobStatus.QUEUED: "requeued", JobStatus.FAILED: "failed", JobStatus.CANCELLED: "cancelled"}
            assert answer == (same.get(job.status, "fenced") if job.epochs[-1] == claim[1] else "fenced")

    @rule(claim=claims, status=st.sampled_from(sorted(TERMINAL)), stop_reason=st.sampled_from([None, "stopped"]))
    def finish(self, claim: tuple[str, int], status: TerminalStatus, stop_reason: str | None) -> None:
        job = self.model[claim[0]]
        already = job.status == status and job.epochs[-1] == claim[1]
        assert self.store.finish(*claim, status, stop_reason=stop_reason) == (job.is_ours(claim[1]) or already)
        if job.is_ours(claim[1]):
            job.become(status)
            job.stop_reason = stop_reason

    @rule(job_id=jobs, action=st.sampled_from(Action))
    def request(self, job_id: str, action: Action) -> None:
        job = self.model[job_id]
        took_effect = job.status == JobStatus.CANCELLED
        if action != Action.CANCEL:
            took_effect = job.status in {JobStatus.SUCCEEDED, JobStatus.CANCELLED} and job.stop_reason is not None
        asked_before = job.requested is not None and STRENGTH.index(job.requested) >= STRENGTH.index(action)
        allowed = took_effect or job.status == JobStatus.RUNNING
        allowed |= job.status == JobStatus.QUEUED and (action == Action.CANCEL or asked_before)
        try:
            self.store.request(job_id, action)
        except InvalidState:
            assert not allowed
            return
        assert allowed
        if job.status == JobStatus.QUEUED and action == Action.CANCEL:
            job.become(JobStatus.CANCELLED)
        elif job.status == JobStatus.RUNNING and not asked_before:
            job.requested = action

    @rule(owner=OWNERS)
    def lose_worker(self, owner: str) -> None:
        lost = sorted(job_id for job_id, job in self.model.items() if job.status == JobStatus.RUNNING and job.owner == owner)
        assert sorted(self.store.expire_owner(owner)) == lost
        for job_id in lost:
            self.model[job_id].is_lease_live = False

    @rule()
    def requeue_expired(self) -> None:
        expired = sorted(id_ for id_, job in self.model.items() if job.status == JobStatus.RUNNING and not job.is_lease_live)
        assert sorted(self.store.expired_leases()) == expired
        for job_id in expired:
            assert self.store.requeue_expired(job_id, MAX_CRASHES) == self.model[job_id].lose_attempt()

    @rule(job_id=jobs)
    def requeue_one(self, job_id: str) -> None:
        job = self.model[job_id]
        is_lost = job.status == JobStatus.RUNNING and not job.is_lease_live
        assert self.store.requeue_expired(job_id, MAX_CRASHES) == (job.lose_attempt() if is_lost else "held")

    @invariant()
    def records_agree(self) -> None:
        records = {record.id: record for record in self.store.list(limit=1000).records}
        assert set(records) == set(self.model)
        for job_id, job in self.model.items():
            record = records[job_id]
            assert (record.status, record.crashes, record.attempt) == (job.status, job.crashes, len(job.epochs))
            assert (record.requested_action, record.stop_reason) == (job.requested, job.stop_reason)
            assert (record.epoch, record.snapshot_count) == (job.epochs[-1] if job.epochs else 0, len(job.snapshots))
            assert [change["to"] for change in record.transitions] == job.changes[-100:]
            assert (record.phase is None) == (record.finished_at is not None) == (job.status in TERMINAL)
            assert (record.position is not None) == (job.status == JobStatus.QUEUED)
        counts = self.store.counts()
        assert counts == {status: sum(job.status == status for job in self.model.values()) for status in JobStatus}
        assert len(self.store.unannounced(0)) == counts[JobStatus.QUEUED]
        assert self.store.unfiled() == sorted(job_id for job_id, job in self.model.items() if job.status in TERMINAL)


@pytest.fixture
def machine(job_store: JobStore) -> Iterator[type[JobStoreMachine]]:
    JobStoreMachine.store = job_store
    yield JobStoreMachine
    del JobStoreMachine.store


def test_the_job_store_does_what_its_model_does(machine: type[JobStoreMachine]) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )
