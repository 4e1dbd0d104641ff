"""The deep-ensemble equivalent, read off a curve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.deep_ensembles import Equivalent, equivalent, windows

CURVE = (0.5, 0.4, 0.35, 0.33)


def test_an_ensemble_of_n_independent_networks_is_worth_n() -> None:
    assert [equivalent(nll, CURVE) for nll in CURVE] == [Equivalent(float(n), None) for n in (1, 2, 3, 4)]


def test_between_two_sizes_the_answer_is_interpolated() -> None:
    assert equivalent(0.45, CURVE).networks == pytest.approx(1.5)
    assert equivalent(0.36, CURVE).networks == pytest.approx(2.8)


def test_outside_of_the_curve_only_a_bound_is_known() -> None:
    assert equivalent(0.51, CURVE) == Equivalent(1.0, "below")
    assert equivalent(0.32, CURVE) == Equivalent(4.0, "above")
    assert [equivalent(nll, CURVE).words for nll in (0.51, 0.45, 0.32)] == ["less than 1", "1.5", "more than 4"]


def test_on_a_curve_that_rises_again_the_smallest_ensemble_counts() -> None:
    assert equivalent(0.45, (0.5, 0.4, 0.6, 0.3)).networks == pytest.approx(1.5)
    assert equivalent(0.35, (0.5, 0.4, 0.6, 0.3)).networks == pytest.approx(3 + 0.25 / 0.3)


@given(st.floats(0.33, 0.5), st.floats(0.33, 0.5))
def test_a_better_likelihood_is_worth_at_least_as_many_networks(one: float, other: float) -> None:
    better, worse = sorted((one, other))
    assert equivalent(better, CURVE).networks >= equivalent(worse, CURVE).networks


def test_windows_are_all_runs_of_neighbours() -> None:
    assert [list(window) for window in windows(4, 2)] == [[0, 1], [1, 2], [2, 3]]
    assert [list(window) for window in windows(3, 3)] == [[0, 1, 2]]
    assert windows(2, 3) == []
