"""``POST /v1/jobs/{id}/extend``: more cycles for a training job, checked before anything changes."""

from typing import Any

from clr.extension import ExtensionError
from service.dependencies import Services
from service.errors import Problem, invalid_field
from service.idempotency import body_hash
from worker.amendments import amended, list_amendments, with_cycles
from worker.failpoints import failpoint
from worker.job_specs import TrainSpec
from worker.job_store import ExtendedMeanwhile, InvalidState, JobMissing, JobStore
from worker.jobs import JobKind, JobRecord, JobStatus, allowed_actions
from worker.stored_specs import stored_spec

Json = dict[str, Any]

TRIES = 5
"""Each is lost only to another request that has extended the job meanwhile."""


def extend_job(services: Services, store: JobStore, job_id: str, cycles: int, key: str | None) -> bool:
    """Appends cycles to a job; returns whether an earlier request with the same key has done it.

    Raises:
        Problem: There is no such job, or it cannot have so many cycles more.
        IdempotencyMismatch, StoreUnavailable: As ``JobStore.extend``.
    """
    body_sha256 = body_hash({"extend": job_id, "cycles": cycles})
    for _ in range(TRIES):
        record = store.get(job_id)
        if record is None:
            raise JobMissing(f"there is no job {job_id}")
        if key is not None and store.find_submission(key, body_sha256, tenant=record.tenant) is not None:
            return True
        _check(record)
        spec = _longer_spec(services, store, record, cycles)
        failpoint("extend.checked")
        try:
            return store.extend(
                record,
                cycles,
                config=record.config | {"schedule": record.config["schedule"] | _length(spec)},
                progress=_progress(record, spec),
                idempotency_key=key,
                body_sha256=body_sha256,
            )
        except ExtendedMeanwhile:
            continue
    raise Problem("overloaded", f"{job_id} is being extended by others: repeat the request", headers={"Retry-After": "1"})


def _check(record: JobRecord) -> None:
    """Refuses jobs that no extension fits; in which state a job must be the store says."""
    if record.kind is not JobKind.TRAIN:
        raise _refusal(record, f"only train jobs have cycles to add to, it is of kind {record.kind}: submit a new job")
    if record.parent_id is not None:
        raise _refusal(record, f"it is a run of the study {record.parent_id}, whose budgets are compared: submit a train job of its own")
    if record.status is JobStatus.SUCCEEDED and record.stop_reason is not None:
        raise _refusal(record, "it was stopped before its planned end, in the middle of a cycle perhaps: submit a new job with more cycles")
    if record.status not in (JobStatus.SUCCEEDED, JobStatus.RUNNING):
        raise InvalidState(record, "extend")


def _longer_spec(services: Services, store: JobStore, record: JobRecord, cycles: int) -> TrainSpec:
    """The job's spec with the new cycles."""
    spec = amended(stored_spec(services.artifacts, record.id), list_amendments(store, record.id))
    assert isinstance(spec, TrainSpec), "the kind of a job never changes"
    try:
        return with_cycles(spec, cycles)
    except ExtensionError as error:
        raise _refusal(record, str(error)) from error
    except ValueError as error:
        raise invalid_field(str(error), pointer="#/cycles") from error


def _length(spec: TrainSpec) -> Json:
    """The fields of the schedule that an extension changes."""
    return spec.config.schedule.model_dump(mode="json", include={"cycles", "epochs", "epochs_per_cycle"})


def _progress(record: JobRecord, spec: TrainSpec) -> Json:
    """The job's progress on the longer way."""
    step = record.progress["step"]
    length = {"cycles": spec.num_cycles, "epochs": spec.epochs, "steps": spec.num_steps}
    return record.progress | length | {"fraction": step / spec.num_steps if spec.num_steps else 0.0, "eta_seconds": None}


def _refusal(record: JobRecord, reason: str) -> Problem:
    allowed = [action for action in allowed_actions(record) if action != "extend"]
    return Problem("invalid_state", f"{record.id} cannot be extended: {reason}", extra={"allowed_actions": allowed})
