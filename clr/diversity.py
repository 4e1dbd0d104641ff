"""How different the members of an ensemble are, and what that is worth: disagreement, correlation, ambiguity.

Everything in float64. Shapes: M members, B rows, C classes. The member axis comes first.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clr.metrics import brier_score, negative_log_likelihood

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Decomposition:
    """The ambiguity decomposition of one loss: ``ensemble_loss`` = ``mean_member_loss`` - ``diversity`` (Krogh and Vedelsby 1995).

    Attributes:
        loss: Which one.
        ensemble_loss: Of the members' mean prediction.
        mean_member_loss: The mean of the members' own losses.
        diversity: What averaging gains, >= 0; measured from the members alone, not as the difference of the two.
    """

    loss: Literal["nll", "brier", "squared_error"]
    ensemble_loss: float
    mean_member_loss: float
    diversity: float


@dataclass(frozen=True)
class Diversity:
    """How the members differ on the same rows.

    Attributes:
        num_rows: B.
        disagreement: M x M, the share of rows on which two members choose different classes; None for regression.
        correlation: M x M, of the members' flattened probabilities (1704.00109, section 4.4, figure 6) or of their values; NaN for a
            member that says the same everywhere.
        decompositions: NLL and Brier score, or the squared error.
    """

    num_rows: int
    disagreement: Matrix | None
    correlation: Matrix
    decompositions: tuple[Decomposition, ...]


def classification_diversity(member_probs_MBC: Tensor, labels_B: Tensor) -> Diversity:
    """The diversity of members that give probabilities."""
    probs_MBC = member_probs_MBC.double()
    chosen_MB = probs_MBC.argmax(2)
    disagreement_MM = torch.stack([(chosen_MB != chosen_B).double().mean(1) for chosen_B in chosen_MB])  # M x M x B would be large
    return Diversity(
        num_rows=len(labels_B),
        disagreement=_matrix(disagreement_MM),
        correlation=_matrix(correlation(probs_MBC.flatten(1))),
        decompositions=(decompose_nll(probs_MBC, labels_B), decompose_brier(probs_MBC, labels_B)),
    )


def regression_diversity(member_values_MB: Tensor, targets_B: Tensor) -> Diversity:
    """The diversity of members that give values."""
    values_MB = member_values_MB.double()
    return Diversity(len(targets_B), None, _matrix(correlation(values_MB)), (decompose_squared_error(values_MB, targets_B),))


def correlation(outputs_MN: Tensor) -> Tensor:
    """Pearson's correlation between the members' outputs, M x M, with ones on the diagonal; NaN where one is constant."""
    centred_MN = outputs_MN.double() - outputs_MN.double().mean(1, keepdim=True)
    norms_M = torch.linalg.vector_norm(centred_MN, dim=1)
    is_constant_M = norms_M <= 1e-12 * torch.linalg.vector_norm(outputs_MN.double(), dim=1)  # rounding of the mean is no variation
    unit_MN = centred_MN / norms_M[:, None]
    correlation_MM: Tensor = (unit_MN @ unit_MN.T).clamp(-1, 1).fill_diagonal_(1)
    return correlation_MM.where(~(is_constant_M[:, None] | is_constant_M[None]), math.nan)


def decompose_nll(member_probs_MBC: Tensor, labels_B: Tensor) -> Decomposition:
    """Of the negative log-likelihood: the diversity is the mean over rows and members of ln(mean p / p), >= 0 by Jensen's inequality.

    As in ``clr.metrics``, a probability of 0 counts as the smallest normal float64.
    """
    tiny = torch.finfo(torch.float64).tiny
    probs_MBC = member_probs_MBC.double().clamp_min(tiny)
    right_MB = probs_MBC.gather(2, labels_B.expand(len(probs_MBC), -1)[:, :, None]).squeeze(2)
    diversity = (right_MB.mean(0).log() - right_MB.log().mean(0)).mean().item()
    member_losses = [negative_log_likelihood(probs_BC, labels_B) for probs_BC in probs_MBC]
    ensemble_loss = negative_log_likelihood(probs_MBC.mean(0), labels_B)
    return Decomposition("nll", ensemble_loss, math.fsum(member_losses) / len(member_losses), max(0.0, diversity))


def decompose_brier(member_probs_MBC: Tensor, labels_B: Tensor) -> Decomposition:
    """Of the Brier score: the diversity is the mean over rows and members of |p - mean p|^2."""
    probs_MBC = member_probs_MBC.double()
    mean_BC = probs_MBC.mean(0)
    diversity = (probs_MBC - mean_BC).square().sum(2).mean().item()
    member_losses = [brier_score(probs_BC, labels_B) for probs_BC in probs_MBC]
    return Decomposition("brier", brier_score(mean_BC, labels_B), math.fsum(member_losses) / len(member_losses), diversity)


def decompose_squared_error(member_values_MB: Tensor, targets_B: Tensor) -> Decomposition:
    """Of the squared error: the diversity is the members' variance around their mean (Krogh and Vedelsby 1995, equation 7)."""
    values_MB, targets_B = member_values_MB.double(), targets_B.double()
    mean_B = values_MB.mean(0)
    return Decomposition(
        "squared_error",
        ensemble_loss=(mean_B - targets_B).square().mean().item(),
        mean_member_loss=(values_MB - targets_B).square().mean().item(),
        diversity=(values_MB - mean_B).square().mean().item(),
    )


def _matrix(values_MM: Tensor) -> Matrix:
    return tuple(map(tuple, values_MM.tolist()))
