"""The answer of a learning-rate range test: what its sweeps say together, and what its probes decide. Nothing here trains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, pstdev
from typing import Literal

import numpy as np

from clr.config import RangeTestConfig
from clr.probes import Probe, ProbeEnd, judged_losses
from clr.rate_curve import CurveAnswer, NoDescentError, read_curve, spread_decades
from clr.rate_ladder import LadderChoice, Losses, choose

ANSWERS = ("steepest", "minimum_tenth", "valley", "min_lr", "max_lr")

NUM_DRAWS = 200
"""Of rows and repeats, for the spread of the choice: its own error is then a twentieth of it."""

Level = Literal["high", "medium", "low", "single", "refused"]


@dataclass(frozen=True)
class Sweep:
    """One sweep as it was measured; it may end before its last rate.

    Attributes:
        seed: Of the run it trained.
        learning_rate: The rates that were used.
        loss: The mean loss at each, the last one not finite where ``stop_reason`` says so.
        batch_loss: At each rate, the loss of every mini-batch before its own update.
        smoothed: The bias-corrected moving average of the finite losses.
        stop_reason: None for a sweep that reached its last rate.
    """

    seed: int
    learning_rate: tuple[float, ...]
    loss: tuple[float, ...]
    batch_loss: tuple[tuple[float, ...], ...]
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
        spread_decades: Standard deviation, in decades, of each answer over the sweeps. That of a max_lr which probes decided is over
            draws with replacement of the validation rows and of the repeats of the probes: how far the choice is one of these rows. Where
            each rate was probed once, what another seed of the probes would change isn't in it.
        level: How sure max_lr is, by its spread, one step lower if some sweeps had no descent; "single" where one sweep decided alone.
        num_without_descent: Sweeps that say nothing.
        num_steps: Optimizer steps of all sweeps and probes, the price of the test.
        reason: Why this range, or why none and what to do, in words.
        refusal: The part of the reason that says why there is none, without the remedy; None where there is a range.
    """

    sweeps: tuple[Sweep, ...]
    probes: tuple[Probe, ...]
    suggestions: dict[str, float]
    min_lr: float | None
    max_lr: float | None
    curve_max_lr: float | None
    spread_decades: dict[str, float]
    level: Level
    num_without_descent: int
    num_steps: int
    reason: str
    refusal: str | None

    @property
    def is_refused(self) -> bool:
        """Whether the curves had no usable descent, or no probe learned what holds for validation rows."""
        return self.max_lr is None


