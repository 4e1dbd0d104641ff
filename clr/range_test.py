"""The learning-rate range test: train briefly over rising rates, and read off which rates are worth using (1506.01186, section 3.3).

Every sweep trains a network of its own, so nothing of the caller's changes, torch's random state included. The answer is a
range with its spread over the repeats and a reason in words, or a refusal with its reason; never a suggestion that isn't one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

import torch

from clr.config import FixedSchedule, RangeTestConfig, RunConfig, TrainingConfig
from clr.datasets import Dataset
from clr.rate_curve import CurveAnswer, NoDescentError, read_curve, smooth, spread_decades, sweep_rates
from clr.runs import Run
from clr.schedules import Schedule
from clr.training import resolve, run_plan

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
        suggestions: ``steepest``, ``minimum_tenth``, ``valley``: medians over the repeats that had a descent; empty if refused.
        min_lr: Lower end of the range; None if refused.
        max_lr: Upper end of the range; None if refused.
        spread_decades: Standard deviation over the repeats, in decades, of each answer and of both ends.
        level: How far the repeats agree on max_lr; "single" where there was one.
        reason: Why this range, or why none, in words.
    """

    sweeps: tuple[Sweep, ...]
    suggestions: dict[str, float]
    min_lr: float | None
    max_lr: float | None
    spread_decades: dict[str, float]
    level: Literal["high", "medium", "low", "single", "refused"]
    reason: str

    @property
    def is_refused(self) -> bool:
        """Whether the curves had no usable descent."""
        return self.max_lr is None


def range_test(config: RangeTestConfig, dataset: Dataset, *, device: str = "cpu") -> RangeTestResult:
    """Sweeps ``config.repeats`` times and reads the curves.

    Raises:
        RangeTestError: The training rows fill only one batch.
        DatasetError, ModelError: As ``clr.training.run_plan``.
    """
    sweeps = []
    for repeat in range(config.repeats):
        losses = [step.loss for step in sweep(config, dataset, repeat=repeat, device=device)]
        sweeps.append(finish_sweep(config, repeat, losses))
    return conclude(config, sweeps)


def sweep(config: RangeTestConfig, dataset: Dataset, *, repeat: int, device: str = "cpu") -> Iterator[RangeStep]:
    """One sweep, rate by rate; ends at the first loss that is not finite, or once the smoothed loss has diverged."""
    training = _training_config(config, repeat)
    plan = run_plan(training, dataset)
    if plan.steps_per_epoch < 2:
        raise RangeTestError(
            f"the {plan.num_train_rows} training rows fill one batch of {config.batch_size}: every step would see the same rows; "
            f"set batch_size to {max(1, plan.num_train_rows // 8)} or less"
        )
    rates = sweep_rates(config.start_lr, config.end_lr, config.num_rates, exponential=config.sweep == "exponential")
    schedule = Schedule(len(rates) * config.steps_per_rate, (len(rates) * config.steps_per_rate,), rates.__getitem__)
    run = Run(resolve(training, device), dataset, schedule, plan.steps_per_epoch, torch.device(device))
    batches = _batches(run)
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
    if len(refusals) * 2 >= len(sweeps):
        reason = f"no suggestion: in {len(refusals)} of {len(sweeps)} sweeps {refusals[0]}"
        return RangeTestResult(tuple(sweeps), {}, None, None, {}, "refused", reason)
    values = {name: [getattr(answer, name) for answer in answers] for name in ANSWERS}
    middle = {name: math.exp(median(map(math.log, several))) for name, several in values.items()}
    spread = {name: spread_decades(several) for name, several in values.items()}
    level = _level(spread["max_lr"], len(answers))
    reason = (
        f"the loss falls steadily between {middle['min_lr']:.2g} and {middle['max_lr']:.2g}, steepest at {middle['steepest']:.2g}; "
        + (
            f"{len(answers)} sweeps agree on the upper end to {spread['max_lr']:.2f} decades"
            if len(answers) > 1
            else "one sweep, so no spread"
        )
        + (f"; {len(refusals)} of {len(sweeps)} sweeps had no descent" if refusals else "")
    )
    suggestions = {name: middle[name] for name in ("steepest", "minimum_tenth", "valley")}
    return RangeTestResult(tuple(sweeps), suggestions, middle["min_lr"], middle["max_lr"], spread, level, reason)


def _training_config(config: RangeTestConfig, repeat: int) -> TrainingConfig:
    shared = {name: getattr(config, name) for name in RunConfig.model_fields}
    return TrainingConfig(**shared | {"seed": config.seed + repeat, "schedule": FixedSchedule(epochs=1)})


def _batches(run: Run) -> Iterator[torch.Tensor]:
    epoch = 0
    while True:
        yield from run.batches(epoch)
        epoch += 1


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
