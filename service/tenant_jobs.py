"""The job store as one tenant sees it: another tenant's jobs aren't there. Routes get nothing else.

Every public method of ``JobStore`` is one of three: it looks whose job it is about, it says nothing about any one job
(``ABOUT_NO_JOB``), or it belongs to workers and the reconciler, and a view refuses it (``FOR_WORKERS``). A test sorts them all.
"""

import builtins
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, Never

from worker.job_queries import Event, Metrics, Page
from worker.job_specs import JobSpec
from worker.job_store import JobMissing, JobStore, SubmitResult
from worker.jobs import DEFAULT_TENANT, Action, JobKind, JobRecord, JobStatus
from worker.redis_connection import translated_errors
from worker.run_queries import Standing

REMEMBERED_JOBS = 10_000

Json = dict[str, Any]

ABOUT_NO_JOB = frozenset(
    {
        "check_complete",
        "check_server",
        "counters",
        "delete_dataset_guard",  # about a dataset, whose owner TenantDatasets knows; it names the jobs of that owner
        "memory_ratio",
        "ping",
        "server_life",
        "workers",  # routes hide the jobs that they name
    }
)
"""Methods that a view has from the job store as they are."""

FOR_WORKERS = frozenset(
    {
        "acquire_leader",
        "beat",
        "begin_rebuild",
        "claim",
        "commit_snapshot",
        "doubt",
        "end_rebuild",
        "expire_owner",
        "expired_leases",
        "fail_attempt",
        "finish",
        "forget_dead_workers",
        "forget_worker",
        "mark_filed",
        "next_job",
        "register_worker",
        "release",
        "release_leader",
        "report",
        "requested_action",
        "requeue_expired",
        "reset_metrics",
        "restore",
        "seconds_run",
        "submission_of",
        "unannounced",
        "wait_events",
        "waiting",
    }
)
"""Methods that no request needs; those who do need them have no tenant."""


