"""The ladder of short trainings: what is tried next, and which rate is chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.rate_ladder import MAX_RUNGS, LadderChoice, Losses, choose, next_rung


def rows(mean: float) -> Losses:
    """Four validation rows that differ, but by the same for every rung: no doubt about any difference."""
    return np.array([0.0, 1.0, 2.0, 3.0]) - 1.5 + mean


def climb(means: dict[int, float], *, constant_loss: float = 1.0) -> dict[int, Losses]:
    """Tries rungs until there is no next one; by default nothing is gained on a constant, so the margin is 0."""
    losses: dict[int, Losses] = {}
    while (rung := next_rung(losses, constant_loss=constant_loss)) is not None:
        assert rung not in losses
        losses[rung] = rows(means[rung])
    return losses


def parabola(minimum: float) -> dict[int, float]:
    return {rung: 1 + 0.1 * (rung - minimum) ** 2 for rung in range(-20, 21)}


def test_five_rungs_settle_a_minimum_at_the_centre() -> None:
    losses = climb(parabola(0))
    assert sorted(losses) == [-2, -1, 0, 1, 2]
    assert choose(losses, constant_loss=1.0) == LadderChoice(0, 0, is_settled=True)


@pytest.mark.parametrize(("minimum", "tried"), [(3, range(-2, 6)), (-3, range(-5, 3)), (1, range(-2, 4))])
def test_the_ladder_grows_towards_the_minimum_until_that_has_judged_neighbours(minimum: int, tried: range) -> None:
    losses = climb(parabola(minimum))
    assert sorted(losses) == list(tried)
    assert choose(losses, constant_loss=1.0).rung == minimum


def test_a_ladder_that_never_turns_ends_and_is_not_settled() -> None:
    losses = climb({rung: 10.0 - rung for rung in range(-20, 21)})
    assert len(losses) == MAX_RUNGS
    choice = choose(losses, constant_loss=1.0)
    assert choice.rung == max(losses) - 1
    assert not choice.is_settled


def test_a_rung_is_judged_with_its_neighbours() -> None:
    """Rung 1 is the best alone, but twice its rate diverges: (0.5 + 2 * 0.4 + 2.3) / 4 = 0.9 against (0.6 + 2 * 0.5 + 0.4) / 4 = 0.5."""
    losses = {rung: rows(mean) for rung, mean in {-2: 0.8, -1: 0.6, 0: 0.5, 1: 0.4, 2: 2.3}.items()}
    assert choose(losses, constant_loss=2.3).best == 0


@pytest.mark.parametrize(("at_minus_2", "chosen"), [(2.0, 0), (1.1, -1)])
def test_a_lower_rung_within_the_standard_error_of_the_best_is_chosen(at_minus_2: float, chosen: int) -> None:
    """Rung -1 is judged worse than rung 0 by 0.25 or by 0.025, with a standard error of 0.25 / sqrt(3) = 0.144."""
    doubtful = np.array([1.0, -1.0, 1.0, -1.0])
    losses = {-3: rows(3.0), -2: rows(at_minus_2), -1: rows(1.0) + doubtful, 0: rows(0.9), 1: rows(1.0), 2: rows(2.0)}
    assert choose(losses, constant_loss=1.0) == LadderChoice(chosen, 0, is_settled=True)


@pytest.mark.parametrize(("constant_loss", "chosen"), [(0.2125, 0), (2.0, -1)])
def test_a_difference_of_less_than_a_hundredth_of_what_training_gains_is_none(constant_loss: float, chosen: int) -> None:
    """Judged losses are 0.1225 and 0.1125 at the rungs -1 and 0: 0.01 is more than 0.01 * 0.1 and less than 0.01 * 1.8875."""
    losses = {rung: rows(mean) for rung, mean in {-3: 1.0, -2: 0.17, -1: 0.11, 0: 0.1, 1: 0.14, 2: 0.5}.items()}
    assert choose(losses, constant_loss=constant_loss).rung == chosen


def test_a_loss_that_creeps_to_zero_does_not_lure_the_ladder_upwards() -> None:
    """A rung is judged as 0.001125 / 2**rung: 0.009 at -3 is within 0.01 of nothing, 0.018 at -4 is not."""
    losses = climb({rung: 0.001 * 2.0**-rung for rung in range(-20, 21)}, constant_loss=1.0)
    assert choose(losses, constant_loss=1.0) == LadderChoice(-3, 1, is_settled=True)
    assert max(losses) == 2


def test_equal_rungs_give_the_lowest_that_is_judged() -> None:
    assert choose({rung: rows(1.0) for rung in range(-2, 3)}, constant_loss=1.0) == LadderChoice(-1, -1, is_settled=False)


@given(st.floats(-5, 5), st.floats(0.01, 1))
def test_the_choice_is_the_rung_next_to_the_minimum_of_a_noiseless_bowl(minimum: float, curvature: float) -> None:
    losses = climb({rung: 1 + curvature * (rung - minimum) ** 2 for rung in range(-20, 21)})
    choice = choose(losses, constant_loss=1.0)
    assert abs(choice.best - minimum) <= 0.5 + 1e-6
    assert choice.is_settled
