"""The job store: every change of a job is one Lua script in Redis, so it happens as a whole or not at all.

A worker's right to change a job is its epoch, the fencing token of its claim: each script refuses one that is not the
latest. What users ask of jobs stands in ``worker.job_verbs``, what is read of them in ``worker.job_queries``, the scripts in
``worker/lua``, with their arguments and answers in their heads.

Exceptions: ``JobStoreError`` with ``StoreUnavailable``, ``JobMissing``, ``InvalidState``, ``IdempotencyMismatch``,
``DatasetGone``, ``DatasetInUse``, ``StudyOver``, ``RunInUse`` and ``ExtendedMeanwhile``. Every method may raise
``StoreUnavailable``, within about two seconds.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import orjson
import redis

from worker import redis_connection
from worker.fleet import Fleet
from worker.job_errors import (
    DatasetGone,
    DatasetInUse,
    ExtendedMeanwhile,
    IdempotencyMismatch,
    InvalidState,
    JobMissing,
    RunGoesOn,
    RunInUse,
    StudyOver,
)
from worker.job_queries import METRIC_COLUMNS, Event, Metrics, Page, job_record
from worker.job_specs import JobSpec
from worker.job_verbs import JobVerbs
from worker.jobs import DEFAULT_TENANT, IDEMPOTENCY_SECONDS, Action, JobKind, JobRecord, Phase, TerminalStatus, key_sha256
from worker.redis_connection import JobStoreError, StoreUnavailable
from worker.restoration import Restoration
from worker.results import end_reason, snapshot_event
from worker.run_queries import RunQueries
from worker.settings import Settings, required_redis_url

__all__ = [
    "METRIC_COLUMNS",
    "Beat",
    "Claim",
    "Commit",
    "DatasetGone",
    "DatasetInUse",
    "Event",
    "ExtendedMeanwhile",
    "IdempotencyMismatch",
    "InvalidState",
    "JobMissing",
    "JobStore",
    "JobStoreError",
    "Metrics",
    "Page",
    "Refused",
    "RunGoesOn",
    "RunInUse",
    "StoreUnavailable",
    "StudyOver",
    "SubmitResult",
    "connect",
]


@dataclass(frozen=True)
class SubmitResult:
    """The job that a submission made, now or, where ``replayed``, the first time it was sent; ``record`` is that job as it is now."""

    job_id: str
    replayed: bool
    record: JobRecord


@dataclass(frozen=True)
class Claim:
    """The right to run a job until someone claims a later epoch."""

    epoch: int


@dataclass(frozen=True)
class Refused:
    """Why a job cannot be claimed: another worker holds it, its own runs come first, it has ended, its crashes were too many (poison), …"""

    reason: Literal["held", "waiting", "cancelled", "done", "paused", "poison", "missing"]


@dataclass(frozen=True)
class Beat:
    """Whether the job is still this worker's, and what someone asked of it."""

    ours: bool
    requested_action: Action | None


class Commit(StrEnum):
    """What became of a snapshot's commit."""

    COMMITTED = "committed"
    """It is visible now."""
    ALREADY = "already"
    """Its cycle had been committed before."""
    FENCED = "fenced"
    """The job belongs to a later epoch."""


LostAttempt = Literal["requeued", "failed", "cancelled", "paused", "fenced", "held"]

EXTENDED = 2
"""FINISH's answer where the job has got more cycles meanwhile."""


def connect(settings: Settings) -> redis.Redis:
    """A client of the configured server; it connects when it is first used.

    Raises:
        ValueError: No server is configured.
    """
    return redis_connection.connect(required_redis_url(settings))


