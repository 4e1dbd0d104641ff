"""Means over seeds with Student's intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.estimates import estimate, paired_difference

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


def test_three_seeds_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.sd) == (2.0, 1.0)
    reach = 4.302652729749464 / math.sqrt(3)  # 0.975 quantile of t with 2 degrees of freedom, from the tables
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach), rel=1e-12)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))


def test_two_seeds_have_the_cauchy_quantile() -> None:
    found = estimate([0.0, 2.0])
    assert found is not None
    assert found.high == pytest.approx(1 + math.tan(math.pi * 0.475), rel=1e-12)  # sd / sqrt(2) is 1


def test_one_seed_has_no_interval() -> None:
    found = estimate([4.0])
    assert found is not None
    assert (found.mean, found.sd, found.low, found.high, found.standard_error) == (4.0, None, None, None, None)


def test_seeds_without_a_value_are_left_out_but_shown() -> None:
    found = estimate([1.0, None, 3.0])
    assert found is not None
    assert (found.mean, found.per_seed) == (2.0, (1.0, None, 3.0))
    assert found.standard_error == pytest.approx(1.0)
    assert estimate([None, None]) is None


def test_paired_differences_drop_what_a_seed_does_to_both() -> None:
    found = paired_difference([10.0, 20.5, 30.0, None], [9.0, 19.0, 28.0, 1.0])
    assert found is not None
    assert found.per_seed == (1.0, 1.5, 2.0, None)
    assert (found.mean, found.sd) == (1.5, 0.5)
    assert paired_difference([None, 1.0], [1.0, None]) is None


@given(values)
def test_an_arm_does_not_differ_from_itself(seeds: list[float]) -> None:
    found = paired_difference(seeds, seeds)
    assert found is not None
    assert (found.mean, found.sd, found.low, found.high) == (0.0, 0.0, 0.0, 0.0)


@given(values)
def test_the_interval_holds_the_mean_in_its_middle(seeds: list[float]) -> None:
    found = estimate(seeds)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert found.high - found.mean == pytest.approx(found.mean - found.low, abs=1e-9)
