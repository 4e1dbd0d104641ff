"""Studies before they are made: what can be known of all their runs without training."""

from dataclasses import dataclass

from clr.config import CosineSchedule, ScheduleConfig, SetupConfig, TrainingConfig
from clr.datasets import Dataset, DatasetError
from clr.range_test import RangeTestError, range_test_plan
from clr.rate_search import search_config
from clr.schedule_linter import lint_schedule
from clr.schedules import ScheduleError
from clr.studies import check_length, plan_study
from clr.study_config import StudyConfig
from clr.training import Plan, run_plan, settled_augmentation
from service.checked_jobs import Json, Submission, dataset_of, notes_on_precision, with_fitting_batches
from service.dependencies import Services
from service.errors import invalid_field
from service.learning_rates import ChosenRate, choose_rate
from service.model_costs import check_cost
from service.schemas import DryRun
from service.train_submission import rare_classes
from worker.job_requests import StudyJobRequest
from worker.job_specs import StudySpec


@dataclass(frozen=True)
class CheckedStudy:
    """A study that can be carried out.

    Attributes:
        request: What was asked for.
        dataset: Its data.
        config: What will run, as far as it is settled before a worker has a run.
        rate: Where its ``max_lr`` comes from.
        plans: For each kind of run its config, its plan, and how many runs are of it.
        notes_on_batches: What is said of a batch size that was fitted to the data.
    """

    request: StudyJobRequest
    dataset: Dataset
    config: StudyConfig
    rate: ChosenRate
    plans: tuple[tuple[TrainingConfig, Plan, int], ...]
    notes_on_batches: tuple[str, ...] = ()

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all runs."""
        return sum(plan.schedule.num_steps * count for _, plan, count in self.plans)

    @property
    def steps_per_epoch(self) -> int:
        """The same for all runs, which share their rows."""
        return self.plans[0][1].steps_per_epoch

    def spec(self, submission: Submission) -> StudySpec:
        """The job's spec."""
        request = self.request
        labels = {"name": request.name, "metadata": request.metadata, "dataset_id": request.dataset_id}
        lengths = {"num_steps": self.num_steps, "steps_per_epoch": self.steps_per_epoch}
        return StudySpec(**submission.fields(), **labels, config=self.config, max_lr_from=self.rate.job_id, **lengths)

    def dry_run(self) -> DryRun:
        """What the job would be."""
        return DryRun(
            config=self.config.model_dump(mode="json"),
            warnings=self._warnings(),
            notes=[*self.notes_on_batches, *notes_on_precision(self.config), *self._notes()],
            estimate=self._estimate(),
            schedule=None,
        )

    def _estimate(self) -> Json:
        plan = self.plans[0][1]
        num_snapshots = sum(plan.schedule.num_cycles * count for _, plan, count in self.plans)
        return {
            "runs": sum(count for _, _, count in self.plans),
            "parameters": plan.num_parameters,
            "steps": self.num_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.num_steps / self.steps_per_epoch,
            "snapshots": num_snapshots,
            "snapshot_bytes": 4 * plan.num_parameters * num_snapshots,
            "train_rows": plan.num_train_rows,
            "validation_rows": plan.num_validation,
            "test_rows": plan.num_test,
        }

    def _notes(self) -> list[str]:
        if self.config.max_lr != "auto":
            return []
        return ["max_lr auto: each run begins with a range test of its own, on top of its epochs; the table counts it as budget"]

    def _warnings(self) -> list[str]:
        found = [*self.rate.warnings]
        found += [
            f"{config.schedule.type} runs: {warning}"
            for config, plan, _ in self.plans
            for warning in lint_schedule(_as_control(config.schedule), plan.schedule, steps_per_epoch=plan.steps_per_epoch)
        ]
        if len(self.config.seeds) == 1:
            found.append("one seed gives no intervals: take two or more, for example [0, 1, 2]")
        return list(dict.fromkeys(found + rare_classes(self.dataset)))


def check_study(services: Services, request: StudyJobRequest) -> CheckedStudy:
    """Everything that can be known of a study before its runs: whether each of them fits the data.

    Raises:
        Problem, ModelError: What is wrong.
    """
    dataset = dataset_of(services, request.dataset_id)
    try:
        request, notes = with_fitting_batches(request, dataset)
    except DatasetError as error:
        raise invalid_field(str(error), pointer=error.pointer or "#/dataset_id") from error
    rate = _choose_rate(services, request)
    config = request.study_config().model_copy(
        update={"augmentation": settled_augmentation(rate.config), "max_lr": rate.config.schedule.max_lr}
    )
    counts: dict[TrainingConfig, int] = {}
    for run in plan_study(config).runs:
        kind = run.config.model_copy(update={"seed": 0})
        counts[kind] = counts.get(kind, 0) + 1
    try:
        plans = tuple((kind, run_plan(kind, dataset), count) for kind, count in counts.items())
        check_cost(services.settings, plans[0][0], dataset, num_parameters=plans[0][1].num_parameters)
        check_length(config, plans[0][1].steps_per_epoch)
        if config.max_lr == "auto":
            range_test_plan(search_config(plans[0][0]), dataset)
        return CheckedStudy(request, dataset, config, rate, plans, notes)
    except DatasetError as error:
        raise invalid_field(str(error), pointer=error.pointer or "#/dataset_id") from error
    except ScheduleError as error:
        raise invalid_field(str(error), pointer="#/cycles") from error
    except RangeTestError as error:
        raise invalid_field(f"{error}, or give max_lr a number", pointer="#/batch_size") from error


def _as_control(schedule: ScheduleConfig) -> ScheduleConfig:
    """Without its number of snapshots: that some arms take them without a restart is the point of a study."""
    return schedule.model_copy(update={"snapshots": 1}) if "snapshots" in type(schedule).model_fields else schedule


def _choose_rate(services: Services, request: StudyJobRequest) -> ChosenRate:
    """What a range test suggests that the study names; the cosine run stands for all that take ``max_lr``."""
    study = request.study_config()
    setup = {name: getattr(study, name) for name in SetupConfig.model_fields}
    cosine = TrainingConfig(**setup, schedule=CosineSchedule(max_lr=study.max_lr, min_lr=study.min_lr, epochs=study.epochs))
    return choose_rate(services, cosine, request.dataset_id, pointer="#/max_lr/from_job")
