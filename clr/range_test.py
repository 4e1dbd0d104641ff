"""The learning-rate range test: train briefly over rising rates, and read off which rates are worth using (1506.01186, section 3.3).

A curve shows which rates train at all, but not which trains best: the best maximum rate was measured between a third of the rate at
the curve's minimum and nearly three times it, depending on the network. So the curve only says where to look: *probes*, short
annealed trainings at rates around the minimum, decide on ``max_lr`` by their loss on the validation rows (``clr.rate_ladder``).

Every sweep and probe trains a network of its own, so nothing of the caller's changes, torch's random state included. The answer is a
range with its spread over the repeats and a reason in words, or a refusal with its reason; never a suggestion that isn't one.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal

import numpy as np
import torch

from clr.config import RangeTestConfig
from clr.datasets import Dataset
from clr.plans import Plan, resolve, run_plan
from clr.probes import Probe, ProbeEnd, ProbeStep, constant_losses, endless_batches, judged_losses, probe, probe_length, training_config
from clr.rate_curve import CurveAnswer, NoDescentError, read_curve, smooth, spread_decades, sweep_rates
from clr.rate_ladder import FIRST_RUNGS, LadderChoice, Losses, choose, next_rung
from clr.runs import Run
from clr.schedules import Schedule

ANSWERS = ("steepest", "minimum_tenth", "valley", "min_lr", "max_lr")


class RangeTestError(ValueError):
    """The data and the config leave nothing to sweep over. Raised before any training."""


@dataclass(frozen=True)
class RangeStep:
    """One rate of a sweep, just measured: the mean loss of its mini-batches, each before its own update."""

    repeat: int
    index: int
    learning_rate: float
    loss: float


@dataclass(frozen=True)
class Sweep:
    """One sweep as it was measured; it may end before its last rate.

    Attributes:
        seed: Of the run it trained.
        learning_rate: The rates that were used.
        loss: The mean loss at each, the last one not finite where ``stop_reason`` says so.
        smoothed: The bias-corrected moving average of the finite losses.
        stop_reason: None for a sweep that reached its last rate.
    """

    seed: int
    learning_rate: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    stop_reason: Literal["not_finite", "diverged"] | None


@dataclass(frozen=True)
class RangeTestResult:
    """The curves and what they suggest.

    Attributes:
        sweeps: One per repeat.
        probes: One per rate that was tried, lowest first; empty where the curve alone decides.
        suggestions: ``steepest``, ``minimum_tenth``, ``valley``: medians over the repeats that had a descent; empty if refused.
        min_lr: Lower end of the range; None if refused.
        max_lr: Upper end of the range, by the probes where there are any; None if refused.
        curve_max_lr: The upper end that the curve alone suggests; None where it has no descent.
        spread_decades: Standard deviation over the repeats, in decades, of each answer; of max_lr only where several decide on it.
        level: How far the repeats that decide on max_lr agree on it; "single" where there was one.
        num_steps: Optimizer steps of all sweeps and probes, the price of the test.
        reason: Why this range, or why none, in words.
    """

    sweeps: tuple[Sweep, ...]
    probes: tuple[Probe, ...]
    suggestions: dict[str, float]
    min_lr: float | None
    max_lr: float | None
    curve_max_lr: float | None
    spread_decades: dict[str, float]
    level: Literal["high", "medium", "low", "single", "refused"]
    num_steps: int
    reason: str

    @property
    def is_refused(self) -> bool:
        """Whether the curves had no usable descent, or no probe learned what holds for validation rows."""
        return self.max_lr is None


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
            losses.append(step.loss)
            yield step
        sweeps.append(finish_sweep(config, repeat, losses))
    return (yield from confirm(config, dataset, conclude(config, sweeps), device=device))


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
            f"set batch_size to {max(1, plan.num_train_rows // 8)} or less"
        )
    return plan


def sweep(config: RangeTestConfig, dataset: Dataset, *, repeat: int, device: str = "cpu") -> Iterator[RangeStep]:
    """One sweep, rate by rate; ends at the first loss that is not finite, or once the smoothed loss has diverged."""
    training = training_config(config, repeat)
    plan = range_test_plan(config, dataset)
    rates = sweep_rates(config.start_lr, config.end_lr, config.num_rates, exponential=config.sweep == "exponential")
    schedule = Schedule(len(rates) * config.steps_per_rate, (len(rates) * config.steps_per_rate,), rates.__getitem__)
    run = Run(resolve(training, device), dataset, schedule, plan.steps_per_epoch, torch.device(device))
    batches = endless_batches(run)
    losses: list[float] = []
    for index, rate in enumerate(rates):
        measured = []
        for _ in range(config.steps_per_rate):
            with torch.random.fork_rng():  # networks with dropout seed torch's global generators
                measured.append(run.update(next(batches), rate).item())
        losses.append(fmean(measured))
        yield RangeStep(repeat, index, rate, losses[-1])
        if _stop_reason(config, losses):
            return


def finish_sweep(config: RangeTestConfig, repeat: int, losses: Sequence[float]) -> Sweep:
    """The sweep that measured ``losses``, from its first rate on."""
    rates = sweep_rates(config.start_lr, config.end_lr, config.num_rates, exponential=config.sweep == "exponential")
    finite = [loss for loss in losses if math.isfinite(loss)]
    smoothed = smooth(finite, config.smoothing)
    return Sweep(config.seed + repeat, tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), _stop_reason(config, losses))


def conclude(config: RangeTestConfig, sweeps: Sequence[Sweep]) -> RangeTestResult:
    """The answer of all sweeps together: medians of what the single curves say, or a refusal where most have no descent."""
    answers: list[CurveAnswer] = []
    refusals: list[str] = []
    for one in sweeps:
        try:
            answers.append(read_curve(one.learning_rate[: len(one.smoothed)], one.loss[: len(one.smoothed)], beta=config.smoothing))
        except NoDescentError as refusal:
            refusals.append(str(refusal))
    num_steps = sum(len(one.loss) for one in sweeps) * config.steps_per_rate
    if len(refusals) * 2 >= len(sweeps):
        reason = f"no suggestion: in {len(refusals)} of {len(sweeps)} sweeps {refusals[0]}"
        return RangeTestResult(tuple(sweeps), (), {}, None, None, None, {}, "refused", num_steps, reason)
    values = {name: [getattr(answer, name) for answer in answers] for name in ANSWERS}
    middle = {name: math.exp(median(map(math.log, several))) for name, several in values.items()}
    spread = {name: spread_decades(several) for name, several in values.items()}
    spread["curve_max_lr"] = spread["max_lr"]
    reason = (
        f"the loss falls steadily between {middle['min_lr']:.2g} and {middle['max_lr']:.2g}, steepest at {middle['steepest']:.2g}; "
        + (
            f"{len(answers)} sweeps agree on the upper end to {spread['max_lr']:.2f} decades"
            if len(answers) > 1
            else "one sweep, so no spread"
        )
        + (f"; {len(refusals)} of {len(sweeps)} sweeps had no descent" if refusals else "")
    )
    return RangeTestResult(
        sweeps=tuple(sweeps),
        probes=(),
        suggestions={name: middle[name] for name in ("steepest", "minimum_tenth", "valley")},
        min_lr=middle["min_lr"],
        max_lr=middle["max_lr"],
        curve_max_lr=middle["max_lr"],
        spread_decades=spread,
        level=_level(spread["max_lr"], len(answers)),
        num_steps=num_steps,
        reason=reason,
    )


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
    while (rung := next_rung(_pooled(ends, constant), constant_loss=constant.mean())) is not None:
        index = sum(map(len, ends.values()))
        ends[rung] = []
        for repeat in range(config.probe_repeats):
            one = probe(config, dataset, centre * 2.0**rung, repeat=repeat, index=index + repeat, device=device)
            ends[rung].append((yield from one))
    return _decided(curve, centre, ends, constant)


def _pooled(ends: Mapping[int, Sequence[ProbeEnd]], constant: Losses) -> dict[int, Losses]:
    """Each rung's losses, row by row, as means over the repeats."""
    return {rung: np.mean([judged_losses(end.losses, constant) for end in several], axis=0) for rung, several in ends.items()}


