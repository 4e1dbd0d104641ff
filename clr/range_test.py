"""The learning-rate range test: train briefly over rising rates, and read off which rates are worth using (1506.01186, section 3.3).

A curve shows which rates train at all, but not which trains best: the best maximum rate was measured between a third of the rate at
the curve's minimum and nearly three times it, depending on the network. So the curve only says where to look: *probes*, short
annealed trainings at rates around the minimum, decide on ``max_lr`` by their loss on the validation rows (``clr.rate_ladder``).

Every sweep and probe trains a network of its own, so nothing of the caller's changes, torch's random state included. The answer is a
range with its spread over the repeats and a reason in words, or a refusal with its reason; never a suggestion that isn't one.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import torch

from clr.batch_sizes import largest_fitting
from clr.config import RangeTestConfig
from clr.datasets import Dataset
from clr.plans import Plan, resolve, run_plan
from clr.probes import ProbeEnd, ProbeStep, constant_losses, endless_batches, probe, probe_length, repeat_seed, training_config
from clr.range_answer import RangeTestResult, Sweep, conclude, decide, pooled, refused
from clr.rate_curve import smooth, sweep_rates
from clr.rate_ladder import FIRST_RUNGS, next_rung
from clr.runs import Run
from clr.schedules import Schedule
from clr.splits import split_dataset


class RangeTestError(ValueError):
    """The data and the config leave nothing to sweep over. Raised before any training."""


@dataclass(frozen=True)
class RangeStep:
    """One rate of a sweep, just measured: the mean loss of its mini-batches, and of each the loss before its own update."""

    repeat: int
    index: int
    learning_rate: float
    loss: float
    batch_loss: tuple[float, ...]


def range_test(config: RangeTestConfig, dataset: Dataset, *, device: str = "cpu") -> RangeTestResult:
    """Sweeps, reads the curves, and probes around their minimum.

    Raises:
        RangeTestError: The training rows fill only one batch.
        DatasetError, ModelError: As ``clr.training.run_plan``.
    """
    steps = search(config, dataset, device=device)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: RangeTestResult = end.value
            return result


def search(config: RangeTestConfig, dataset: Dataset, *, device: str = "cpu") -> Generator[RangeStep | ProbeStep, None, RangeTestResult]:
    """The whole test step by step, so that its caller can show progress and leave at any time; returns the answer."""
    sweeps = []
    for repeat in range(config.repeats):
        losses = []
        for step in sweep(config, dataset, repeat=repeat, device=device):
            losses.append(step.batch_loss)
            yield step
        sweeps.append(finish_sweep(config, repeat, losses))
    return (yield from confirm(config, dataset, answer_of_curves(config, dataset, sweeps), device=device))


def planned_steps(config: RangeTestConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of a test in which no sweep ends early and the first probes settle the choice."""
    probes = len(FIRST_RUNGS) * config.probe_repeats if config.probes else 0
    return _sweep_steps(config) + probes * probe_length(config, steps_per_epoch)


def progress(config: RangeTestConfig, steps_per_epoch: int, event: RangeStep | ProbeStep) -> tuple[int, int]:
    """Steps done and steps planned, as far as is known at ``event``; what ended early counts as done."""
    planned = planned_steps(config, steps_per_epoch)
    if isinstance(event, RangeStep):
        return (event.repeat * config.num_rates + event.index + 1) * config.steps_per_rate, planned
    before = _sweep_steps(config) + event.index * event.num_steps
    return before + event.step, max(planned, before + event.num_steps)


def range_test_plan(config: RangeTestConfig, dataset: Dataset) -> Plan:
    """Lays out what a sweep trains, without training; every reason to refuse it shows here.

    Raises:
        RangeTestError: The training rows fill only one batch.
        DatasetError, ModelError: As ``clr.training.run_plan``.
    """
    plan = run_plan(training_config(config, 0), dataset)
    if plan.steps_per_epoch < 2:
        raise RangeTestError(
            f"the {plan.num_train_rows} training rows fill one batch of {config.batch_size}: every step would see the same rows; "
            f"set batch_size to {largest_fitting(plan.num_train_rows)} or less"
        )
    return plan


