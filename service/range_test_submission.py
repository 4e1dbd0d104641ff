"""Range tests before they are made: what can be known of a sweep without training."""

from dataclasses import dataclass

from clr.config import RangeTestConfig
from clr.datasets import Dataset, DatasetError
from clr.range_test import RangeTestError, planned_steps, range_test_plan
from clr.training import Plan, settled_augmentation
from service.checked_jobs import Submission, dataset_of, notes_on_precision, with_fitting_batches
from service.dependencies import Services
from service.errors import invalid_field
from service.model_costs import check_cost
from service.schemas import DryRun
from service.train_submission import rare_classes
from worker.job_requests import RangeTestJobRequest
from worker.job_specs import RangeTestSpec


@dataclass(frozen=True)
class CheckedRangeTest:
    """A range test that can be carried out, with its runs laid out."""

    request: RangeTestJobRequest
    dataset: Dataset
    plan: Plan
    notes_on_batches: tuple[str, ...] = ()

    @property
    def config(self) -> RangeTestConfig:
        """What will run."""
        return self.request.range_test_config()

    def spec(self, submission: Submission) -> RangeTestSpec:
        """The job's spec."""
        request = self.request
        return RangeTestSpec(
            **submission.fields(),
            name=request.name,
            metadata=request.metadata,
            dataset_id=request.dataset_id,
            config=self.config,
            num_steps=planned_steps(self.config, self.plan.steps_per_epoch),
        )

    def dry_run(self) -> DryRun:
        """What the job would be."""
        config, plan = self.config, self.plan
        steps = planned_steps(config, plan.steps_per_epoch)
        augmentation = settled_augmentation(config)
        return DryRun(
            config=config.model_copy(update={"augmentation": augmentation}).model_dump(mode="json"),
            warnings=rare_classes(self.dataset),
            notes=[*self.notes_on_batches, *notes_on_precision(config)],
            estimate={
                "parameters": plan.num_parameters,
                "steps": steps,
                "steps_per_epoch": plan.steps_per_epoch,
                "epochs": steps / plan.steps_per_epoch,
                "train_rows": plan.num_train_rows,
            },
            schedule=None,
        )


def check_range_test(services: Services, request: RangeTestJobRequest) -> CheckedRangeTest:
    """Everything that can be known before a sweep.

    Raises:
        Problem, ModelError: What is wrong.
    """
    dataset = dataset_of(services, request.dataset_id)
    try:
        request, notes = with_fitting_batches(request, dataset)
        plan = range_test_plan(request.range_test_config(), dataset)
        check_cost(services.settings, request.range_test_config(), dataset, num_parameters=plan.num_parameters)
    except DatasetError as error:
        raise invalid_field(str(error), pointer=error.pointer or "#/dataset_id") from error
    except RangeTestError as error:
        raise invalid_field(str(error), pointer="#/batch_size") from error
    return CheckedRangeTest(request, dataset, plan, notes)
