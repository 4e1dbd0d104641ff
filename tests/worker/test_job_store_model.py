"""The job store against a model of a few pages: hypothesis makes up the history, both must agree after every step (F16).

``make model`` runs it for longer; MODEL_EXAMPLES and MODEL_STEPS say how long.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from clr.config import TrainingConfig
from tests.job_stores import complete_store
from tests.worker.job_model import LEGAL, Job, arrival_of, manifest, result
from tests.worker.queue_model import QueueModel
from worker.amendments import list_amendments
from worker.ids import new_id
from worker.job_specs import TrainSpec
from worker.job_store import Claim, Commit, ExtendedMeanwhile, IdempotencyMismatch, InvalidState, JobStore, Refused
from worker.jobs import TERMINAL, Action, JobRecord, JobStatus, Priority, TerminalStatus, key_sha256, now_rfc3339
from worker.restoration import StoredJob

MAX_CRASHES = 3
STRENGTH = list(Action)
OWNERS = st.sampled_from(["worker-1", "worker-2"])
TENANTS = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from([None, None, "k1", "k2"])
EXAMPLES, STEPS = int(os.environ.get("MODEL_EXAMPLES", "25")), int(os.environ.get("MODEL_STEPS", "40"))


class JobStoreMachine(RuleBasedStateMachine):
    store: JobStore
    claims: Bundle[tuple[str, int]] = Bundle("claims")
    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Job] = {}
        self.queue = QueueModel()
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        for job in self.store.list(limit=1000).records:
            raise AssertionError(f"{job.id} is left of an earlier run")

    def teardown(self) -> None:
        for job_id, job in self.model.items():
            events = self.store.events(job_id, limit=10_000)
            assert [event.seq - events[0].seq for event in events] == list(range(len(events)))
            assert (events[-1].type == "end") == (job.status in TERMINAL)
            if job.status in TERMINAL:
                assert events[-1].data["status"] == job.status
        self.store._redis.flushall()
        complete_store(self.store._redis)

    def become(self, job_id: str, status: JobStatus, *, at_the_end: bool = False) -> None:
        job = self.model[job_id]
        assert status in LEGAL[job.status]
        self.queue.leave(job_id, is_claimed=status == JobStatus.RUNNING)
        job.status = status
        job.changes.append(status)
        if status in TERMINAL:
            job.requested = None
        if status == JobStatus.PAUSED:
            job.requested, job.is_resumed = None, False
        if status == JobStatus.QUEUED:
            self.queue.join(job_id, at_the_end=at_the_end)

    def give_back(self, job_id: str) -> str:
        """What becomes of a job that a worker returns."""
        match self.model[job_id].requested:
            case Action.CANCEL:
                self.become(job_id, JobStatus.CANCELLED)
                return "cancelled"
            case Action.PAUSE:
                self.become(job_id, JobStatus.PAUSED)
                return "paused"
            case _:
                self.become(job_id, JobStatus.QUEUED)
                return "requeued"

    def lose_attempt(self, job_id: str) -> str:
        job = self.model[job_id]
        job.crashes += 1
        if job.crashes >= MAX_CRASHES and job.requested != Action.CANCEL:
            self.become(job_id, JobStatus.FAILED)
            return "failed"
        return self.give_back(job_id)

    @rule(target=jobs, tenant=TENANTS, priority=st.sampled_from(Priority), key=KEYS, body=st.sampled_from(["x", "x", "y"]))
    def submit(self, tenant: str, priority: Priority, key: str | None, body: str) -> str | MultipleResults[str]:
        spec = TrainSpec(
            id=new_id("job"),
            name=None,
            dataset_id="ds_1",
            metadata={},
            config=TrainingConfig(),
            created_at=now_rfc3339(),
            tenant=tenant,
            priority=priority,
            idempotency_key_sha256=key_sha256(key) if key else None,
            body_sha256=body,
            num_steps=10,
            num_cycles=2,
            epochs=1.0,
            steps_per_epoch=10,
        )
        known = self.keys.get((tenant, key)) if key else None
        if known is not None and known[1] != body:
            with pytest.raises(IdempotencyMismatch, match=known[0]):
                self.store.submit(spec, idempotency_key=key, body_sha256=body)
            return multiple()
        made = self.store.submit(spec, idempotency_key=key, body_sha256=body)
        assert made.replayed == (known is not None)  # I1: a job for each accepted request, and no other
        if known is not None:
            assert made.job_id == known[0]
            return multiple()
        if key:
            self.keys[tenant, key] = (spec.id, body)
        self.model[spec.id] = Job(spec)
        self.queue.homes[spec.id] = (priority, tenant)
        self.queue.join(spec.id)
        return spec.id

    @rule(target=claims, owner=OWNERS)
    def claim_next(self, owner: str) -> tuple[str, int] | MultipleResults[tuple[str, int]]:
        job_id = self.store.next_job()
        assert job_id == next(iter(self.queue.order()), None)
        return multiple() if job_id is None else self.claim(job_id, owner)

    @rule(target=claims, job_id=jobs, owner=OWNERS)
    def claim_one(self, job_id: str, owner: str) -> tuple[str, int] | MultipleResults[tuple[str, int]]:
        return self.claim(job_id, owner)

    def claim(self, job_id: str, owner: str) -> tuple[str, int] | MultipleResults[tuple[str, int]]:
        answer = self.store.claim(job_id, owner, 3_600_000, MAX_CRASHES)
        job = self.model[job_id]
        if job.status in (JobStatus.CANCELLED, JobStatus.PAUSED):
            assert answer == Refused("cancelled" if job.status == JobStatus.CANCELLED else "paused")
        elif job.status in TERMINAL:
            assert answer == Refused("done")
        elif job.status == JobStatus.RUNNING and job.is_lease_live:
            assert answer == Refused("held")
        elif job.status == JobStatus.RUNNING and (outcome := self.lose_attempt(job_id)) != "requeued":
            assert answer == Refused("poison" if outcome == "failed" else "paused" if outcome == "paused" else "cancelled")
        else:
            assert isinstance(answer, Claim)
            assert answer.epoch > job.highest_epoch  # I2: also across a lost database
            job.highest_epoch = answer.epoch
            job.epochs.append(answer.epoch)
            job.owner, job.is_lease_live = owner, True
            self.become(job_id, JobStatus.RUNNING)
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
        assert self.store.reset_metrics(*claim, []) == ours
        if ours and step > job.checkpoint_step:
            job.checkpoint_step, job.crashes = step, 0

    @rule(claim=claims, cycle=st.integers(0, 2))
    def commit(self, claim: tuple[str, int], cycle: int) -> None:
        job = self.model[claim[0]]
        answer = self.store.commit_snapshot(*claim, cycle, manifest(cycle))
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
        already = job.status in (JobStatus.QUEUED, JobStatus.PAUSED) and job.was_latest(claim[1])
        assert self.store.release(*claim, "drained") == (job.is_ours(claim[1]) or already)
        if job.is_ours(claim[1]):
            self.give_back(claim[0])

    @rule(claim=claims)
    def fail_attempt(self, claim: tuple[str, int]) -> None:
        job = self.model[claim[0]]
        answer = self.store.fail_attempt(*claim, "died", MAX_CRASHES)
        if job.is_ours(claim[1]):
            assert answer == self.lose_attempt(claim[0])
        else:
            same = {JobStatus.QUEUED: "requeued", JobStatus.PAUSED: "paused", JobStatus.FAILED: "failed", JobStatus.CANCELLED: "cancelled"}
            assert answer == (same.get(job.status, "fenced") if job.was_latest(claim[1]) else "fenced")

    @rule(
        claim=claims,
        status=st.sampled_from([*sorted(TERMINAL), JobStatus.SUCCEEDED]),
        stop_reason=st.sampled_from([None, "stopped"]),
        counted=st.sampled_from([0, 0, 1]),
    )
    def finish(self, claim: tuple[str, int], status: TerminalStatus, stop_reason: str | None, counted: int) -> None:
        job = self.model[claim[0]]
        already = job.status == status and job.was_latest(claim[1])
        extensions = job.extensions - min(counted, job.extensions)
        try:
            answer = self.store.finish(*claim, status, stop_reason=stop_reason, extensions=extensions)
        except ExtendedMeanwhile:
            assert job.is_ours(claim[1])
            assert extensions < job.extensions
            return
        assert answer == (job.is_ours(claim[1]) or already)
        if job.is_ours(claim[1]):
            assert extensions == job.extensions
            self.become(claim[0], status)
            job.stop_reason = stop_reason

    @rule(job_id=jobs, action=st.sampled_from(Action))
    def request(self, job_id: str, action: Action) -> None:
        job = self.model[job_id]
        is_stop = action in (Action.STOP_NOW, Action.STOP_CYCLE_END)
        took_effect = job.status == JobStatus.CANCELLED and action == Action.CANCEL
        took_effect |= is_stop and job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED) and job.stop_reason is not None
        asked_before = job.requested is not None and STRENGTH.index(job.requested) >= STRENGTH.index(action)
        allowed = took_effect or asked_before or job.status in (JobStatus.RUNNING, JobStatus.PAUSED)
        allowed |= job.status == JobStatus.QUEUED and not is_stop
        try:
            self.store.request(job_id, action)
        except InvalidState:
            assert not allowed
            return
        assert allowed
        if took_effect or asked_before or (job.status == JobStatus.PAUSED and action == Action.PAUSE):
            return
        if job.status == JobStatus.RUNNING:
            job.requested = action
        elif action == Action.CANCEL:
            self.become(job_id, JobStatus.CANCELLED)
        elif action == Action.PAUSE:
            self.become(job_id, JobStatus.PAUSED)
        else:
            self.become(job_id, JobStatus.QUEUED, at_the_end=True)
            job.requested, job.is_resumed = action, True

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        job = self.model[job_id]
        try:
            self.store.resume(job_id)
        except InvalidState:
            assert job.status in TERMINAL or (job.status != JobStatus.PAUSED and not job.is_resumed)
            return
        assert job.status not in TERMINAL
        if job.status == JobStatus.PAUSED:
            self.become(job_id, JobStatus.QUEUED, at_the_end=True)
            job.is_resumed = True

    @rule(job_id=jobs, key=KEYS)
    def extend(self, job_id: str, key: str | None) -> None:
        job = self.model[job_id]
        record, body = self.record(job_id), f"extend {job_id}"
        known = self.keys.get((job.spec.tenant, key)) if key else None
        try:
            replayed = self.store.extend(record, 1, config=record.config, progress=record.progress, idempotency_key=key, body_sha256=body)
        except IdempotencyMismatch:
            assert known not in (None, (job_id, body))
            return
        except InvalidState:
            assert not job.is_extensible
            return
        assert replayed == (known is not None)
        if replayed:
            return
        assert job.is_extensible
        job.extensions += 1
        if key:
            self.keys[job.spec.tenant, key] = (job_id, body)
        if job.status == JobStatus.SUCCEEDED:
            self.become(job_id, JobStatus.QUEUED, at_the_end=True)
            job.crashes = 0

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
            assert self.store.requeue_expired(job_id, MAX_CRASHES) == self.lose_attempt(job_id)

    @rule(job_id=jobs)
    def requeue_one(self, job_id: str) -> None:
        job = self.model[job_id]
        is_lost = job.status == JobStatus.RUNNING and not job.is_lease_live
        assert self.store.requeue_expired(job_id, MAX_CRASHES) == (self.lose_attempt(job_id) if is_lost else "held")

    @rule()
    def wipe_and_restore(self) -> None:
        """The database is lost; what the artifact store has comes back, and no epoch is used twice."""
        amendments = {job_id: list_amendments(self.store, job_id) for job_id in self.model}
        results = {job_id: result(self.record(job_id)) for job_id, job in self.model.items() if job.status in TERMINAL}
        self.store._redis.flushall()
        token = self.store.begin_rebuild()
        assert token is not None
        self.queue.lose()
        for job_id, job in sorted(self.model.items()):
            manifests = [manifest(cycle) for cycle in sorted(job.snapshots)]
            stored = StoredJob(job.spec, results.get(job_id), manifests, max(job.checkpoint_step, 0), amendments=amendments[job_id])
            assert self.store.restore(token, stored) == "restored"
            self.restored(job_id, arrival_of(job, amendments[job_id]))
        assert self.store.end_rebuild(token)

    def restored(self, job_id: str, arrival: int) -> None:
        """What the model knows of a job after the database was lost."""
        job = self.model[job_id]
        job.epochs, job.crashes, job.checkpoint_step = [], 0, -1
        job.requested, job.owner, job.is_lease_live = None, None, False
        job.status = JobStatus.QUEUED if job.status == JobStatus.RUNNING else job.status
        job.changes = [JobStatus.QUEUED, *([job.status] if job.status != JobStatus.QUEUED else [])]
        if job.status == JobStatus.QUEUED:
            self.queue.arrivals[job_id] = (arrival, job_id)
            self.queue.join(job_id)

    def record(self, job_id: str) -> JobRecord:
        record = self.store.get(job_id)
        assert record is not None
        return record

    @invariant()
    def records_agree(self) -> None:
        records = {record.id: record for record in self.store.list(limit=1000).records}
        assert set(records) == set(self.model)
        order = self.queue.order()
        for job_id, job in self.model.items():
            record = records[job_id]
            assert (record.status, record.requested_action, record.stop_reason) == (job.status, job.requested, job.stop_reason)
            if job.epochs:  # of a lost record no more comes back than has to
                assert (record.crashes, record.attempt, record.epoch) == (job.crashes, len(job.epochs), job.epochs[-1])
            assert (record.snapshot_count, record.extensions) == (len(job.snapshots), job.extensions)
            assert [change["to"] for change in record.transitions][-len(job.changes) :] == job.changes[-100:]
            assert (record.phase is None) == (record.finished_at is not None) == (job.status in TERMINAL)
            assert record.position == (order.index(job_id) + 1 if job.status == JobStatus.QUEUED else None)
        for tenant in ("a", "b"):
            mine = [record.id for record in records.values() if record.tenant == tenant]
            assert sorted(record.id for record in self.store.list(tenant=tenant, limit=1000).records) == sorted(mine)
        counts = self.store.counts()
        assert counts == {status: sum(job.status == status for job in self.model.values()) for status in JobStatus}
        assert len(self.store.unannounced(0)) == counts[JobStatus.QUEUED]


@pytest.fixture
def machine(job_store: JobStore) -> Iterator[type[JobStoreMachine]]:
    JobStoreMachine.store = job_store
    yield JobStoreMachine
    del JobStoreMachine.store


@pytest.mark.timeout(36_000)
def test_the_job_store_does_what_its_model_does(machine: type[JobStoreMachine]) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    profile = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=profile)
