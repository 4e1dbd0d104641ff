"""``"max_lr": {"from_job": "job_…"}``: what an earlier range test suggests, looked up when a job is submitted."""

from dataclasses import dataclass

from pydantic import ValidationError

from clr.config import TrainingConfig
from clr.schedule_config import RateOfJob
from service.dependencies import Services
from service.errors import invalid_field
from service.validation import shown
from worker.ids import is_id
from worker.job_specs import with_max_lr
from worker.jobs import JobKind, JobRecord, JobStatus
from worker.records import read_document, result_key

POINTER = "#/schedule/max_lr/from_job"


class RefusedRateError(Exception):
    """The job that was named suggests no rate for this run; ``hint`` is the remedy."""

    def __init__(self, detail: str, *, hint: str = 'give max_lr a number, or write "auto"') -> None:
        super().__init__(detail)
        self.hint = hint


@dataclass(frozen=True)
class ChosenRate:
    """A config whose ``max_lr`` is a number or "auto".

    Attributes:
        config: The config.
        job_id: The range test that the number comes from; None where the request gave it.
        warnings: How the range test differs from the run.
    """

    config: TrainingConfig
    job_id: str | None = None
    warnings: tuple[str, ...] = ()


def choose_rate(services: Services, config: TrainingConfig, dataset_id: str, *, pointer: str = POINTER) -> ChosenRate:
    """Puts the number in the place of a range test's id; ``pointer`` is where the request has it.

    Raises:
        Problem: There is no such range test, or it suggests no rate that the schedule can take.
    """
    if not isinstance(config.schedule.max_lr, RateOfJob):
        return ChosenRate(config)
    try:
        return _chosen(services, config, config.schedule.max_lr.from_job, dataset_id)
    except RefusedRateError as error:
        raise invalid_field(str(error), pointer=pointer, hint=error.hint) from error


def _chosen(services: Services, config: TrainingConfig, job_id: str, dataset_id: str) -> ChosenRate:
    record = _finished_test(services, job_id)
    result = (read_document(services.artifacts, result_key(record.id)) or {}).get("output", {})
    if result.get("max_lr") is None:
        raise RefusedRateError(f"{record.id} suggests no rate: {result.get('reason', 'it has left no answer')}")
    try:
        chosen = with_max_lr(config, result["max_lr"])
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise RefusedRateError(f"{record.id} suggests {result['max_lr']:g}, which the schedule cannot take: {why}") from error
    return ChosenRate(chosen, record.id, tuple(_differences(record, chosen, dataset_id)))


def _finished_test(services: Services, job_id: str) -> JobRecord:
    record = services.store.get(job_id) if is_id("job", job_id) else None
    if record is None:
        raise RefusedRateError(f"there is no job {shown(job_id)}", hint="GET /v1/jobs?kind=range_test lists them")
    if record.kind is not JobKind.RANGE_TEST:
        raise RefusedRateError(f"{job_id} is a {record.kind} job", hint="name a range_test job, or give max_lr a number")
    if record.status is not JobStatus.SUCCEEDED:
        remedy = "submit another range test" if record.status.is_terminal else "submit the job again once it has ended"
        raise RefusedRateError(f"{job_id} is {record.status}, so it suggests no rate", hint=f'{remedy}, or write "auto"')
    if record.stop_reason is not None:
        raise RefusedRateError(
            f"{job_id} was {record.stop_reason} before its answer, so what it suggests rests on the curves alone",
            hint='submit another range test and let it end, write "auto", or give max_lr the number that you take from it',
        )
    return record


def _differences(record: JobRecord, config: TrainingConfig, dataset_id: str) -> list[str]:
    """What makes the suggestion doubtful for this run."""
    ours, theirs = config.model_dump(mode="json"), record.config
    found = [name for name in ("model", "optimizer", "batch_size", "accumulation") if ours[name] != theirs[name]]
    found += ["dataset_id"] if record.dataset_id != dataset_id else []
    if not found:
        return []
    return [f"max_lr comes from {record.id}, which differs in {', '.join(found)}: its range may not hold here"]
