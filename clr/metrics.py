"""Measures of predictions, in float64.

Shapes: B rows, C classes. ``probs_BC`` are probabilities after softmax, ``labels_B`` class indices.
"""

import torch
from torch import Tensor

NUM_BINS = 15
"""Bins of the expected calibration error (1706.04599, section 5)."""


def accuracy(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Share of rows whose most probable class is right; ties go to the lowest class."""
    return (probs_BC.argmax(1) == labels_B).double().mean().item()


def negative_log_likelihood(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Mean of -ln p(right class); a probability of 0 counts as the smallest normal float64, so the result is finite."""
    chosen_B = probs_BC.double().gather(1, labels_B[:, None])
    return -chosen_B.clamp_min(torch.finfo(torch.float64).tiny).log().mean().item()


def brier_score(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Mean squared distance between the probabilities and the one-hot label, summed over classes: 0 to 2."""
    distance_BC = probs_BC.double().clone()
    distance_BC[torch.arange(len(labels_B)), labels_B] -= 1
    return distance_BC.square().sum(1).mean().item()


def expected_calibration_error(probs_BC: Tensor, labels_B: Tensor, num_bins: int = NUM_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of equal width (l, u] of the confidence (1706.04599, equation 3)."""
    confidence_B, predictions_B = probs_BC.double().max(1)
    bins_B = (confidence_B * num_bins).ceil().long().sub_(1).clamp_(0, num_bins - 1)
    gaps = torch.zeros(num_bins, dtype=torch.float64)
    gaps.index_add_(0, bins_B, confidence_B - (predictions_B == labels_B).double())
    return gaps.abs().sum().item() / len(labels_B)


def rmse(values_B: Tensor, targets_B: Tensor) -> float:
    """Root of the mean squared error."""
    return (values_B.double() - targets_B.double()).square().mean().sqrt().item()


def mae(values_B: Tensor, targets_B: Tensor) -> float:
    """Mean absolute error."""
    return (values_B.double() - targets_B.double()).abs().mean().item()


def classification_metrics(probs_BC: Tensor, labels_B: Tensor) -> dict[str, float]:
    """All measures of a classification; ``loss`` is the negative log-likelihood."""
    nll = negative_log_likelihood(probs_BC, labels_B)
    return {
        "loss": nll,
        "accuracy": accuracy(probs_BC, labels_B),
        "nll": nll,
        "brier": brier_score(probs_BC, labels_B),
        "ece": expected_calibration_error(probs_BC, labels_B),
    }


def regression_metrics(values_B: Tensor, targets_B: Tensor) -> dict[str, float]:
    """All measures of a regression in the target's own unit; ``loss`` is the mean squared error."""
    root = rmse(values_B, targets_B)
    return {"loss": root**2, "rmse": root, "mae": mae(values_B, targets_B)}
