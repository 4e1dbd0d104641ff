"""Multilayer perceptrons in one pass say what the loop over them says."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from clr import mlp_forms
from clr.ensemble_forms import JointForms
from clr.inference import network_outputs
from clr.joint_form import Member
from clr.mlp_forms import MAX_ROWS, PackedMlp, StackedMlp
from clr.preprocessing import Layout, Preprocessing


def members(
    hidden: Sequence[int], *, num: int = 3, shape: tuple[int, ...] = (7,), layout: Layout = "features", outputs: int = 4, mean: float = 0.0
) -> list[Member]:
    """Untrained networks that differ, for rows with this mean."""
    torch.manual_seed(0)
    num_inputs = int(torch.tensor(shape).prod())
    moments = (num_inputs,) if layout == "features" else (1, 1, 1)
    preprocessing = Preprocessing(layout, torch.full(moments, mean), torch.rand(moments) + 0.5, 0.0, 1.0)
    made: list[Member] = []
    for _ in range(num):
        sizes = [num_inputs, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(0.1)]
        made.append((nn.Sequential(*layers, nn.Linear(sizes[-1], outputs)).eval().requires_grad_(False), preprocessing))
    return made


def looped(of: Sequence[Member], rows: Tensor) -> Tensor:
    return torch.stack([network_outputs(network, preprocessing, rows) for network, preprocessing in of])


def joint(of: Sequence[Member], shape: tuple[int, ...] = (7,)) -> JointForms:
    return JointForms(of, lambda rows: looped(of, rows), input_shape=shape, is_classification=True)


@pytest.mark.parametrize("hidden", [(), (16,), (16, 8), (16, 8, 24)], ids=str)
@pytest.mark.parametrize("num_rows", [1, 2, 31, 32, MAX_ROWS])
@pytest.mark.parametrize("has_avx512", [False, True])
def test_a_form_says_what_the_loop_says(hidden: tuple[int, ...], num_rows: int, has_avx512: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp_forms, "has_avx512", lambda: has_avx512)  # which form it is, not what the processor can do
    of = members(hidden)
    form = joint(of).form_for(num_rows)
    assert isinstance(form, PackedMlp if 1 < num_rows < 32 or (has_avx512 and num_rows > 1) else StackedMlp)
    rows = torch.randn(num_rows, 7)
    with torch.inference_mode():
        torch.testing.assert_close(form(rows), looped(of, rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layout", "shape"), [("grey", (4, 6)), ("channels_last", (4, 6, 1)), ("channels_first", (1, 4, 6))])
def test_images_of_bytes_are_taken_as_they_are(layout: Layout, shape: tuple[int, ...]) -> None:
    of = members((16, 8), shape=shape, layout=layout, mean=100.0)
    forms = joint(of, shape)
    rows = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    for part in (rows[:1], rows):
        form = forms.form_for(len(part))
        assert form is not None
        with torch.inference_mode():
            torch.testing.assert_close(form(part), looped(of, part), atol=1e-3, rtol=1e-4)


def test_large_means_do_not_cancel() -> None:
    of = members((16,), mean=1e6)
    form = joint(of).form_for(2)
    assert form is not None
    rows = 1e6 + torch.randn(2, 7)
    with torch.inference_mode():
        torch.testing.assert_close(form(rows), looped(of, rows), atol=1e-5, rtol=1e-5)


def test_members_that_differ_are_not_joined() -> None:
    alike = members((16,), num=2)
    others: list[list[Member]] = [
        members((17,), num=1),
        members((16,), num=1, mean=1.0),
        [(nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), alike[0][1])],
    ]
    for other in others:
        assert joint([*alike, *other]).form_for(8) is None
    assert joint(alike).form_for(8) is not None
    assert joint(alike).form_for(MAX_ROWS + 1) is None
    assert joint(alike[:1]).form_for(8) is None, "a single member has no company"
    with_tanh: list[Member] = [(nn.Sequential(nn.Flatten(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4)), alike[0][1])] * 2
    assert joint(with_tanh).form_for(8) is None
