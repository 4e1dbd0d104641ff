"""The reading of range-test curves: vectors of the sweep and the smoothing, curves with known answers, and refusals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.rate_curve import NoDescentError, read_curve, smooth, smooth_centred, spread_decades, sweep_rates


def test_exponential_sweep_hits_every_decade_and_both_ends() -> None:
    assert sweep_rates(1e-5, 10, 7, exponential=True) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10], rel=1e-12)
    assert sweep_rates(1e-5, 10, 100, exponential=True)[-1] == 10


def test_linear_sweep_hits_both_ends() -> None:
    assert sweep_rates(0, 1, 5, exponential=False) == [0, 0.25, 0.5, 0.75, 1]


def test_smoothing_keeps_a_constant_loss_constant_from_the_first_value() -> None:
    assert smooth([0.7] * 20, 0.98) == pytest.approx([0.7] * 20, rel=1e-14)


def test_smoothing_follows_the_formula() -> None:
    assert smooth([1.0, 2.0, 4.0], 0.5) == pytest.approx([1.0, 5 / 3, 3.0])


def test_centred_smoothing_has_no_lag() -> None:
    bump = [0.0] * 50 + [1.0] + [0.0] * 50
    centred = smooth_centred(bump, 0.9)
    assert centred.index(max(centred)) == 50
    assert centred[40] == pytest.approx(centred[60])


def test_centred_smoothing_weighs_by_distance() -> None:
    """The first of 1, 2, 4 with beta 0.5: (1 + 2 / 2 + 4 / 4) / (1 + 1/2 + 1/4); the middle one: (1/2 + 2 + 4/2) / 2."""
    assert smooth_centred([1.0, 2.0, 4.0], 0.5) == pytest.approx([3 / 1.75, 2.25, 5.25 / 1.75])
    assert smooth_centred([0.7] * 20, 0.9) == pytest.approx([0.7] * 20, rel=1e-14)


def falling_curve(rate: float) -> float:
    """From 2.3 down to 0.5, steepest at 0.02, with a minimum near 0.3 and an explosion beyond 1."""
    return 0.5 + 1.8 / (1 + (rate / 0.02) ** 2) + (rate / 1.5) ** 3


RATES = sweep_rates(1e-5, 10, 200, exponential=True)


def test_answers_of_a_clean_curve() -> None:
    answer = read_curve(RATES, [min(9.0, falling_curve(rate)) for rate in RATES], beta=0.5)
    bottom = min(RATES, key=falling_curve)
    assert answer.steepest == pytest.approx(0.02, rel=0.15)
    assert answer.minimum_tenth == pytest.approx(bottom / 10, rel=0.15)
    assert answer.min_lr < answer.steepest < answer.max_lr <= bottom / 3 * 1.15
    assert answer.min_lr < answer.valley < bottom


def test_the_steepest_rate_does_not_depend_on_the_spacing() -> None:
    linear = sweep_rates(0, 0.3, 2000, exponential=False)
    answer = read_curve(linear, [falling_curve(rate) for rate in linear], beta=0.5)
    assert answer.steepest == pytest.approx(0.02, rel=0.15)


def test_one_high_loss_at_the_start_is_not_the_descent() -> None:
    losses = [min(9.0, falling_curve(rate)) for rate in RATES]
    losses[0] += 1.0
    assert read_curve(RATES, losses, beta=0.9).steepest == pytest.approx(0.02, rel=0.3)


@given(st.integers(0, 10_000))
def test_noise_moves_the_answers_by_less_than_half_a_decade(seed: int) -> None:
    import random

    noise = random.Random(seed)
    losses = [min(9.0, falling_curve(rate)) + noise.gauss(0, 0.05) for rate in RATES]
    answer = read_curve(RATES, losses, beta=0.9)
    assert abs(math.log10(answer.steepest / 0.02)) < 0.5
    assert 0.02 < answer.max_lr < 0.2


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.3] * 200, "no usable descent"),
        ([2.3 + 0.001 * i for i in range(200)], "no usable descent"),
        ([2.3 + 0.3 * (-1) ** i for i in range(200)], "no usable descent"),
        ([2.3] * 5, "only 5 losses were finite"),
        ([], "only 0 losses were finite"),
    ],
)
def test_curves_without_descent_are_refused_in_words(losses: list[float], words: str) -> None:
    with pytest.raises(NoDescentError, match=words):
        read_curve(RATES[: len(losses)], losses, beta=0.9)


def remedy_of(losses: list[float], *, is_cut_short: bool) -> str:
    with pytest.raises(NoDescentError) as refusal:
        read_curve(RATES[: len(losses)], losses, beta=0.9, is_cut_short=is_cut_short)
    assert str(refusal.value) == f"{refusal.value.cause}: {refusal.value.remedy}"
    return refusal.value.remedy


def test_the_remedy_fits_how_the_sweep_ended() -> None:
    """Where the loss diverged, or was too high from the first rates on, higher rates would be the opposite of a remedy."""
    flat, rising = [2.3 + 0.1 * (-1) ** i for i in range(100)], [2.3, *([1e6] * 99)]
    assert remedy_of(flat, is_cut_short=False).startswith("set end_lr higher, take more steps_per_rate")
    assert remedy_of(flat, is_cut_short=True).startswith("take more steps_per_rate or a larger batch_size")
    for is_cut_short in (False, True):
        assert remedy_of(rising, is_cut_short=is_cut_short) == "the first rates are too high already; set start_lr lower"
    assert remedy_of([2.3] * 5, is_cut_short=True) == "set start_lr lower"
    assert remedy_of([2.3] * 5, is_cut_short=False) == "set num_rates higher"


def test_spread_is_in_decades() -> None:
    assert spread_decades([0.01, 0.1]) == pytest.approx(0.5)
    assert spread_decades([0.1]) == 0