def sweep(config: RangeTestConfig, dataset: Dataset, *, repeat: int, device: str = "cpu") -> Iterator[RangeStep]:
    """One sweep, rate by rate; ends at the first loss that is not finite, or once the smoothed loss has diverged."""
    training = training_config(config, repeat)
    plan = range_test_plan(config, dataset)
    rates = sweep_rates(config.start_lr, config.end_lr, config.num_rates, exponential=config.sweep == "exponential")
    schedule = Schedule(len(rates) * config.steps_per_rate, (len(rates) * config.steps_per_rate,), rates.__getitem__)
    run = Run(resolve(training, dataset, device), dataset, schedule, plan.steps_per_epoch, torch.device(device))
    batches = endless_batches(run)
    losses: list[float] = []
    for index, rate in enumerate(rates):
        measured = []
        for _ in range(config.steps_per_rate):
            with torch.random.fork_rng():  # networks with dropout seed torch's global generators
                measured.append(run.update(next(batches), rate).item())
            if not math.isfinite(measured[-1]):
                break
        losses.append(fmean(measured))
        yield RangeStep(repeat, index, rate, losses[-1], tuple(measured))
        if _stop_reason(config, losses):
            return


def finish_sweep(config: RangeTestConfig, repeat: int, batch_losses: Sequence[Sequence[float]]) -> Sweep:
    """The sweep that measured these losses, those of one rate after the other from its first on."""
    rates = sweep_rates(config.start_lr, config.end_lr, config.num_rates, exponential=config.sweep == "exponential")
    losses = [fmean(measured) for measured in batch_losses]
    return Sweep(
        seed=repeat_seed(config, repeat),
        learning_rate=tuple(rates[: len(losses)]),
        loss=tuple(losses),
        batch_loss=tuple(map(tuple, batch_losses)),
        smoothed=tuple(smooth([loss for loss in losses if math.isfinite(loss)], config.smoothing)),
        stop_reason=_stop_reason(config, losses),
    )


def answer_of_curves(config: RangeTestConfig, dataset: Dataset, sweeps: Sequence[Sweep], *, was_stopped: bool = False) -> RangeTestResult:
    """What the curves alone say; a target that is the same in every training row is refused, for learning it shows nothing.

    Args:
        config: The test's.
        dataset: The test's.
        sweeps: The complete ones.
        was_stopped: Whether the test ended before its answer, which the reason then tells.
    """
    answer = conclude(config, sweeps)
    targets = dataset.targets[split_dataset(dataset, training_config(config, 0)).train]
    if bool((targets == targets[0]).all()):
        refusal = "the target is the same in every training row, so there is nothing to learn"
        answer = replace(refused(answer, refusal, remedy="choose another target, or look at the data"), curve_max_lr=None)
    if was_stopped:
        rests = f"the test was stopped, so this rests on the curves of {len(sweeps)} of {config.repeats} sweeps alone"
        answer = replace(answer, reason=f"{rests}: {answer.reason}")
    return answer


def confirm(
    config: RangeTestConfig, dataset: Dataset, curve: RangeTestResult, *, device: str = "cpu"
) -> Generator[ProbeStep, None, RangeTestResult]:
    """Probes around the curve's minimum until the choice is settled; returns the answer that they decide.

    A refused ``curve`` comes back as it is, and so does every one where ``config.probes`` is false.
    """
    if curve.is_refused or not config.probes:
        return curve
    centre = 10 * curve.suggestions["minimum_tenth"]
    constant = constant_losses(config, dataset)
    ends: dict[int, list[ProbeEnd]] = {}
    while (rung := next_rung(pooled(ends, constant), constant_loss=constant.mean())) is not None:
        index = sum(map(len, ends.values()))
        ends[rung] = []
        for repeat in range(config.probe_repeats):
            one = probe(config, dataset, centre * 2.0**rung, repeat=repeat, index=index + repeat, device=device)
            ends[rung].append((yield from one))
    return decide(curve, centre, ends, constant)


def _sweep_steps(config: RangeTestConfig) -> int:
    return config.repeats * config.num_rates * config.steps_per_rate


def _stop_reason(config: RangeTestConfig, losses: Sequence[float]) -> Literal["not_finite", "diverged"] | None:
    if losses and not math.isfinite(losses[-1]):
        return "not_finite"
    burn_in = max(10, config.num_rates // 10)
    smoothed = smooth(losses, config.smoothing)
    if len(smoothed) > burn_in and smoothed[-1] > config.divergence_factor * min(smoothed):
        return "diverged"
    return None