class TenantJobStore(JobStore):
    """The job store without the jobs of other tenants.

    Args:
        store: All jobs.
        tenant: Whose are seen.
    """

    def __init__(self, store: JobStore, tenant: str) -> None:
        super().__init__(store._redis, prefix=store._prefix)
        self.tenant = tenant
        self._own: OrderedDict[str, None] = OrderedDict()

    def get(self, job_id: str) -> JobRecord | None:
        """The job as it is now; None where there is none of this id."""
        record = super().get(job_id)
        if record is None:
            return None
        if record.tenant != self.tenant:
            self.check_complete()  # as for an unknown id
            return None
        self._own[job_id] = None
        while len(self._own) > REMEMBERED_JOBS:
            self._own.popitem(last=False)
        return record

    def list(
        self,
        *,
        tenant: str | None = None,
        status: JobStatus | None = None,
        kind: JobKind | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page:
        """A page of this tenant's jobs."""
        assert tenant in (None, self.tenant), "a view has one tenant"
        return super().list(tenant=self.tenant, status=status, kind=kind, after=after, before=before, limit=limit, order=order)

    def counts(self, *, tenant: str | None = None) -> dict[JobStatus, int]:
        """The number of this tenant's jobs in each state."""
        assert tenant in (None, self.tenant), "a view has one tenant"
        return super().counts(tenant=self.tenant)

    def num_queued(self, *, tenant: str | None = None) -> int:
        """The number of this tenant's jobs that wait."""
        assert tenant in (None, self.tenant), "a view has one tenant"
        return super().num_queued(tenant=self.tenant)

    def snapshots(self, job_id: str) -> builtins.list[Json]:
        """The manifests of the committed snapshots, in the order of their cycles."""
        return super().snapshots(job_id) if self._sees(job_id) else []

    def snapshot(self, snapshot_id: str) -> Json | None:
        """The manifest of a committed snapshot; None where there is none of this id."""
        manifest = super().snapshot(snapshot_id)
        return manifest if manifest is not None and self._sees(manifest["job_id"]) else None

    def metrics(self, job_id: str) -> Metrics:
        """The metric rows so far."""
        found = super().metrics(job_id)
        return found if self._sees(job_id) else Metrics(found.columns, [])

    def events(self, job_id: str, after: int = 0, limit: int = 100, types: Sequence[str] | None = None) -> builtins.list[Event]:
        """The first ``limit`` events with a number > ``after``."""
        return super().events(job_id, after, limit, types) if self._sees(job_id) else []

    def find_submission(self, idempotency_key: str, body_sha256: str, *, tenant: str | None = None) -> str | None:
        """The job that this key of the tenant's made before; None for a new key."""
        assert tenant in (None, self.tenant), "a view has one tenant"
        return super().find_submission(idempotency_key, body_sha256, tenant=self.tenant)

    def submit(self, spec: JobSpec, *, idempotency_key: str | None, body_sha256: str) -> SubmitResult:
        """Queues a job of this tenant's."""
        assert spec.tenant == self.tenant, "a view has one tenant"
        return super().submit(spec, idempotency_key=idempotency_key, body_sha256=body_sha256)

    def request(self, job_id: str, action: Action) -> JobRecord:
        """Asks a job to end or to pause."""
        self._check_sees(job_id)
        return super().request(job_id, action)

    def resume(self, job_id: str) -> JobRecord:
        """Queues a paused job again."""
        self._check_sees(job_id)
        return super().resume(job_id)

    def extend(
        self,
        job: JobRecord,
        cycles: int,
        *,
        config: Json,
        progress: Json,
        idempotency_key: str | None,
        body_sha256: str,
    ) -> bool:
        """Appends cycles to a training job."""
        self._check_sees(job.id)
        return super().extend(job, cycles, config=config, progress=progress, idempotency_key=idempotency_key, body_sha256=body_sha256)

    def amendments(self, job_id: str) -> builtins.list[str]:
        """What was changed about a job since it was accepted, as JSON."""
        self._check_sees(job_id)
        return super().amendments(job_id)

    def mark_amended(self, job_id: str, count: int) -> None:
        """Notes that the first ``count`` amendments of a job are in the artifact store."""
        self._check_sees(job_id)
        super().mark_amended(job_id, count)

    def begin_delete(self, job_id: str) -> None:
        """Marks a job that has ended for deletion."""
        self._check_sees(job_id)
        super().begin_delete(job_id)

    def delete(self, job_id: str) -> None:
        """Forgets a job that has ended."""
        self._check_sees(job_id)
        super().delete(job_id)

    def standing(self, job_ids: Sequence[str]) -> builtins.list[Standing | None]:
        """Where jobs stand; None for those that don't exist."""
        found = super().standing(job_ids)
        own = set(self._own_of([job_id for job_id, stands in zip(job_ids, found, strict=True) if stands is not None]))
        return [stands if job_id in own else None for job_id, stands in zip(job_ids, found, strict=True)]

    def note_runs(self, study_id: str, progress: Json, event: Json) -> bool:
        """Notes how far the runs of a waiting study are; False where it doesn't wait."""
        return self._sees(study_id) and super().note_runs(study_id, progress, event)

    def wake(self, job_id: str, reason: str) -> bool:
        """Queues a job that has waited for its own runs; False where it doesn't wait any more."""
        return self._sees(job_id) and super().wake(job_id, reason)

    def stray_runs(self) -> builtins.list[str]:
        """Runs of this tenant's that go on although their study has ended, or is gone."""
        return self._own_of(super().stray_runs())

    def unamended(self) -> builtins.list[str]:
        """Jobs of this tenant's of which it is not known that all their amendments are in the artifact store."""
        return self._own_of(super().unamended())

    def unfiled(self) -> builtins.list[str]:
        """Jobs of this tenant's that have ended, and of which it is not known that their result is in the artifact store."""
        return self._own_of(super().unfiled())

    def deleting(self) -> builtins.list[str]:
        """Jobs of this tenant's whose deletion has begun."""
        return self._own_of(super().deleting())

    def _check_sees(self, job_id: str) -> None:
        """Raises JobMissing for a job that isn't this tenant's."""
        if not self._sees(job_id):
            raise JobMissing(f"there is no job {job_id}")

    def _own_of(self, job_ids: Sequence[str]) -> builtins.list[str]:
        """Those of the jobs that are this tenant's, in one round trip."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hmget(self._key(job_id), ["id", "tenant"])
            found = pipeline.execute()
        owners = [None if found_id is None else tenant or DEFAULT_TENANT for found_id, tenant in found]
        return [job_id for job_id, owner in zip(job_ids, owners, strict=True) if owner == self.tenant]

    def _sees(self, job_id: str) -> bool:
        """Whether the job is this tenant's; whose it is never changes."""
        return job_id in self._own or self.get(job_id) is not None


def _refusal(name: str) -> Any:
    def refuse(self: TenantJobStore, *_: Any, **__: Any) -> Never:
        raise TypeError(f"{name} is for workers and the reconciler, and this is the view of tenant {self.tenant}: use the whole job store")

    return refuse


for _name in FOR_WORKERS:
    setattr(TenantJobStore, _name, _refusal(_name))