def conclude(config: RangeTestConfig, sweeps: Sequence[Sweep]) -> RangeTestResult:
    """The answer of all sweeps together: medians of what the single curves say, or a refusal where most have no descent."""
    answers: list[CurveAnswer] = []
    refusals: list[NoDescentError] = []
    for one in sweeps:
        rates, losses = one.learning_rate[: len(one.smoothed)], one.loss[: len(one.smoothed)]
        try:
            answers.append(read_curve(rates, losses, beta=config.smoothing, is_cut_short=one.stop_reason is not None))
        except NoDescentError as refusal:
            refusals.append(refusal)
    num_steps = sum(len(batches) for one in sweeps for batches in one.batch_loss)
    if not answers or len(refusals) * 2 > len(sweeps):
        cause = f"in {len(refusals)} of {len(sweeps)} sweeps {refusals[0].cause}"
        empty = RangeTestResult(tuple(sweeps), (), {}, None, None, None, {}, "refused", len(refusals), num_steps, "", None)
        return refused(empty, cause, remedy=refusals[0].remedy)
    values = {name: [getattr(answer, name) for answer in answers] for name in ANSWERS}
    middle = {name: math.exp(median(map(math.log, several))) for name, several in values.items()}
    spread = {name: spread_decades(several) for name, several in values.items()}
    spread["curve_max_lr"] = spread["max_lr"]
    reason = (
        f"the loss falls steadily between {middle['min_lr']:.2g} and {middle['max_lr']:.2g}, steepest at {middle['steepest']:.2g}; "
        + (
            f"the upper ends of {len(answers)} sweeps spread over {spread['max_lr']:.2f} decades"
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
        level="single" if len(sweeps) == 1 else "low" if len(answers) == 1 else level_of(spread["max_lr"], len(refusals)),
        num_without_descent=len(refusals),
        num_steps=num_steps,
        reason=reason,
        refusal=None,
    )


def refused(result: RangeTestResult, refusal: str, *, remedy: str) -> RangeTestResult:
    """The same curves without a suggestion."""
    reason = f"no suggestion: {refusal}: {remedy}"
    return replace(result, suggestions={}, min_lr=None, max_lr=None, spread_decades={}, level="refused", reason=reason, refusal=refusal)


def level_of(spread: float, num_without_descent: int) -> Level:
    """How sure an answer with this spread in decades is, one step lower where some sweeps had no descent."""
    levels: tuple[Level, ...] = ("high", "medium", "low")
    level = 0 if spread < 0.15 else 1 if spread < 0.4 else 2
    return levels[min(2, level + (num_without_descent > 0))]


def pooled(ends: Mapping[int, Sequence[ProbeEnd]], constant: Losses) -> dict[int, Losses]:
    """Each rung's losses, row by row, as means over the repeats."""
    return {rung: np.mean([judged_losses(end.losses, constant) for end in several], axis=0) for rung, several in ends.items()}


def decide(curve: RangeTestResult, centre: float, ends: Mapping[int, Sequence[ProbeEnd]], constant: Losses) -> RangeTestResult:
    """The answer of the probes; rung k of ``ends`` has ``centre * 2**k`` as its maximum rate.

    Args:
        curve: The answer of the sweeps.
        centre: The rate of rung 0.
        ends: How the probes of each rung ended, one per repeat.
        constant: The validation rows' losses under a constant prediction.
    """
    losses = pooled(ends, constant)
    probes = tuple(Probe(centre * 2.0**rung, _mean_loss(ends[rung])) for rung in sorted(ends))
    told = replace(curve, probes=probes, num_steps=curve.num_steps + sum(end.num_steps for several in ends.values() for end in several))
    tried = f"{len(probes)} short trainings at rates from {probes[0].learning_rate:.2g} to {probes[-1].learning_rate:.2g}"
    level = f"a constant's loss is {constant.mean():.4g}"
    if min(each.mean() for each in losses.values()) >= constant.mean():
        refusal = f"none of {tried} predicts the validation rows better than a constant ({level})"
        return refused(told, refusal, remedy="set probe_steps higher, or look at the data and the network")
    choice = choose(losses, constant_loss=constant.mean())
    assert curve.min_lr is not None
    max_lr = centre * 2.0**choice.rung
    spread = curve.spread_decades | {"max_lr": choice_spread(ends, constant)}
    return replace(
        told,
        min_lr=min(curve.min_lr, max_lr / 3),
        max_lr=max_lr,
        spread_decades=spread,
        level=level_of(spread["max_lr"], curve.num_without_descent),
        reason=f"of {tried}, {_why(choice, centre)} (loss {losses[choice.rung].mean():.4g}, {level}); by the curves alone {curve.reason}",
    )


def choice_spread(ends: Mapping[int, Sequence[ProbeEnd]], constant: Losses) -> float:
    """The standard deviation of the choice, in decades, over draws with replacement of rows and repeats, the same ones each time."""
    draws = np.random.default_rng(0)
    num_repeats = min(map(len, ends.values()))
    by_repeat = [pooled({rung: [several[n]] for rung, several in ends.items()}, constant) for n in range(num_repeats)]
    rungs = []
    for _ in range(NUM_DRAWS):
        rows = draws.integers(len(constant), size=len(constant))
        repeats = draws.integers(num_repeats, size=num_repeats)
        drawn = {rung: np.mean([by_repeat[n][rung][rows] for n in repeats], axis=0) for rung in ends}
        rungs.append(choose(drawn, constant_loss=constant[rows].mean()).rung)
    return pstdev(rungs) * math.log10(2)


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
