"""A form is chosen by the number of rows and must agree with the loop; and what is made of its outputs."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from clr.combination import combine_probabilities
from clr.ensemble_forms import TOLERANCE, JointForms
from clr.joint_form import Candidate, Form, Member
from clr.preprocessing import Preprocessing

MEMBERS: list[Member] = [(nn.Identity(), Preprocessing("features", torch.zeros(4), torch.ones(4), 0.0, 1.0))] * 2


def loop(rows: Tensor) -> Tensor:
    return torch.stack([rows, 2 * rows])


def shifted_loop(rows: Tensor, *, by: float) -> Tensor:
    """The loop, but for one output of one member."""
    return loop(rows) + torch.tensor([[[by, 0.0, 0.0, 0.0]], [[0.0] * 4]])


def forms(*candidates: Candidate, is_classification: bool = True) -> JointForms:
    return JointForms(MEMBERS, loop, input_shape=(4,), is_classification=is_classification, candidates=candidates)


def candidate(form: Form, rows: range = range(1, 9)) -> Candidate:
    return Candidate(lambda _: form, rows, (1, 3))


def test_the_form_for_the_number_of_rows_is_chosen() -> None:
    few, many = partial(shifted_loop, by=0.0), partial(shifted_loop, by=0.0)
    chosen = forms(candidate(few, range(1, 3)), candidate(many, range(3, 9)))
    assert [chosen.form_for(num_rows) for num_rows in (1, 2, 3, 8, 9)] == [few, few, many, many, None]
    assert chosen.num_copies == 2


@pytest.mark.parametrize(
    "form",
    [
        partial(shifted_loop, by=0.01),
        lambda rows: loop(rows) * torch.nan,
        lambda rows: loop(rows)[:1],
        lambda rows: loop(rows) if len(rows) == 1 else torch.zeros_like(loop(rows)),
    ],
    ids=["other numbers", "not a number", "a member less", "right for one row only"],
)
def test_a_form_that_differs_from_the_loop_is_not_used(form: Form) -> None:
    assert forms(candidate(form)).form_for(1) is None


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_operators_that_torch_does_not_have_are_not_used(error: type[Exception]) -> None:
    def make(_: Sequence[Member]) -> Form:
        raise error("no such operator")

    assert forms(Candidate(make, range(1, 9), (1,))).form_for(1) is None


def test_values_of_a_regression_are_held_to_the_tolerance_themselves() -> None:
    for share, is_used in ((0.5, True), (2.0, False)):
        form = partial(shifted_loop, by=share * TOLERANCE)
        assert (forms(candidate(form), is_classification=False).form_for(1) is form) == is_used


def test_members_are_combined_at_once_as_one_after_the_other() -> None:
    probs_MBC = torch.rand(5, 40, 6, generator=torch.Generator().manual_seed(1)).softmax(2)
    probs_MBC[:, 0] = torch.eye(6)[2]  # certain
    together, apart = combine_probabilities(probs_MBC, with_members=True), combine_probabilities(list(probs_MBC), with_members=True)
    for name in ("probs_BC", "entropy_B", "mutual_information_B", "agreement_B", "member_probs_MBC"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name), atol=1e-7, rtol=1e-6)
        assert getattr(together, name).dtype == torch.float32
    assert together.labels_B.equal(apart.labels_B)
    assert together.mutual_information_B[0] == 0
