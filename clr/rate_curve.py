"""What the curve of a learning-rate range test says: smoothing, suggestions, a range, or a refusal in words.

Pure functions of rates and losses; nothing here trains. Rates are compared on a logarithmic axis, since that is where
their effect is even: with linear spacing the steepest descent moves to small rates.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, pstdev

MIN_POINTS = 10
"""Fewer losses than this show no slope."""

MIN_FALL = 0.03
"""The loss must fall by this share of its first level, and by three standard errors of its smoothed noise."""

FALLING = 0.05
"""A slope of less than this share of the steepest is flat: a noiseless curve falls a little everywhere."""

SLOPE_REACH = 1 / 25
"""A slope is measured over this share of the sweep's decades to either side."""

STEEP = 0.2
"""A descent belongs to the steep part while its slope is at least this share of the steepest."""


@dataclass(frozen=True)
class CurveAnswer:
    """What one sweep suggests.

    Attributes:
        steepest: Where the smoothed loss falls fastest against the logarithm of the rate.
        minimum_tenth: A tenth of the rate at the smoothed minimum.
        valley: The middle of the longest unbroken fall.
        min_lr: The first rate at which the loss falls at a fifth of the steepest slope, at most max_lr / 3 (1506.01186, section 3.3).
        max_lr: The last rate of the steep part, at most a third of the rate at the minimum, at least the steepest.
    """

    steepest: float
    minimum_tenth: float
    valley: float
    min_lr: float
    max_lr: float


class NoDescentError(ValueError):
    """The curve has no usable descent.

    Attributes:
        cause: Why.
        remedy: What to do.
    """

    def __init__(self, cause: str, *, remedy: str) -> None:
        super().__init__(f"{cause}: {remedy}")
        self.cause = cause
        self.remedy = remedy


def sweep_rates(start: float, end: float, count: int, *, exponential: bool) -> list[float]:
    """``count`` rates from ``start`` to ``end``, both included exactly."""
    last = count - 1
    if exponential:
        inner = [start * (end / start) ** (i / last) for i in range(1, last)]
    else:
        inner = [start + (end - start) * i / last for i in range(1, last)]
    return [start, *inner, end]


def smooth(losses: Sequence[float], beta: float) -> list[float]:
    """The bias-corrected exponential moving average: a constant loss stays constant from the first value on."""
    average, smoothed = 0.0, []
    for n, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        smoothed.append(average / (1 - beta**n))
    return smoothed


def smooth_centred(losses: Sequence[float], beta: float) -> list[float]:
    """The mean of all losses with the weights ``beta ** distance``, which has no lag and is as quiet at the ends as it can be.

    A one-sided average follows by ``1 / (1 - beta)`` values, half a decade in a usual sweep: it would shift every answer
    to rates that are too high.
    """
    before, after = _weighted_sums(losses, beta), _weighted_sums(losses[::-1], beta)[::-1]
    return [(a + b - loss) / (wa + wb - 1) for (a, wa), (b, wb), loss in zip(before, after, losses, strict=True)]


def _weighted_sums(losses: Sequence[float], beta: float) -> list[tuple[float, float]]:
    """For each loss the sum of it and those before it, with the weights ``beta ** distance``, and the sum of the weights."""
    total, weight, sums = 0.0, 0.0, []
    for loss in losses:
        total, weight = loss + beta * total, 1 + beta * weight
        sums.append((total, weight))
    return sums


