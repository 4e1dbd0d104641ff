"""From the body of ``POST /v1/jobs`` to a durable job. Everything is checked before anything is made."""

from dataclasses import dataclass
from typing import Any

from clr.config import TrainingConfig
from clr.datasets import Dataset, DatasetError, class_counts
from clr.schedule_linter import lint_schedule
from clr.training import Plan, resolve, run_plan
from service.dependencies import Services
from service.errors import invalid_field
from service.idempotency import Made, body_hash
from service.json_bodies import validated
from service.validation import shown
from worker.ids import new_id
from worker.job_store import DatasetGone, IdempotencyMismatch, JobStore
from worker.jobs import JobSpec, TrainJobRequest, key_sha256, now_rfc3339
from worker.records import job_prefix, spec_key, write_document

FEW_ROWS = 10
"""A class with fewer training rows gets a warning: hardly any of them is left for validation."""

Json = dict[str, Any]


@dataclass(frozen=True)
class CheckedJob:
    """A request that can be carried out, with its run laid out."""

    request: TrainJobRequest
    dataset: Dataset
    plan: Plan

    @property
    def config(self) -> TrainingConfig:
        """What will run, as far as it is settled before a worker has the job: "auto" stays where its device decides."""
        config = self.request.training_config()
        return config.model_copy(update={"augmentation": resolve(config, "cpu").augmentation})


def check_job(services: Services, request: TrainJobRequest) -> CheckedJob:
    """Everything that can be known before training: whether dataset, split, schedule and model fit together.

    Raises:
        Problem, ScheduleError, ModelError: What is wrong.
    """
    dataset = services.datasets.load(request.dataset_id)
    if dataset is None:
        raise invalid_field(
            f"there is no dataset {shown(request.dataset_id)}", pointer="#/dataset_id", hint="GET /v1/datasets lists them; POST makes one"
        )
    try:
        plan = run_plan(request.training_config(), dataset)
    except DatasetError as error:
        raise invalid_field(str(error), pointer=error.pointer or "#/dataset_id") from error
    return CheckedJob(request, dataset, plan)


def submit_job(services: Services, store: JobStore, document: Any, key: str | None) -> Made:
    """Makes the job durable: its spec in the artifact store, then its record in Redis.

    When the answer of Redis is lost the spec stays, since the job may exist. Without a record nothing reads it, until Redis has to be
    rebuilt from the artifact store: then it becomes a job, which a repeated request with its key finds.

    Raises:
        Problem, ScheduleError, ModelError: The request cannot be carried out.
        IdempotencyMismatch, DatasetGone, StoreUnavailable: As ``JobStore.submit``.
    """
    request = validated(TrainJobRequest, document)
    body_sha256 = body_hash(document)
    if key is not None and (known := store.find_submission(key, body_sha256)) is not None:
        return Made(known, replayed=True)
    spec = _spec(check_job(services, request), key, body_sha256)
    store.check_complete()  # finds a server that is away, or whose jobs are being read back, before the spec is written
    write_document(services.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    try:
        result = store.submit(spec, idempotency_key=key, body_sha256=body_sha256)
    except (IdempotencyMismatch, DatasetGone):
        services.artifacts.delete_prefix(job_prefix(spec.id))
        raise
    if result.replayed:
        services.artifacts.delete_prefix(job_prefix(spec.id))
    return Made(result.job_id, replayed=result.replayed)


def _spec(checked: CheckedJob, key: str | None, body_sha256: str) -> JobSpec:
    request, plan = checked.request, checked.plan
    return JobSpec(
        id=new_id("job"),
        name=request.name,
        dataset_id=request.dataset_id,
        metadata=request.metadata,
        config=checked.config,
        created_at=now_rfc3339(),
        num_steps=plan.schedule.num_steps,
        num_cycles=plan.schedule.num_cycles,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        idempotency_key_sha256=key_sha256(key) if key is not None else None,
        body_sha256=body_sha256,
    )


def estimate(plan: Plan) -> Json:
    """What is known of a run's size; times are not, before similar jobs have been measured."""
    return {
        "parameters": plan.num_parameters,
        "steps": plan.schedule.num_steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "epochs": plan.epochs,
        "snapshots": plan.schedule.num_cycles,
        "snapshot_bytes": 4 * plan.num_parameters,
        "train_rows": plan.num_train_rows,
        "validation_rows": plan.num_validation,
        "test_rows": plan.num_test,
    }


def notes(checked: CheckedJob) -> list[str]:
    """What is decided only when a worker takes the job."""
    if checked.config.precision != "auto":
        return []
    return ["precision auto depends on the worker's device: bf16 on a GPU that computes in it, fp32 elsewhere"]


def warnings(checked: CheckedJob) -> list[str]:
    """What is allowed but probably not meant."""
    plan = checked.plan
    found = lint_schedule(checked.request.schedule, plan.schedule, steps_per_epoch=plan.steps_per_epoch)
    counts = zip(checked.dataset.class_names, class_counts(checked.dataset), strict=True) if checked.dataset.class_names else ()
    rare = [(name, rows) for name, rows in counts if rows < FEW_ROWS]
    found += [f"class {shown(name)} has only {rows} rows" for name, rows in rare[:10]]
    if len(rare) > 10:
        found.append(f"{len(rare) - 10} more classes have fewer than {FEW_ROWS} rows")
    return found
