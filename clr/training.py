"""The training loop: a generator that yields what happened and leaves every decision to its caller."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clr.checkpoints import Checkpoint
from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.errors import ModelError
from clr.models import count_parameters
from clr.preprocessing import image_size
from clr.runs import CycleEnd, EnsembleMetrics, Rollback, Run
from clr.schedules import Schedule, build_schedule
from clr.splits import split_sizes

__all__ = ["CycleEnd", "EnsembleMetrics", "Plan", "Rollback", "StepReport", "resolve", "run_plan", "train"]


DIVERGENCE_CHECK_STEPS = 50
"""Between two looks at whether the numbers are finite: each waits for the device."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do, known before it starts."""

    schedule: Schedule
    steps_per_epoch: int
    epochs: float
    num_train_rows: int
    num_validation: int
    num_test: int
    num_parameters: int


@dataclass(frozen=True, eq=False, slots=True)
class StepReport:
    """One optimizer step, just done.

    Attributes:
        step: Completed steps, 1 … T.
        epoch: The same in passes over the training rows.
        cycle: The cycle that the step belongs to, from 0.
        learning_rate: The rate that the step used.
        loss: The mini-batch's mean loss before the update, a scalar on the device; reading it waits for the device.
        num_rows: Rows in the mini-batch.
    """

    step: int
    epoch: float
    cycle: int
    learning_rate: float
    loss: Tensor
    num_rows: int
    _run: Run

    def checkpoint(self) -> Checkpoint:
        """A copy on the CPU of all that is needed to go on after this step; only until the generator goes on."""
        return self._run.checkpoint(self.step)

    def stop_here(self) -> CycleEnd:
        """Ends the run with a snapshot of the weights as they are; it counts as a minimum only after the last step of a full cycle."""
        return self._run.stop(self.step)


def train(
    config: TrainingConfig, dataset: Dataset, *, device: str = "cpu", resume_from: Checkpoint | None = None
) -> Iterator[StepReport | CycleEnd | Rollback]:
    """Trains, yielding a report after every optimizer step, and after the last step of a cycle its snapshot as well.

    A run whose loss or weights are no finite numbers goes back to the last snapshot and repeats the cycle with half its rates; the
    steps of the reports go back with it.

    The events are a function of config, data and device: a run resumed after step k yields exactly those after step k.
    Equal bits need the caller's ``torch.use_deterministic_algorithms(True)`` on CUDA, and the same number of threads on the CPU.
    Seeds torch's global generators where the network has dropout.

    Raises:
        ScheduleError, DatasetError, ModelError: As ``run_plan``, on the first ``next``.
        CheckpointError: ``resume_from`` belongs to another config or other data.
        DivergedError: A cycle diverged again after three returns to its start.
    """
    plan = run_plan(config, dataset)
    run = Run(_resolved(config, device, resume_from), dataset, plan.schedule, plan.steps_per_epoch, torch.device(device))
    if resume_from is not None:
        run.restore(resume_from)
        if run.lacks_snapshot():
            yield run.end_cycle()
    order_of: int | None = None
    while run.step < plan.schedule.num_steps:
        step = run.step
        epoch, position = divmod(step, plan.steps_per_epoch)
        if epoch != order_of:
            batches, order_of = run.batches(epoch), epoch
        learning_rate = run.learning_rate(step)
        loss = run.update(batches[position], learning_rate)
        cycle = plan.schedule.cycle_of(step)
        yield StepReport(step + 1, (step + 1) / plan.steps_per_epoch, cycle, learning_rate, loss, len(batches[position]), run)
        if run.is_stopped:
            return
        is_end = plan.schedule.is_cycle_end(step)
        if (is_end or (step + 1) % DIVERGENCE_CHECK_STEPS == 0) and run.has_diverged(loss):
            yield run.roll_back()
        elif is_end:
            yield run.end_cycle()


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
    schedule = build_schedule(config.schedule, steps_per_epoch=steps_per_epoch)
    epochs = schedule.num_steps / steps_per_epoch
    return Plan(schedule, steps_per_epoch, epochs, sizes.train, sizes.validation, sizes.test, num_parameters)


def resolve(config: TrainingConfig, device: str) -> TrainingConfig:
    """The config with every "auto" replaced by what it means on ``device``."""
    precision, augmentation = config.precision, config.augmentation
    if precision == "auto":
        has_bf16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "fp32"
    if augmentation == "auto":
        augmentation = "none"
    return config.model_copy(update={"precision": precision, "augmentation": augmentation})


def _resolved(config: TrainingConfig, device: str, resume_from: Checkpoint | None) -> TrainingConfig:
    """The resolved config; a resumed run keeps what "auto" meant where it started."""
    if resume_from is None:
        return resolve(config, device)
    started = resume_from.state["config"]
    kept = {name: started[name] for name in ("precision", "augmentation") if getattr(config, name) == "auto"}
    return config.model_copy(update=kept)
