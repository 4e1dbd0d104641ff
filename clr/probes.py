"""Probes: short trainings, each annealed from one maximum rate to zero, measured on the validation rows. The test rows stay unseen."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch

from clr.config import FixedSchedule, RangeTestConfig, RunConfig, TrainingConfig
from clr.datasets import Dataset
from clr.plans import resolve, run_plan
from clr.rate_ladder import Losses
from clr.runs import Run
from clr.schedules import Schedule, cosine_rate
from clr.splits import split_dataset
from clr.targets import Task

SHORTEST_PROBE, LONGEST_PROBE = 100, 400
"""Steps of a probe whose length isn't given: fewer tell rates apart by luck, more are not needed for that."""

LARGEST_RATE = 1000.0
"""Of any schedule; no probe is trained above it."""


@dataclass(frozen=True)
class ProbeStep:
    """One optimizer step of a probe, just done.

    Attributes:
        index: Of the probe, from 0, in the order in which they are trained.
        learning_rate: The maximum rate of the probe.
        step: Completed steps of this probe, 1 … num_steps.
        num_steps: Of this probe, if it doesn't diverge.
        loss: The mini-batch's mean loss before the update.
    """

    index: int
    learning_rate: float
    step: int
    num_steps: int
    loss: float


@dataclass(frozen=True)
class Probe:
    """One rate and what its probes came to.

    Attributes:
        learning_rate: The maximum rate.
        validation_loss: Mean over the validation rows and the repeats, after the last step; None where a repeat diverged.
    """

    learning_rate: float
    validation_loss: float | None


@dataclass(frozen=True, eq=False)
class ProbeEnd:
    """How one probe ended: its steps, and the loss of every validation row, None where a loss was no finite number."""

    num_steps: int
    losses: Losses | None


def training_config(config: RangeTestConfig, repeat: int) -> TrainingConfig:
    """The run of one sweep or probe. All share one split, that of a training run with the test's seed: its test rows stay unseen."""
    shared = {name: getattr(config, name) for name in RunConfig.model_fields}
    split_seed = config.seed if config.split_seed is None else config.split_seed
    changes = {"seed": repeat_seed(config, repeat), "split_seed": split_seed, "schedule": FixedSchedule(epochs=1)}
    return TrainingConfig(**shared | changes)


def repeat_seed(config: RangeTestConfig, repeat: int) -> int:
    """The seed of one repeat: seed, seed + 1, …; after the largest seed comes 0."""
    return (config.seed + repeat) % 2**63


def probe_length(config: RangeTestConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of a probe."""
    return config.probe_steps or min(max(steps_per_epoch, SHORTEST_PROBE), LONGEST_PROBE)


def probe(
    config: RangeTestConfig, dataset: Dataset, learning_rate: float, *, repeat: int, index: int, device: str = "cpu"
) -> Generator[ProbeStep, None, ProbeEnd]:
    """Trains one probe, yielding after every step; ends at the first loss that isn't finite."""
    if learning_rate > LARGEST_RATE:
        return ProbeEnd(0, None)
    training = training_config(config, repeat)
    plan = run_plan(training, dataset)
    num_steps = probe_length(config, plan.steps_per_epoch)
    schedule = Schedule(num_steps, (num_steps,), lambda step: cosine_rate(learning_rate, 0.0, step, num_steps))
    run = Run(resolve(training, dataset, device), dataset, schedule, plan.steps_per_epoch, torch.device(device))
    batches = endless_batches(run)
    for step in range(num_steps):
        with torch.random.fork_rng():  # networks with dropout seed torch's global generators
            loss = run.update(next(batches), schedule(step)).item()
        yield ProbeStep(index, learning_rate, step + 1, num_steps, loss)
        if not math.isfinite(loss):
            return ProbeEnd(step + 1, None)
    losses = run.validation_losses()
    return ProbeEnd(num_steps, losses.numpy() if bool(losses.isfinite().all()) else None)


def endless_batches(run: Run) -> Iterator[torch.Tensor]:
    """The batches of epoch after epoch."""
    epoch = 0
    while True:
        yield from run.batches(epoch)
        epoch += 1


def constant_losses(config: RangeTestConfig, dataset: Dataset) -> Losses:
    """The validation rows' losses under the best constant prediction of the training rows: class shares, or the mean."""
    split = split_dataset(dataset, training_config(config, 0))
    train, validation = dataset.targets[split.train], dataset.targets[split.validation]
    if dataset.task is Task.CLASSIFICATION:
        shares = torch.bincount(train, minlength=len(dataset.class_names)).double() / len(train)
        return -shares.log()[validation].numpy()
    train = train.double()
    std = train.std(correction=0)
    return ((validation.double() - train.mean()) / torch.where(std > 0, std, 1.0)).square().numpy()


def judged_losses(losses: Losses | None, constant: Losses) -> Losses:
    """Losses for the ladder: a probe that diverged, or predicts worse than a constant, counts as the constant."""
    return constant if losses is None or losses.mean() > constant.mean() else losses
