"""Training jobs before they are made: what can be known of a run without training."""

from dataclasses import dataclass

from clr.config import TrainingConfig, WarmRestartsSchedule
from clr.datasets import Dataset, DatasetError, class_counts
from clr.errors import RunLengthError
from clr.range_test import RangeTestError, range_test_plan
from clr.rate_search import search_config
from clr.schedule_config import is_rate_known
from clr.schedule_linter import lint_schedule
from clr.training import Plan, run_plan, settled_augmentation
from service.checked_jobs import Json, Submission, dataset_of, notes_on_precision, with_fitting_batches
from service.dependencies import Services
from service.errors import invalid_field
from service.evaluate_submission import landscape_estimate, landscape_note
from service.learning_rates import ChosenRate, choose_rate
from service.model_costs import check_cost
from service.routes.schedules import curve
from service.schemas import DryRun
from service.validation import shown
from worker.job_requests import TrainJobRequest
from worker.job_specs import TrainSpec

FEW_ROWS = 10
"""A class with fewer training rows gets a warning: hardly any of them is left for validation."""

DRY_RUN_POINTS = 1000


@dataclass(frozen=True)
class CheckedTraining:
    """A training request that can be carried out, with its run laid out."""

    request: TrainJobRequest
    dataset: Dataset
    rate: ChosenRate
    plan: Plan
    notes_on_batches: tuple[str, ...] = ()

    @property
    def config(self) -> TrainingConfig:
        """What will run, as far as it is settled before a worker has the job: "auto" stays where only the worker can know."""
        config = self.rate.config
        return config.model_copy(update={"augmentation": settled_augmentation(config)})

    def spec(self, submission: Submission) -> TrainSpec:
        """The job's spec."""
        return TrainSpec(
            **submission.fields(),
            name=self.request.name,
            metadata=self.request.metadata,
            dataset_id=self.request.dataset_id,
            config=self.config,
            max_lr_from=self.rate.job_id,
            num_steps=self.plan.schedule.num_steps if self.plan.is_length_known else None,
            num_cycles=self.plan.schedule.num_cycles,
            epochs=self.plan.epochs if self.plan.is_length_known else None,
            steps_per_epoch=self.plan.steps_per_epoch,
            landscape=self.request.landscape,
        )

    def dry_run(self) -> DryRun:
        """What the job would be."""
        return DryRun(
            config=self.config.model_dump(mode="json"),
            warnings=self._warnings(),
            notes=[*self._notes(), *self._notes_on_landscape()],
            estimate=self._estimate(),
            schedule=curve(self.plan.schedule, max_points=DRY_RUN_POINTS) if self.plan.is_length_known else None,
        )

    def _estimate(self) -> Json:
        """What is known of a run's size; times are not, before similar jobs have been measured."""
        plan = self.plan
        return {
            "parameters": plan.num_parameters,
            "steps": plan.schedule.num_steps if plan.is_length_known else None,
            "steps_per_epoch": plan.steps_per_epoch,
            "epochs": plan.epochs if plan.is_length_known else None,
            "snapshots": plan.schedule.num_cycles,
            "snapshot_bytes": 4 * plan.num_parameters,
            "train_rows": plan.num_train_rows,
            "validation_rows": plan.num_validation,
            "test_rows": plan.num_test,
        }

    def _notes_on_landscape(self) -> list[str]:
        """What measuring the landscape will cost, where it is asked for."""
        if self.request.landscape is None or not self.plan.is_length_known:
            return []
        plan = self.plan
        estimate = landscape_estimate(self.request.landscape, num_snapshots=plan.schedule.num_cycles, num_rows=plan.num_train_rows)
        return [landscape_note(estimate, epochs=plan.epochs)]

    def _warnings(self) -> list[str]:
        found = list(self.rate.warnings)
        if self.plan.is_length_known:
            found += lint_schedule(self.config.schedule, self.plan.schedule, steps_per_epoch=self.plan.steps_per_epoch)
        return found + rare_classes(self.dataset)

    def _notes(self) -> list[str]:
        schedule = self.config.schedule
        found = [*self.notes_on_batches, *notes_on_precision(self.config)]
        if not is_rate_known(schedule):
            found.append("max_lr auto: a range test before training finds it, on top of the epochs; rates are shown as shares of it")
        if isinstance(schedule, WarmRestartsSchedule) and schedule.cycles == "auto":
            found.append("cycles auto: the run starts as one cosine, and restarts only if what it measures on the way says that it pays")
        if not self.plan.is_length_known:
            found.append("a budget of minutes: the worker measures its speed and plans the steps by it")
        return found


def check_training(services: Services, request: TrainJobRequest) -> CheckedTraining:
    """Everything that can be known before training: whether dataset, split, schedule and model fit together.

    Raises:
        Problem, ScheduleError, ModelError: What is wrong.
    """
    dataset = dataset_of(services, request.dataset_id)
    try:
        request, notes = with_fitting_batches(request, dataset)
        rate = choose_rate(services, request.training_config(), request.dataset_id)
        plan = run_plan(rate.config, dataset)
        check_cost(services.settings, rate.config, dataset, num_parameters=plan.num_parameters)
        if not is_rate_known(rate.config.schedule):
            range_test_plan(search_config(rate.config), dataset)
    except DatasetError as error:
        raise invalid_field(str(error), pointer=error.pointer or "#/dataset_id") from error
    except RunLengthError as error:
        raise invalid_field(str(error), pointer="#/budget/epochs" if request.budget else "#/schedule") from error
    except RangeTestError as error:
        raise invalid_field(f"{error}, or give max_lr a number", pointer="#/batch_size") from error
    return CheckedTraining(request, dataset, rate, plan, notes)


def rare_classes(dataset: Dataset) -> list[str]:
    """Warnings about classes with hardly any rows."""
    counts = zip(dataset.class_names, class_counts(dataset), strict=True) if dataset.class_names else ()
    rare = [(name, rows) for name, rows in counts if rows < FEW_ROWS]
    found = [f"class {shown(name)} has only {rows} rows" for name, rows in rare[:10]]
    if len(rare) > 10:
        found.append(f"{len(rare) - 10} more classes have fewer than {FEW_ROWS} rows")
    return found
