"""What a run will do, known before it starts: its schedule, its split, its size, and what "auto" means on a device."""

from dataclasses import dataclass

from clr.augmentation import Augmentation
from clr.config import MAX_STEPS, SetupConfig, TrainingConfig
from clr.datasets import Dataset
from clr.errors import ModelError
from clr.models import count_parameters
from clr.precision import auto_precision
from clr.preprocessing import image_size
from clr.schedules import Schedule, build_schedule
from clr.splits import split_sizes


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do, known before it starts.

    Attributes:
        is_length_known: False for a budget in minutes: the schedule is then laid out over the longest run there is, so that the first
            rates are those at its start, and whoever has a clock is to call ``StepReport.replan``.
    """

    schedule: Schedule
    is_length_known: bool
    steps_per_epoch: int
    epochs: float
    num_train_rows: int
    num_validation: int
    num_test: int
    num_parameters: int


def run_plan(config: TrainingConfig, dataset: Dataset) -> Plan:
    """Lays out a run without starting it; cheap, and every reason to refuse it shows here.

    Raises:
        ScheduleError: The schedule does not fit the number of steps.
        DatasetError: The data cannot be split as asked.
        ModelError: The network or the augmentation does not fit the rows.
    """
    sizes = split_sizes(dataset, config)
    if config.augmentation not in ("auto", "none") and image_size(dataset.input_shape) is None:
        raise ModelError(f"augmentation {config.augmentation!r} needs images, but a row has the shape {dataset.input_shape}: take none")
    num_parameters = count_parameters(config.model, dataset.input_shape, dataset.num_outputs)
    steps_per_epoch = -(-sizes.train // (config.batch_size * config.accumulation))
    is_length_known = config.budget is None or config.budget.minutes is None
    epochs = config.budget.epochs if config.budget else None
    schedule = build_schedule(
        config.schedule, steps_per_epoch=steps_per_epoch, epochs=epochs if is_length_known else MAX_STEPS // steps_per_epoch
    )
    epochs = schedule.num_steps / steps_per_epoch
    return Plan(schedule, is_length_known, steps_per_epoch, epochs, sizes.train, sizes.validation, sizes.test, num_parameters)


def resolve(config: TrainingConfig, dataset: Dataset, device: str) -> TrainingConfig:
    """The config with precision and augmentation replaced by what "auto" means for these data on ``device``."""
    precision = config.precision
    if precision == "auto":
        precision = auto_precision(config, dataset, device)
    return config.model_copy(update={"precision": precision, "augmentation": settled_augmentation(config)})


def settled_augmentation(config: SetupConfig) -> Augmentation:
    """The augmentation; "auto" means none, on any device."""
    return "none" if config.augmentation == "auto" else config.augmentation
