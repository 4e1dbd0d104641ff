"""Evaluations before they are made: whether there is something to measure, and what the measurement will cost."""

from dataclasses import dataclass

from clr.config import TrainingConfig
from clr.landscape_config import LandscapeSettings, most_epochs, num_pairs
from clr.splits import split_sizes
from service.checked_jobs import Json, Submission
from service.dependencies import Services
from service.errors import Problem, invalid_field
from service.schemas import DryRun
from service.validation import shown
from worker.evaluate_config import EvaluateConfig
from worker.ids import is_id
from worker.job_requests import EvaluateJobRequest
from worker.job_specs import EvaluateSpec
from worker.jobs import JobKind, JobRecord


@dataclass(frozen=True)
class CheckedEvaluation:
    """An evaluation that can be carried out.

    Attributes:
        request: What was asked for.
        record: The train job whose minima are measured.
        cycles: Of the snapshots that it has now.
        num_rows: Its training rows.
    """

    request: EvaluateJobRequest
    record: JobRecord
    cycles: tuple[int, ...]
    num_rows: int

    @property
    def config(self) -> EvaluateConfig:
        """What will run."""
        return self.request.evaluate_config()

    def spec(self, submission: Submission) -> EvaluateSpec:
        """The job's spec."""
        labels = {"name": self.request.name, "metadata": self.request.metadata, "dataset_id": self.record.dataset_id}
        return EvaluateSpec(**submission.fields(), **labels, config=self.config, cycles=self.cycles)

    def dry_run(self) -> DryRun:
        """What the job would be."""
        return DryRun(
            config=self.config.model_dump(mode="json"),
            warnings=self._warnings(),
            notes=[],
            estimate=landscape_estimate(self.request.landscape, num_snapshots=len(self.cycles), num_rows=self.num_rows),
            schedule=None,
        )

    def _warnings(self) -> list[str]:
        found = []
        if not self.record.status.is_terminal:
            found.append(f"{self.record.id} is {self.record.status}: only the snapshots that it has now are measured")
        if len(self.cycles) == 1:
            found.append("there is one snapshot: its sharpness is measured, and no line to another")
        return found


def check_evaluation(services: Services, request: EvaluateJobRequest) -> CheckedEvaluation:
    """Everything that can be known before the measurement.

    Raises:
        Problem: There is no such job, it trains nothing, or it has no snapshot.
    """
    store, job_id = services.store, request.job_id
    record = store.get(job_id) if is_id("job", job_id) else None
    if record is None:
        raise _refusal(f"there is no job {shown(job_id)}", "GET /v1/jobs?kind=train lists the train jobs")
    if record.kind is not JobKind.TRAIN:
        remedy = "evaluate one of its runs" if record.kind is JobKind.STUDY else "GET /v1/jobs?kind=train lists the train jobs"
        raise _refusal(f"must be a job of kind train, {job_id} is of kind {record.kind}", remedy)
    cycles = tuple(snapshot["cycle"] for snapshot in store.snapshots(job_id))
    if not cycles:
        remedy = "train again: this job leaves no snapshot" if record.status.is_terminal else "wait for its first cycle to end"
        raise _refusal(f"{job_id} has no snapshot to measure, it is {record.status}", remedy)
    dataset = services.datasets.load(record.dataset_id)
    if dataset is None:
        raise _refusal(f"the dataset of {job_id} is gone, and losses are measured on it", "evaluate a job whose dataset is there")
    num_rows = split_sizes(dataset, TrainingConfig.model_validate(record.config)).train
    return CheckedEvaluation(request, record, cycles, num_rows)


def landscape_estimate(settings: LandscapeSettings, *, num_snapshots: int, num_rows: int) -> Json:
    """How much is measured, and the most that it can cost."""
    return {
        "snapshots": num_snapshots,
        "lines": num_pairs(num_snapshots, settings),
        "rows": min(num_rows, settings.max_rows),
        "most_epochs": round(most_epochs(settings, num_snapshots=num_snapshots, num_rows=num_rows), 2),
    }


def landscape_note(estimate: Json, *, epochs: float) -> str:
    """The price of a measurement after a training, in words."""
    return (
        f"landscape: measuring {estimate['snapshots']} snapshots and {estimate['lines']} lines between them takes at most the time of "
        f"{estimate['most_epochs']:.3g} epochs, after the {epochs:g} of the training; a smaller max_rows, max_iterations or max_pairs "
        "takes less"
    )


def _refusal(detail: str, hint: str) -> Problem:
    return invalid_field(detail, pointer="#/job_id", hint=hint)
