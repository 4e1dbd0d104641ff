"""Calibration of a pooled prediction by one temperature, fitted on validation rows.

2007.08792: pool first, then calibrate; members that are calibrated one by one give a mean that is not. 2002.06470: likelihoods of
different methods can be compared only after this step. Everything in float64.

Shapes: M members, B rows, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Where the search ends: validation rows that are all predicted right would ask for 0."""


@dataclass(frozen=True)
class Temperature:
    """``p_T`` is proportional to ``p ** (1 / value)``; ``is_at_bound`` says that the search ended there and not at a minimum."""

    value: float
    is_at_bound: bool


def pool(member_logits: Sequence[Tensor]) -> Tensor:
    """The logarithm (B, C) of the members' mean probabilities, from the logits (B, C) of each."""
    log_probs_MBC = torch.stack([logits_BC.double().log_softmax(1) for logits_BC in member_logits])
    return log_probs_MBC.logsumexp(0) - math.log(len(member_logits))


def fit_temperature(log_probs_BC: Tensor, labels_B: Tensor) -> Temperature:
    """The temperature with the lowest negative log-likelihood, within the bounds.

    The likelihood is concave in ``1 / T``, so its slope has one zero; bisecting that finds it to the last digits, where a search
    for the lowest value would stop at half of them.
    """
    scores_BC = log_probs_BC.double()
    if bool((scores_BC == scores_BC[:, :1]).all()):
        return Temperature(1.0, is_at_bound=False)  # no class is preferred anywhere: every temperature says the same
    right_B = scores_BC.gather(1, labels_B[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        """Of the negative log-likelihood against 1 / T."""
        return ((scores_BC * (scores_BC * inverse).softmax(1)).sum(1) - right_B).mean().item()

    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)
    if slope(math.exp(low)) >= 0:
        return Temperature(MAX_TEMPERATURE, is_at_bound=True)
    if slope(math.exp(high)) <= 0:
        return Temperature(MIN_TEMPERATURE, is_at_bound=True)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return Temperature(math.exp(-middle), is_at_bound=False)


def temper(log_probs_BC: Tensor, temperature: float) -> Tensor:
    """The log-probabilities at a temperature; 1 leaves them as they are."""
    return (log_probs_BC.double() / temperature).log_softmax(1)


def log_loss(log_probs_BC: Tensor, labels_B: Tensor) -> float:
    """The negative log-likelihood; unlike that of probabilities it needs no lower bound."""
    return -log_probs_BC.double().gather(1, labels_B[:, None]).mean().item()
