"""Which rate to take, from short trainings at rates a factor of two apart: what to try next, and the choice.

Pure functions of losses; nothing here trains. A *rung* is a short training; rung k has ``centre * 2**k`` as its maximum rate. The
losses of a rung are those of the validation rows, one by one, so that rungs can be compared row by row.

A rung is judged together with its two neighbours, by the mean of the three with the weights 1, 2, 1: a rate is good when half of it
and twice of it are good as well. So one lucky short training doesn't decide, and the edge of divergence is kept at a distance. Of the
rungs that are as good as the best, the lowest is chosen: a long training prefers lower rates than a short one. As good means
a difference within its standard error over the rows, or within a hundredth of what training has gained at all: on rows that are easy to
predict, every higher rate drives the loss a little closer to zero, which says nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]

FIRST_RUNGS = (0, -1, 1, -2, 2)
"""The fewest that judge three rungs with both their neighbours."""

MAX_RUNGS = 10
"""The ladder ends here: nine octaves."""

MARGIN = 0.01
"""Of the fall from a constant prediction's loss to the best: less is no difference."""


@dataclass(frozen=True)
class LadderChoice:
    """The chosen rung.

    Attributes:
        rung: The lowest of those that are as good as the best.
        best: The rung with the lowest judged loss.
        is_settled: Whether the choice has a judged rung on either side; False where the ladder ended before.
    """

    rung: int
    best: int
    is_settled: bool


def next_rung(losses: Mapping[int, Losses], *, constant_loss: float) -> int | None:
    """The rung to try next, or None when the choice is settled or the ladder ends; arguments as for ``choose``."""
    for rung in FIRST_RUNGS:
        if rung not in losses:
            return rung
    choice = choose(losses, constant_loss=constant_loss)
    if choice.is_settled or len(losses) == MAX_RUNGS:
        return None
    return choice.rung + 2 if choice.rung + 2 not in losses else choice.rung - 2


def choose(losses: Mapping[int, Losses], *, constant_loss: float) -> LadderChoice:
    """The choice among the rungs that have both neighbours.

    Args:
        losses: For each rung without a gap, at least three, the loss of every validation row.
        constant_loss: The mean loss of the best constant prediction.
    """
    judged = {
        rung: (losses[rung - 1] + 2 * losses[rung] + losses[rung + 1]) / 4 for rung in losses if {rung - 1, rung + 1} <= losses.keys()
    }
    best = min(judged, key=lambda rung: (judged[rung].mean(), rung))
    margin = MARGIN * max(0.0, constant_loss - judged[best].mean())
    rung = best
    while rung - 1 in judged and _is_as_good(judged[rung - 1] - judged[best], margin):
        rung -= 1
    return LadderChoice(rung, best, {rung - 1, rung + 1} <= judged.keys())


def _is_as_good(differences: Losses, margin: float) -> bool:
    standard_error = differences.std() / math.sqrt(max(1, len(differences) - 1))
    return bool(differences.mean() <= max(margin, standard_error))
