"""How an ensemble computes its members' outputs: by a form that is faster than the loop over the members, or by the loop.

Shapes: M members, B rows, C outputs.

Which form it is depends on the members' shapes and the number of rows, and on no clock: the same rows get the same bits in every process.
No form is trusted: one that differs from the loop, on rows as the training's, is not used.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from clr.convolution_forms import convolution_candidates
from clr.joint_form import Candidate, Form, Member
from clr.mlp_forms import mlp_candidates
from clr.preprocessing import Preprocessing, image_size

TOLERANCE = 1e-4
"""Largest difference from the loop: of a probability, or in standard deviations of the target."""


class JointForms:
    """The forms of one ensemble, each as soon as it is needed for the first time and only where it agrees with the loop."""

    def __init__(
        self,
        members: Sequence[Member],
        loop: Form,
        *,
        input_shape: tuple[int, ...],
        is_classification: bool,
        candidates: Sequence[Candidate] | None = None,
    ) -> None:
        """``loop`` is the definition that forms are held against; ``candidates``: None means those of the members."""
        self._members, self._loop = members, loop
        self._input_shape, self._is_classification = input_shape, is_classification
        self._candidates = (
            [*mlp_candidates(members), *convolution_candidates(members, image_size(input_shape))] if candidates is None else candidates
        )
        self._forms: dict[int, Form | None] = {}
        self.num_copies = len(self._candidates)
        """How many copies of the weights the forms may take."""

    def form_for(self, num_rows: int) -> Form | None:
        """The form for this many rows; None: the loop. Two threads may make the same one, and keep either."""
        index = next((index for index, each in enumerate(self._candidates) if num_rows in each.rows), None)
        if index is None:
            return None
        if index not in self._forms:
            self._forms[index] = self._made(self._candidates[index])
        return self._forms[index]

    @torch.inference_mode()
    def _made(self, candidate: Candidate) -> Form | None:
        try:
            form = candidate.make(self._members)
            rows_to_compare = _rows_to_compare(self._members[0][1], self._input_shape, candidate.gate_rows)
            agrees = all(self._difference(form, rows) <= TOLERANCE for rows in rows_to_compare)
        except (AttributeError, RuntimeError):  # another torch, without these operators or with other arguments
            return None
        return form if agrees else None

    def _difference(self, form: Form, rows: Tensor) -> float:
        ours, expected = form(rows), self._loop(rows)
        if self._is_classification:
            ours, expected = ours.softmax(2), expected.softmax(2)
        return float((ours - expected).abs().nan_to_num(torch.inf).max()) if ours.shape == expected.shape else torch.inf


def _rows_to_compare(preprocessing: Preprocessing, input_shape: tuple[int, ...], gate_rows: Sequence[int]) -> Iterator[Tensor]:
    """Rows with the mean and three times the spread of the training rows, so that odd ones are among them."""
    mean, std = preprocessing.mean, preprocessing.std
    generator = torch.Generator().manual_seed(0)
    match preprocessing.layout:
        case "features":
            mean, std = mean.reshape(input_shape), std.reshape(input_shape)
        case "grey":
            mean, std = mean[0], std[0]
        case "channels_last":
            mean, std = mean.permute(1, 2, 0), std.permute(1, 2, 0)
        case "channels_first":
            pass
    for num_rows in gate_rows:
        yield mean + 3 * std * torch.randn((num_rows, *input_shape), generator=generator)