def _decided(curve: RangeTestResult, centre: float, ends: Mapping[int, Sequence[ProbeEnd]], constant: Losses) -> RangeTestResult:
    pooled = _pooled(ends, constant)
    probes = tuple(Probe(centre * 2.0**rung, _mean_loss(ends[rung])) for rung in sorted(ends))
    told = replace(curve, probes=probes, num_steps=curve.num_steps + sum(end.num_steps for several in ends.values() for end in several))
    tried = f"{len(probes)} short trainings at rates from {probes[0].learning_rate:.2g} to {probes[-1].learning_rate:.2g}"
    level = f"a constant's loss is {constant.mean():.4g}"
    lowest = min(losses.mean() for losses in pooled.values())
    if lowest >= constant.mean():
        reason = (
            f"no suggestion: none of {tried} predicts the validation rows better than a constant ({level}): set probe_steps higher, "
            "or look at the data and the network"
        )
        return replace(told, suggestions={}, min_lr=None, max_lr=None, spread_decades={}, level="refused", reason=reason)
    choice = choose(pooled, constant_loss=constant.mean())
    assert curve.min_lr is not None
    max_lr = centre * 2.0**choice.rung
    num_repeats = len(ends[choice.rung])
    spread = {name: value for name, value in curve.spread_decades.items() if name != "max_lr"}
    if num_repeats > 1:
        singles = [_pooled({rung: [several[n]] for rung, several in ends.items()}, constant) for n in range(num_repeats)]
        spread["max_lr"] = spread_decades([2.0 ** choose(single, constant_loss=constant.mean()).rung for single in singles])
    reason = f"of {tried}, {_why(choice, centre)} (loss {pooled[choice.rung].mean():.4g}, {level}); by the curves alone {curve.reason}"
    return replace(
        told,
        min_lr=min(curve.min_lr, max_lr / 3),
        max_lr=max_lr,
        spread_decades=spread,
        level=_level(spread.get("max_lr", 0.0), num_repeats),
        reason=reason,
    )


def _why(choice: LadderChoice, centre: float) -> str:
    """The choice in words."""
    max_lr, best = centre * 2.0**choice.rung, centre * 2.0**choice.best
    words = f"that at {best:.2g} and its neighbours predict the validation rows best"
    if choice.rung < choice.best:
        words += f", and {max_lr:.2g} is the lowest rate that is as good"
    return words if choice.is_settled else words + "; rates beyond were not tried"


def _mean_loss(ends: Sequence[ProbeEnd]) -> float | None:
    means = [float(end.losses.mean()) for end in ends if end.losses is not None]
    return fmean(means) if len(means) == len(ends) else None


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


def _level(spread: float, count: int) -> Literal["high", "medium", "low", "single"]:
    if count == 1:
        return "single"
    return "high" if spread < 0.15 else "medium" if spread < 0.4 else "low"
