"""How many independently trained networks an ensemble is worth (2002.06470, section 4: the deep-ensemble equivalent).

Pure numbers; this module doesn't import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class Equivalent:
    """A number of independent networks; at a bound it is known only that it is below 1, or above the largest ensemble measured."""

    networks: float
    bound: Literal["below", "above"] | None

    @property
    def words(self) -> str:
        """``2.1``, ``less than 1`` or ``more than 5``."""
        match self.bound:
            case "below":
                return "less than 1"
            case "above":
                return f"more than {self.networks:g}"
            case None:
                return f"{self.networks:.1f}"


def windows(num_networks: int, size: int) -> list[range]:
    """The networks of each ensemble of ``size``: all runs of neighbours in a row of ``num_networks``. They overlap."""
    return [range(start, start + size) for start in range(num_networks - size + 1)]


def equivalent(nll: float, curve: Sequence[float]) -> Equivalent:
    """The smallest number of networks, interpolated linearly, whose calibrated likelihood is at least as good.

    Args:
        nll: The calibrated negative log-likelihood of the ensemble in question.
        curve: That of 1, 2, … independent networks, each a mean over ensembles of that size.
    """
    if nll > curve[0]:
        return Equivalent(1.0, "below")
    if nll == curve[0]:
        return Equivalent(1.0, None)
    for size, (smaller, larger) in enumerate(pairwise(curve), start=1):
        if larger <= nll:
            return Equivalent(size + (smaller - nll) / (smaller - larger), None)
    return Equivalent(float(len(curve)), "above")
