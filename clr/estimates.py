"""A mean over seeds with what it is worth: standard deviation and t-interval. This module doesn't import torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """What several seeds say about one number.

    Attributes:
        mean: Over the seeds that have a value.
        sd: Their sample standard deviation; None below two.
        low: Lower end of the 95 % interval of Student's t for the mean, clipped to what is possible; None below two.
        high: Its upper end.
        per_seed: One value for each seed, None where its runs failed.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float | None, ...]

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None below two values."""
        return None if self.sd is None else self.sd / math.sqrt(sum(value is not None for value in self.per_seed))


def estimate(per_seed: Sequence[float | None], *, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate | None:
    """The estimate from one value for each seed; None where no seed has one.

    Args:
        per_seed: The values, None where there is none.
        bounds: Values that the number can have; the interval ends there.
    """
    values = [value for value in per_seed if value is not None]
    if not values:
        return None
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, None, tuple(per_seed))
    sd = stdev(values)
    reach = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(len(values))
    return Estimate(mean, sd, max(mean - reach, bounds[0]), min(mean + reach, bounds[1]), tuple(per_seed))


def paired_difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Estimate | None:
    """The estimate of ours - theirs, seed by seed: what two arms have in common by their seed drops out."""
    return estimate([None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)])
