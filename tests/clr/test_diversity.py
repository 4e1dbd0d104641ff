"""Diversity: the ambiguity decompositions hold exactly, and the matrices agree with numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clr.diversity import (
    classification_diversity,
    correlation,
    decompose_brier,
    decompose_nll,
    decompose_squared_error,
    regression_diversity,
)
from tests.clr.test_ensemble import members


@given(members)
def test_ensemble_loss_is_mean_member_loss_minus_diversity(drawn: tuple[Tensor, Tensor]) -> None:
    probs_MBC, labels_B = drawn
    for decomposition in (decompose_nll(probs_MBC, labels_B), decompose_brier(probs_MBC, labels_B)):
        expected = decomposition.mean_member_loss - decomposition.diversity
        assert decomposition.ensemble_loss == pytest.approx(expected, abs=1e-12)
        assert decomposition.diversity >= 0


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_squared_error_of_the_mean_is_the_mean_error_minus_the_variance(seed: int, num_members: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    values_MB = 1000 * torch.randn(num_members, 15, generator=draws)
    one = decompose_squared_error(values_MB, torch.randn(15, generator=draws))
    assert one.ensemble_loss == pytest.approx(one.mean_member_loss - one.diversity, rel=1e-9)
    assert one.diversity >= 0


def test_decompositions_by_hand() -> None:
    probs_MBC = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]]], dtype=torch.float64)
    nll = decompose_nll(probs_MBC, torch.tensor([0]))
    assert nll.ensemble_loss == pytest.approx(math.log(2))
    assert nll.mean_member_loss == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert nll.diversity == pytest.approx(math.log(0.5) - (math.log(0.8) + math.log(0.2)) / 2)
    brier = decompose_brier(probs_MBC, torch.tensor([0]))
    assert (brier.ensemble_loss, brier.mean_member_loss, brier.diversity) == pytest.approx((0.5, 0.68, 0.18))
    squared = decompose_squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([5.0]))
    assert (squared.ensemble_loss, squared.mean_member_loss, squared.diversity) == (9.0, 10.0, 1.0)


def test_a_member_that_rules_the_right_class_out_leaves_finite_losses() -> None:
    one = decompose_nll(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), torch.tensor([0]))
    assert one.ensemble_loss == pytest.approx(math.log(2))
    assert one.ensemble_loss == pytest.approx(one.mean_member_loss - one.diversity, abs=1e-12)
    everyone = decompose_nll(torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]), torch.tensor([0]))
    assert everyone.diversity == 0
    assert everyone.ensemble_loss == everyone.mean_member_loss == pytest.approx(708.396, abs=1e-3)


def test_disagreement_by_hand() -> None:
    logits_MBC = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1], [0, 1]], [[0, 1], [0, 1], [1, 0], [1, 0]]])
    found = classification_diversity(logits_MBC, torch.zeros(4, dtype=torch.int64))
    assert found.disagreement == ((0.0, 0.25, 1.0), (0.25, 0.0, 0.75), (1.0, 0.75, 0.0))
    assert found.num_rows == 4


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_correlation_is_that_of_numpy(seed: int, num_members: int) -> None:
    outputs_MN = torch.randn(num_members, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    np.testing.assert_allclose(correlation(outputs_MN).numpy(), np.corrcoef(outputs_MN.numpy()), atol=1e-12)


def test_correlation_of_probabilities_is_over_rows_and_classes_together() -> None:
    probs_MBC = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1)).softmax(2)
    found = classification_diversity(probs_MBC, torch.zeros(8, dtype=torch.int64))
    np.testing.assert_allclose(found.correlation, np.corrcoef(probs_MBC.double().reshape(3, -1).numpy()), atol=1e-12)


def test_a_member_that_says_the_same_everywhere_has_no_correlation() -> None:
    values_MB = torch.tensor([[1.0, 2.0, 4.0], [0.1, 0.1, 0.1], [-1.0, -2.0, -4.0]])
    found = regression_diversity(values_MB, torch.zeros(3))
    assert found.disagreement is None
    np.testing.assert_allclose(found.correlation, [[1, np.nan, -1], [np.nan, np.nan, np.nan], [-1, np.nan, 1]], atol=1e-12)


def test_identical_members_have_no_diversity() -> None:
    probs_BC = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    found = classification_diversity(probs_BC.expand(3, -1, -1), torch.arange(8) % 4)
    assert found.disagreement == ((0.0,) * 3,) * 3
    np.testing.assert_allclose(found.correlation, np.ones((3, 3)), atol=1e-12)
    assert [one.diversity for one in found.decompositions] == pytest.approx([0, 0], abs=1e-15)
