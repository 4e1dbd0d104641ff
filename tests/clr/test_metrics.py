"""Metrics against values by hand, scikit-learn-free closed forms and an independent calibration error."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clr.metrics import (
    accuracy,
    brier_score,
    classification_metrics,
    expected_calibration_error,
    mae,
    negative_log_likelihood,
    regression_metrics,
    rmse,
)

PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 2])


def random_probs(seed: int, num_rows: int = 50, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_rows, num_classes, generator=draws, dtype=torch.float64)
    return logits.softmax(1), torch.randint(num_classes, (num_rows,), generator=draws)


def test_values_by_hand() -> None:
    assert accuracy(PROBS, LABELS) == pytest.approx(2 / 3)
    assert negative_log_likelihood(PROBS, LABELS) == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.5)) / 3)
    assert brier_score(PROBS, LABELS) == pytest.approx(((0.09 + 0.04 + 0.01) + (0.01 + 0.36 + 0.49) + (0.0625 + 0.0625 + 0.25)) / 3)
    # Confidences 0.7 (right), 0.6 (wrong), 0.5 (right) fall into bins of their own.
    assert expected_calibration_error(PROBS, LABELS) == pytest.approx((0.3 + 0.6 + 0.5) / 3)
    assert classification_metrics(PROBS, LABELS).keys() == {"loss", "accuracy", "nll", "brier", "ece"}


def test_ties_go_to_the_lowest_class() -> None:
    probs = torch.full((2, 4), 0.25)
    assert accuracy(probs, torch.tensor([0, 3])) == 0.5


def test_impossible_labels_cost_much_but_not_everything() -> None:
    nll = negative_log_likelihood(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert nll == pytest.approx(-math.log(np.finfo(np.float64).tiny))


def test_confidence_on_a_bin_edge_belongs_to_the_lower_bin() -> None:
    # With two bins, 0.5 shares (0, 0.5] with 0.4, and their errors cancel: -0.5 + 0.4 = -0.1.
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]], dtype=torch.float64)
    assert expected_calibration_error(probs, torch.tensor([0, 1]), num_bins=2) == pytest.approx(0.1 / 2)
    assert expected_calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0


@given(st.integers(0, 10_000))
def test_calibration_error_agrees_with_a_plain_loop(seed: int) -> None:
    probs, labels = random_probs(seed)
    confidence, chosen = probs.numpy().max(1), probs.numpy().argmax(1)
    total = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - (chosen == labels.numpy())[inside].mean())
    assert expected_calibration_error(probs, labels) == pytest.approx(total / len(labels), abs=1e-12)


@given(st.integers(0, 10_000))
def test_likelihood_agrees_with_torch(seed: int) -> None:
    probs, labels = random_probs(seed)
    assert negative_log_likelihood(probs, labels) == pytest.approx(torch.nn.functional.nll_loss(probs.log(), labels).item(), rel=1e-12)


def test_metrics_do_not_change_their_arguments() -> None:
    probs, labels = PROBS.clone(), LABELS.clone()
    classification_metrics(probs, labels)
    assert torch.equal(probs, PROBS)
    assert torch.equal(labels, LABELS)


def test_regression_metrics_by_hand() -> None:
    values, targets = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 4.0, 5.0])
    assert rmse(values, targets) == pytest.approx(math.sqrt(5 / 3))
    assert mae(values, targets) == 1.0
    assert regression_metrics(values, targets) == {"loss": pytest.approx(5 / 3), "rmse": pytest.approx(math.sqrt(5 / 3)), "mae": 1.0}
