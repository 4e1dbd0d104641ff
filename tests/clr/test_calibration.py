"""Temperature scaling after pooling."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clr.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, log_loss, pool, temper
from clr.metrics import negative_log_likelihood


def draw(seed: int, *, rows: int = 200, classes: int = 4, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels that are drawn from their probabilities: calibrated by construction."""
    draws = torch.Generator().manual_seed(seed)
    logits_BC = sharpness * torch.randn(rows, classes, generator=draws, dtype=torch.float64)
    return logits_BC, torch.multinomial(logits_BC.softmax(1), 1, generator=draws).squeeze(1)


def test_pooling_is_the_mean_of_probabilities() -> None:
    logits = [torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[math.log(3.0), 0.0]])]
    assert pool(logits).exp().tolist() == [pytest.approx([0.5, 0.5])]
    assert pool(logits[:1]).exp().tolist() == [pytest.approx([0.25, 0.75])]


def test_pooling_identical_members_gives_the_member() -> None:
    logits_BC, _ = draw(0)
    torch.testing.assert_close(pool([logits_BC] * 5), logits_BC.log_softmax(1), atol=1e-14, rtol=0)


def test_temperature_by_hand() -> None:
    # Logit 2 for class 0, and class 0 is right in 3 of 4 rows: p_T = 3/4 where 2 / T = ln 3.
    found = fit_temperature(torch.tensor([[2.0, 0.0]], dtype=torch.float64).log_softmax(1).expand(4, 2), torch.tensor([0, 0, 0, 1]))
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-12)
    assert not found.is_at_bound


@given(st.integers(0, 1000), st.floats(0.2, 5.0))
def test_scaling_the_logits_scales_the_temperature(seed: int, factor: float) -> None:
    logits_BC, labels_B = draw(seed)
    plain, scaled = fit_temperature(logits_BC.log_softmax(1), labels_B), fit_temperature((factor * logits_BC).log_softmax(1), labels_B)
    assert scaled.value == pytest.approx(factor * plain.value, rel=1e-9)


@given(st.integers(0, 1000))
def test_no_other_temperature_has_a_better_likelihood(seed: int) -> None:
    logits_BC, labels_B = draw(seed, rows=50)
    log_probs_BC = logits_BC.log_softmax(1)
    best = log_loss(temper(log_probs_BC, fit_temperature(log_probs_BC, labels_B).value), labels_B)
    for other in (0.05, 0.3, 0.9, 1.0, 1.1, 3.0, 20.0):
        assert best <= log_loss(temper(log_probs_BC, other), labels_B) + 1e-12


def test_calibrated_predictions_keep_their_temperature() -> None:
    logits_BC, labels_B = draw(1, rows=20_000)
    assert fit_temperature(logits_BC.log_softmax(1), labels_B).value == pytest.approx(1.0, abs=0.04)  # four standard errors


def test_the_search_ends_at_its_bounds() -> None:
    logits_BC, labels_B = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log_softmax(1), torch.tensor([0, 1])
    right, wrong = fit_temperature(logits_BC, labels_B), fit_temperature(logits_BC, 1 - labels_B)
    assert (right.value, right.is_at_bound) == (MIN_TEMPERATURE, True)
    assert (wrong.value, wrong.is_at_bound) == (MAX_TEMPERATURE, True)


def test_predictions_without_preference_keep_temperature_one() -> None:
    found = fit_temperature(torch.full((6, 3), -math.log(3.0)), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert (found.value, found.is_at_bound) == (1.0, False)


def test_log_loss_agrees_with_that_of_probabilities() -> None:
    logits_BC, labels_B = draw(2)
    assert log_loss(logits_BC.log_softmax(1), labels_B) == pytest.approx(negative_log_likelihood(logits_BC.softmax(1), labels_B), rel=1e-12)
    torch.testing.assert_close(temper(logits_BC.log_softmax(1), 1.0), logits_BC.log_softmax(1), atol=1e-14, rtol=0)
