"""The training loop: a generator that yields what happened and leaves every decision to its caller."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clr.checkpoints import Checkpoint
from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.held_out import EnsembleMetrics
from clr.planning import Replanned
from clr.plans import Plan, resolve, run_plan, settled_augmentation
from clr.rate_search import RateFound, RateSearch, search_rate
from clr.run_events import CycleEnd, Rollback
from clr.runs import Run
from clr.schedule_config import is_rate_known
from clr.schedules import Schedule

__all__ = [
    "CycleEnd",
    "EnsembleMetrics",
    "Event",
    "Plan",
    "RateFound",
    "RateSearch",
    "Replanned",
    "Rollback",
    "StepReport",
    "resolve",
    "run_plan",
    "settled_augmentation",
    "train",
]


DIVERGENCE_CHECK_STEPS = 50
"""Between two looks at whether the numbers are finite: each waits for the device."""


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

    @property
    def schedule(self) -> Schedule:
        """The learning rates as they are planned now."""
        return self._run.schedule

    def checkpoint(self) -> Checkpoint:
        """A copy on the CPU of all that is needed to go on after this step; only until the generator goes on."""
        return self._run.checkpoint(self.step)

    def has_diverged(self) -> bool:
        """Whether the loss or a weight is no finite number, so that the end of a cycle here would be no end; waits for the device."""
        return self._run.has_diverged()

    def stop_here(self) -> CycleEnd:
        """Ends the run with a snapshot of the weights as they are; it counts as a minimum only after the last step of a full cycle."""
        return self._run.stop(self.step)

    def replan(self, num_steps: int, reason: str, evidence: Mapping[str, float] | None = None) -> None:
        """Changes the length of the run from here on: what is left of each cycle is stretched or shortened.

        Cycles for which there is no room are dropped. A ``Replanned`` event follows unless nothing changes. A run becomes
        no shorter than its current cycle needs to anneal.

        Raises:
            ScheduleError: The run is over, or its cycles may be cut (boundaries 'paper').
        """
        self._run.replan(self.step, num_steps, reason, evidence or {})


Event = StepReport | CycleEnd | Rollback | Replanned | RateSearch | RateFound


def train(config: TrainingConfig, dataset: Dataset, *, device: str = "cpu", resume_from: Checkpoint | None = None) -> Iterator[Event]:
    """Trains, yielding a report after every optimizer step, and after the last step of a cycle its snapshot as well.

    Where ``max_lr`` is "auto", a range test on networks of its own comes first, step by step, and then what it has found; a resumed
    run does not repeat it. A run whose loss or weights are no finite numbers goes back to the last snapshot and repeats the cycle
    with half its rates; the steps of the reports go back with it. Every change of plan is told.

    The events are a function of config, data, device and the caller's calls of ``replan``: a run resumed after step k yields exactly
    those after step k. Equal bits need the caller's ``torch.use_deterministic_algorithms(True)`` on CUDA, and the same number of
    threads on the CPU. Seeds torch's global generators where the network has dropout.

    Raises:
        ScheduleError, DatasetError, ModelError: As ``run_plan``, on the first ``next``.
        RangeTestError, RateNotFoundError: The range test cannot be made, or suggests no rate.
        CheckpointError: ``resume_from`` belongs to another config or other data.
        DivergedError: A cycle diverged again after three returns to its start.
    """
    run_plan(config, dataset)  # refuses before there is a search
    resolved = _resolved(config, dataset, device, resume_from)
    if not is_rate_known(resolved.schedule):
        resolved = yield from search_rate(resolved, dataset, device=device)
    plan = run_plan(resolved, dataset)
    run = Run(resolved, dataset, plan.schedule, plan.steps_per_epoch, torch.device(device))
    if resume_from is not None:
        run.restore(resume_from)
        yield from _after_step(run)
    order_of: int | None = None
    while run.step < run.schedule.num_steps:
        step = run.step
        epoch, position = divmod(step, plan.steps_per_epoch)
        if epoch != order_of:
            batches, order_of = run.batches(epoch), epoch
        learning_rate = run.learning_rate(step)
        loss = run.update(batches[position], learning_rate)
        cycle = run.schedule.cycle_of(step)
        yield StepReport(step + 1, (step + 1) / plan.steps_per_epoch, cycle, learning_rate, loss, len(batches[position]), run)
        if run.is_stopped:
            return
        yield from _after_step(run)


def _after_step(run: Run) -> Iterator[Event]:
    """What follows a step, unless it was done before the run was interrupted: a return to the last minimum, or the end of the cycle.

    Changes of plan come last, so that nothing lies between the last step of a cycle and its snapshot.
    """
    is_end = run.lacks_snapshot()
    if (is_end or run.step % DIVERGENCE_CHECK_STEPS == 0) and run.has_diverged():
        yield run.roll_back()
    elif is_end:
        yield run.end_cycle()
    elif run.plan.is_look_due(run.step):
        run.look()
    yield from run.plan.announce()


def _resolved(config: TrainingConfig, dataset: Dataset, device: str, resume_from: Checkpoint | None) -> TrainingConfig:
    """The resolved config; a resumed run keeps what "auto" meant where it started."""
    if resume_from is None:
        return resolve(config, dataset, device)
    started = TrainingConfig.model_validate(resume_from.state["config"])
    kept: dict[str, object] = {name: getattr(started, name) for name in ("precision", "augmentation") if getattr(config, name) == "auto"}
    if config.schedule.max_lr == "auto":
        kept["schedule"] = config.schedule.model_copy(update={"max_lr": started.schedule.max_lr})
    return config.model_copy(update=kept)