def read_curve(rates: Sequence[float], losses: Sequence[float], *, beta: float, is_cut_short: bool = False) -> CurveAnswer:
    """The suggestions of one sweep.

    Args:
        rates: Rising rates.
        losses: The finite loss at each rate, before the update that used it.
        beta: Factor of the smoothing.
        is_cut_short: Whether the sweep ended before its last rate, as its loss diverged; higher rates are no remedy then.

    Raises:
        NoDescentError: Too few values, a flat curve, or a loss that only rises.
    """
    positive = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if rate > 0]
    if len(positive) < MIN_POINTS:
        raise NoDescentError(
            f"only {len(positive)} losses were finite and below the divergence bound, {MIN_POINTS} are needed",
            remedy="set start_lr lower" if is_cut_short else "set num_rates higher",
        )
    axis = [math.log(rate) for rate, _ in positive]
    raw = [loss for _, loss in positive]
    first = raw[: max(MIN_POINTS // 2, len(raw) // 10)]
    level = median(first)
    clipped = [min(loss, max(first)) for loss in raw]  # an explosion at the end must not hide the minimum before it
    curve = smooth_centred(clipped, beta)
    bottom = min(range(len(curve)), key=curve.__getitem__)
    _check_descent(level, curve, clipped, bottom, beta, is_cut_short=is_cut_short)
    slopes = _slopes(axis, curve)
    steepest = min(range(bottom + 1), key=slopes.__getitem__)
    if slopes[steepest] >= 0:
        raise NoDescentError("the smoothed loss never falls", remedy="set start_lr lower, or look at the data and the network")
    low, high = _around(slopes, steepest, bound=STEEP * slopes[steepest])
    start, end = _longest_fall(axis, slopes[: bottom + 1], bound=FALLING * slopes[steepest])
    at_bottom = math.exp(axis[bottom])
    max_lr = max(math.exp(axis[steepest]), min(math.exp(axis[high]), at_bottom / 3))
    return CurveAnswer(
        steepest=math.exp(axis[steepest]),
        minimum_tenth=at_bottom / 10,
        valley=math.exp((axis[start] + axis[end]) / 2),
        min_lr=min(math.exp(axis[low]), max_lr / 3),
        max_lr=max_lr,
    )


def spread_decades(values: Sequence[float]) -> float:
    """The standard deviation of rates in decades."""
    return pstdev(math.log10(value) for value in values)


def _check_descent(level: float, curve: Sequence[float], raw: Sequence[float], bottom: int, beta: float, *, is_cut_short: bool) -> None:
    fall = level - curve[bottom]
    noise = math.sqrt(fmean((loss - mean) ** 2 for loss, mean in zip(raw[: bottom + 1], curve[: bottom + 1], strict=True)))
    standard_error = noise * math.sqrt((1 - beta) / (1 + beta))
    if fall >= MIN_FALL * abs(level) and fall >= 3 * standard_error:
        return
    told = f"falls by {fall:.3g} from {level:.4g}" if fall > 0 else f"doesn't fall below its first level of {level:.4g}"
    raise NoDescentError(
        f"the loss {told}, noise is {noise:.3g}: no usable descent",
        remedy=_remedy(rises_at_once=raw[0] < level / 2 or fall < -MIN_FALL * abs(level), is_cut_short=is_cut_short),
    )


def _remedy(*, rises_at_once: bool, is_cut_short: bool) -> str:
    """What to do about a curve without descent, by where it went."""
    if rises_at_once:
        return "the first rates are too high already; set start_lr lower"
    quieter = "take more steps_per_rate or a larger batch_size, or look at the data and the network"
    return quieter if is_cut_short else f"set end_lr higher, {quieter}"


def _slopes(axis: Sequence[float], curve: Sequence[float]) -> list[float]:
    """Least-squares slope of the curve around each value, over the same share of the axis everywhere; the ends take their neighbours'."""
    reach = SLOPE_REACH * (axis[-1] - axis[0])
    slopes = []
    for value in axis:
        centre = min(max(value, axis[0] + reach), axis[-1] - reach)
        first = min(bisect_left(axis, centre - reach), len(axis) - 2)
        window = range(first, max(bisect_right(axis, centre + reach), first + 2))
        mean_x, mean_y = fmean(axis[i] for i in window), fmean(curve[i] for i in window)
        spread = sum((axis[i] - mean_x) ** 2 for i in window)
        slopes.append(sum((axis[i] - mean_x) * (curve[i] - mean_y) for i in window) / spread)
    return slopes


def _around(slopes: Sequence[float], centre: int, *, bound: float) -> tuple[int, int]:
    """The unbroken stretch around ``centre`` whose slopes are at most ``bound``."""
    first = last = centre
    while first > 0 and slopes[first - 1] <= bound:
        first -= 1
    while last + 1 < len(slopes) and slopes[last + 1] <= bound:
        last += 1
    return first, last


def _longest_fall(axis: Sequence[float], slopes: Sequence[float], *, bound: float) -> tuple[int, int]:
    """First and last index of the widest unbroken stretch whose slopes are at most ``bound``."""
    edges = [-1, *(i for i, slope in enumerate(slopes) if slope > bound), len(slopes)]
    stretches = [(a + 1, b - 1) for a, b in pairwise(edges) if b - a > 1]
    return max(stretches, key=lambda stretch: axis[stretch[1]] - axis[stretch[0]])
