"""The rule behind ``cycles: "auto"``."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clr.cycle_rule import LEAST_CYCLE_STEPS, LOOK_SHARES, MAX_RESTARTS, CyclePlan, Evidence, Look, choose_members, decide, look_steps


def evidence(step: int, train_loss: float, validation_loss: float, *, num_steps: int = 1000, steps_per_epoch: int = 20) -> Evidence:
    look = Look(step, 0.5, train_loss, validation_loss, train_error=0.1, validation_error=0.2)
    return Evidence(num_steps, steps_per_epoch, 900, 100, (look,), is_last=step >= look_steps(num_steps)[-1])


def test_network_that_still_learns_stays_the_single_cosine() -> None:
    plan = decide(evidence(500, train_loss=0.22, validation_loss=0.3273))

    assert plan is not None
    assert (plan.cycle_ends, plan.peaks) == ((1000,), (1.0,))
    assert "after step 500 the training loss is 0.22, the validation loss 0.327" in plan.reason


def test_rule_waits_while_looks_are_left() -> None:
    assert decide(evidence(400, train_loss=0.22, validation_loss=0.3273)) is None


@pytest.mark.parametrize(
    ("step", "ends"),
    [(100, (200, 400, 600, 800, 1000)), (300, (400, 550, 700, 850, 1000)), (500, (600, 700, 800, 900, 1000))],
)
def test_first_annealing_is_completed_within_a_tenth_and_four_restarts_share_the_rest(step: int, ends: tuple[int, ...]) -> None:
    plan = decide(evidence(step, train_loss=0.1084, validation_loss=0.4818))

    assert plan == CyclePlan(
        ends,
        (1.0,) * 5,
        f"after step {step} the training loss is 0.108, the validation loss 0.482: "
        "the network fits rows that it has seen, so averaging over restarts pays",
    )


def test_a_loss_on_the_threshold_or_of_nothing_at_all_is_no_evidence() -> None:
    for train_loss, validation_loss in ((0.25, 1.75 * 0.25), (0.0, 0.0), (0.1, math.nan)):
        plan = decide(evidence(500, train_loss, validation_loss))
        assert plan is not None
        assert plan.cycle_ends == (1000,)


def test_restarts_are_an_epoch_each_or_there_are_fewer_of_them() -> None:
    three = decide(evidence(500, 0.1, 0.5, steps_per_epoch=120))
    none = decide(evidence(500, 0.1, 0.5, steps_per_epoch=401))

    assert three is not None
    assert three.cycle_ends == (600, 733, 866, 1000)
    assert none is not None
    assert none.cycle_ends == (1000,)
    assert none.reason.endswith("but the run is too short for a restart of an epoch")


@given(num_steps=st.integers(2, 100_000), steps_per_epoch=st.integers(1, 2000), share=st.sampled_from(range(len(LOOK_SHARES))))
def test_every_plan_is_one_that_a_run_can_carry_out(num_steps: int, steps_per_epoch: int, share: int) -> None:
    step = look_steps(num_steps)[share]

    plan = decide(evidence(step, 0.01, 1.0, num_steps=num_steps, steps_per_epoch=steps_per_epoch))

    assert plan is not None
    assert plan.cycle_ends[-1] == num_steps
    assert plan.cycle_ends[0] > step
    assert len(plan.peaks) == len(plan.cycle_ends) <= MAX_RESTARTS + 1
    assert all(end - start >= max(steps_per_epoch, LEAST_CYCLE_STEPS) for start, end in pairwise(plan.cycle_ends))


def test_looks_come_at_every_tenth_of_the_first_half() -> None:
    assert look_steps(1000) == (100, 200, 300, 400, 500)
    assert look_steps(3) == (1, 1, 1, 1, 1)


def test_members_are_chosen_by_validation_loss_then_by_error() -> None:
    assert choose_members([0.5, 0.3, 0.4], [0.1, 0.2, 0.1]).num_members == 2
    assert choose_members([0.5, 0.3, 0.3], [0.1, 0.2, 0.1]).num_members == 3
    assert choose_members([0.5], [0.1]).reason == "the run has one member"