class JobStore(JobVerbs, RunQueries, Fleet, Restoration):
    """The jobs and workers of one service."""

    def find_submission(self, idempotency_key: str, body_sha256: str, *, tenant: str = DEFAULT_TENANT) -> str | None:
        """The job that this key of the tenant's made before; None for a new key. Saves preparing a job that exists.

        Raises:
            IdempotencyMismatch: The body was another one.
        """
        result, job_id = self._scripts.run("find_submission", tenant, key_sha256(idempotency_key), body_sha256)
        if result == "mismatch":
            raise IdempotencyMismatch(job_id)
        return job_id or None

    def submit(self, spec: JobSpec, *, idempotency_key: str | None, body_sha256: str) -> SubmitResult:
        """Queues a job whose spec is stored; the same key and body make no second one for 24 hours.

        Raises:
            IdempotencyMismatch: The key was used with another body.
            DatasetGone: The dataset was deleted meanwhile.
            StudyOver: The study whose run it is waits for none.
        """
        key = key_sha256(idempotency_key) if idempotency_key else ""
        study = spec.parent_id or "" if spec.kind is JobKind.TRAIN else ""
        heads = (spec.id, spec.kind, spec.dataset_id, key, body_sha256, IDEMPOTENCY_SECONDS, int(spec.waits_for_runs), study, spec.tenant)
        result, answer, *record = self._scripts.run("submit", *heads, *_flat(spec.record_fields()))
        if result == "mismatch":
            raise IdempotencyMismatch(answer)
        if result == "dataset_gone":
            raise DatasetGone(f"dataset {spec.dataset_id} was deleted: choose another one")
        if result == "study_over":
            raise StudyOver(f"study {answer} has ended: its runs are not needed any more")
        return SubmitResult(answer, replayed=result == "replayed", record=job_record(*record[0]))

    def wake(self, job_id: str, reason: str) -> bool:
        """Queues a job that has waited for its own runs; False where it doesn't wait any more. Publish its message then."""
        return bool(self._scripts.run("wake", job_id, reason))

    def next_job(self) -> str | None:
        """The job that a worker is to claim: by priority, then the tenants in turn, then arrival; None where nothing waits."""
        found: str | None = self._scripts.run("next_job")
        return found

    def claim(self, job_id: str, owner: str, lease_ms: int, max_crashes: int) -> Claim | Refused:
        """Takes a job that waits, or one whose worker has been silent for longer than its lease (which counts as a crash)."""
        epoch, reason = self._scripts.run("claim", job_id, owner, lease_ms, max_crashes, secrets.token_hex(8))
        return Claim(epoch) if reason == "ok" else Refused(reason)

    def beat(self, job_id: str, epoch: int, lease_ms: int, progress: dict[str, Any] | None = None) -> Beat:
        """Renews the lease and notes the progress."""
        ours, requested = self._scripts.run("beat", job_id, epoch, lease_ms, _json(progress) if progress else "")
        return Beat(bool(ours), Action(requested) if requested else None)

    def report(
        self,
        job_id: str,
        epoch: int,
        *,
        progress: dict[str, Any] | None = None,
        event: tuple[str, dict[str, Any]] | None = None,
        phase: Phase | None = None,
        metrics_rows: Sequence[Sequence[float | None]] = (),
        resolved_config: dict[str, Any] | None = None,
        training_started: bool = False,
        checkpoint_step: int | None = None,
    ) -> bool:
        """Notes what has become of a running job; False where it is no longer this worker's.

        Args:
            job_id: The job.
            epoch: The claim's epoch.
            progress: Replaces the record's progress.
            event: Type and data of an event to append, after that of a new phase, unless it is the last one once more.
            phase: The phase from now on; a change appends a ``state`` event.
            metrics_rows: Rows of METRIC_COLUMNS to append, by ascending step.
            resolved_config: Replaces the record's config.
            training_started: The first optimizer step is done.
            checkpoint_step: A checkpoint of this step was committed; a later one than before ends the count of crashes.
        """
        fields = {name: _json(value) for name, value in (("progress", progress), ("config", resolved_config)) if value is not None}
        event_type, data = (event[0], _json(event[1])) if event else ("", "")
        rows = [_json(row) for row in metrics_rows]
        step = "" if checkpoint_step is None else checkpoint_step
        heads = (job_id, epoch, phase or "", event_type, data, int(training_started), step, len(rows))
        return bool(self._scripts.run("report", *heads, *rows, *_flat(fields)))

    def reset_metrics(self, job_id: str, epoch: int, rows: Sequence[Sequence[float | None]]) -> bool:
        """Replaces the metric rows by those of the checkpoint that the job resumes from; False where it is not ours."""
        return bool(self._scripts.run("reset_metrics", job_id, epoch, *map(_json, rows)))

    def commit_snapshot(self, job_id: str, epoch: int, cycle: int, manifest: dict[str, Any], best: dict[str, Any] | None = None) -> Commit:
        """Makes a snapshot that is durably stored visible, and ends the count of crashes.

        Args:
            job_id: The job.
            epoch: The claim's epoch.
            cycle: The cycle that it ends, from 0.
            manifest: The public snapshot object with its files.
            best: The best snapshot so far: cycle and metrics.
        """
        documents = (_json(manifest), _json(snapshot_event(manifest)), _json(best) if best else "")
        return Commit(self._scripts.run("commit_snapshot", job_id, epoch, cycle, *documents))

    def release(self, job_id: str, epoch: int, reason: str) -> bool:
        """Gives a job back after a clean checkpoint, without counting a crash: it is queued, or paused or cancelled where that was asked.

        False where it is not ours.
        """
        return bool(self._scripts.run("release", job_id, epoch, reason))

    def finish(
        self,
        job_id: str,
        epoch: int,
        status: TerminalStatus,
        *,
        error: dict[str, Any] | None = None,
        stop_reason: str | None = None,
        extensions: int | None = None,
    ) -> bool:
        """Ends a job whose result is stored; False where it is not ours.

        Args:
            job_id: The job.
            epoch: The claim's epoch.
            status: How it ended.
            error: category, message and suggestion of a failure.
            stop_reason: Why it succeeded before its planned end.
            extensions: How many the result counts; None for jobs that are never extended.

        Raises:
            ExtendedMeanwhile: The job has got more cycles.
        """
        reason = end_reason(status, error, stop_reason)
        counted = "" if extensions is None else extensions
        answer = self._scripts.run("finish", job_id, epoch, status, reason, _json(error) if error else "", stop_reason or "", counted)
        if answer == EXTENDED:
            raise ExtendedMeanwhile(f"{job_id} was extended while its end was being recorded")
        return bool(answer)

    def fail_attempt(self, job_id: str, epoch: int, reason: str, max_crashes: int) -> LostAttempt:
        """Counts a crash of the trainer: the job waits again, has failed for good, or is cancelled or paused where that was asked."""
        outcome: LostAttempt = self._scripts.run("fail_attempt", job_id, epoch, max_crashes, reason)
        return outcome


def _json(value: object) -> str:
    """JSON without spaces; NaN and infinities become null."""
    return orjson.dumps(value).decode()


def _flat(fields: dict[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]
