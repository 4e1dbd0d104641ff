"""From the body of ``POST /v1/jobs`` to a durable job. Everything is checked before anything is made."""

import logging
from dataclasses import dataclass
from typing import Any, assert_never

from service.checked_jobs import CheckedJob, Submission, allowed_seconds
from service.dependencies import Services
from service.errors import invalid
from service.evaluate_submission import check_evaluation
from service.idempotency import body_hash
from service.json_bodies import validated
from service.quotas import check_queue_quota
from service.range_test_submission import check_range_test
from service.study_submission import check_study
from service.train_submission import check_training
from service.validation import FieldError, shown, similar
from worker.artifacts import ArtifactError
from worker.failpoints import failpoint
from worker.job_requests import REQUESTS, EvaluateJobRequest, JobRequest, RangeTestJobRequest, StudyJobRequest, TrainJobRequest
from worker.job_store import DatasetGone, IdempotencyMismatch, JobStore, StoreUnavailable
from worker.jobs import JobKind, JobRecord
from worker.records import job_prefix, spec_key, write_document
from worker.studies import advance_study, cancel_stray_runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """A durable job, and whether an earlier request with the same key had made it."""

    record: JobRecord
    replayed: bool


def read_request(document: Any) -> JobRequest:
    """The body as the request of its kind; one without ``kind`` is a training job's.

    Raises:
        Problem: It is none.
    """
    kind = document.get("kind", "train") if isinstance(document, dict) else "train"
    model = REQUESTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        meant = similar(kind, REQUESTS) if isinstance(kind, str) else ()
        raise invalid([FieldError(f"unknown: {shown(kind)}", pointer="#/kind", hint=f"one of: {', '.join(REQUESTS)}", did_you_mean=meant)])
    return validated(model, document)


def check_job(services: Services, request: JobRequest) -> CheckedJob:
    """Everything that can be known before the job runs.

    Raises:
        Problem, ScheduleError, ModelError: What is wrong.
    """
    match request:
        case TrainJobRequest():
            return check_training(services, request)
        case RangeTestJobRequest():
            return check_range_test(services, request)
        case StudyJobRequest():
            return check_study(services, request)
        case EvaluateJobRequest():
            return check_evaluation(services, request)
        case _:
            assert_never(request)


def submit_job(services: Services, store: JobStore, document: Any, key: str | None) -> Submitted:
    """Makes the job durable: its spec in the artifact store, then its record in Redis.

    When the answer of Redis is lost the spec stays, since the job may exist. Without a record nothing reads it, until Redis has to be
    rebuilt from the artifact store: then it becomes a job, which a repeated request with its key finds.

    Raises:
        Problem, ScheduleError, ModelError: The request cannot be carried out.
        IdempotencyMismatch, DatasetGone, StoreUnavailable: As ``JobStore.submit``.
    """
    request = read_request(document)
    body_sha256 = body_hash(document)
    known = store.find_submission(key, body_sha256, tenant=services.tenant) if key is not None else None
    if known is not None and (record := store.get(known)) is not None:
        return Submitted(record, replayed=True)
    services.memory.check()
    spec = check_job(services, request).spec(
        Submission(key, body_sha256, services.tenant, request.priority, allowed_seconds(services, request))
    )
    check_queue_quota(services, store)  # finds a server, too, that is away, or whose jobs are being read back, before the spec is written
    failpoint("submit.checked")
    write_document(services.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    failpoint("submit.spec_stored")
    try:
        result = store.submit(spec, idempotency_key=key, body_sha256=body_sha256)
    except (IdempotencyMismatch, DatasetGone):
        services.artifacts.delete_prefix(job_prefix(spec.id))
        raise
    failpoint("submit.recorded")
    if result.replayed:
        services.artifacts.delete_prefix(job_prefix(spec.id))
    return Submitted(result.record, result.replayed)


def announce(services: Services, record: JobRecord) -> None:
    """Has a new job taken up soon: tells the workers, or makes the runs of a study. What fails here the reconciler repeats."""
    if record.kind is not JobKind.STUDY:
        services.publish(record.id)
        return
    try:
        advance_study(services.store, services.artifacts, services.publish, record.id)
    except (StoreUnavailable, ArtifactError) as error:
        logger.warning("study %s: its runs will be made later: %s", record.id, error)


def end_runs(store: JobStore, study_id: str) -> None:
    """Ends the runs of a study that was cancelled. What fails here the reconciler repeats."""
    try:
        cancel_stray_runs(store)
    except StoreUnavailable as error:
        logger.warning("study %s: its runs will be cancelled later: %s", study_id, error)
