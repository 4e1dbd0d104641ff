"""Convolutional networks with their batch norms folded, joined or apart, say what the networks say."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from clr.config import TrainingConfig
from clr.convolution_forms import (
    ApartNetworks,
    JointResNet,
    JointSmallCnn,
    JointWideResNet,
    convolution_candidates,
    joint_network,
    largest_images,
)
from clr.ensemble_forms import JointForms
from clr.folding import folded
from clr.inference import CONVOLUTION_BATCH_ROWS, network_outputs
from clr.joint_form import Member
from clr.models import build_model
from clr.preprocessing import Preprocessing, image_layout, image_size

NETWORKS: list[tuple[dict[str, Any], type]] = [
    ({"architecture": "small_cnn", "params": {"width": 1}}, JointSmallCnn),
    ({"architecture": "small_cnn", "params": {"width": 8}}, JointSmallCnn),
    ({"architecture": "resnet", "params": {"depth": 8, "width": 3}}, JointResNet),
    ({"architecture": "resnet", "params": {"depth": 14, "width": 8}}, JointResNet),
    ({"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}}, JointWideResNet),
    ({"architecture": "wide_resnet", "params": {"depth": 16, "widen": 2, "dropout": 0.3}}, JointWideResNet),
]
SMALL_CNN, RESNET = NETWORKS[1][0], NETWORKS[2][0]
SHAPES = [(9, 12), (8, 11, 3), (3, 9, 8)]


def members(
    model: dict[str, Any], shape: tuple[int, ...] = (9, 12), *, num: int = 3, outputs: int = 4, mean: float = 100.0
) -> list[Member]:
    """Networks that differ, with batch norms as training may leave them."""
    torch.manual_seed(0)
    size = image_size(shape)
    assert size is not None
    moments = (size[0], 1, 1)
    preprocessing = Preprocessing(image_layout(shape), mean + torch.rand(moments), 50 * (torch.rand(moments) + 0.5), 0.0, 1.0)
    config = TrainingConfig.model_validate({"model": model}).model
    networks = [build_model(config, shape, outputs).eval().requires_grad_(False) for _ in range(num)]
    for norm in (each for network in networks for each in network.modules() if isinstance(each, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3.0)
        norm.weight.normal_()
        norm.bias.normal_()
    return [(network, preprocessing) for network in networks]


def looped(of: list[Member], rows: Tensor) -> Tensor:
    return torch.stack([network_outputs(network, preprocessing, rows) for network, preprocessing in of])


def forms(of: list[Member], shape: tuple[int, ...] = (9, 12), *, is_classification: bool = True) -> JointForms:
    return JointForms(of, lambda rows: looped(of, rows), input_shape=shape, is_classification=is_classification)


def assert_same(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("model", "kind"), NETWORKS, ids=lambda each: str(each.get("params")) if isinstance(each, dict) else each.__name__)
def test_folded_networks_say_what_the_networks_say(model: dict[str, Any], kind: type, shape: tuple[int, ...]) -> None:
    of = members(model, shape)
    rows = torch.randint(0, 256, (6, *shape), dtype=torch.uint8)
    with torch.inference_mode():
        joined, apart = joint_network(of), ApartNetworks(of)
        assert isinstance(joined, kind)
        for part in (rows, rows[:1], rows.float()):
            expected = looped(of, part)
            assert expected.std(0).min() > 0, "the members differ"
            assert_same(joined(part), expected)
            assert_same(apart(part), expected)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_a_folded_convolution_is_the_convolution_and_its_norm(seed: int, inputs: int, outputs: int, has_bias: bool) -> None:
    torch.manual_seed(seed)
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=has_bias).double().requires_grad_(False)
    norm = nn.BatchNorm2d(outputs).double().eval().requires_grad_(False)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(1e-3, 10.0)
    norm.weight.normal_()
    norm.bias.normal_()
    std, x = torch.rand(inputs, 1, 1).double() + 0.5, torch.randn(2, inputs, 5, 4).double()
    weight, bias = folded(convolution, norm, input_std=std)
    ours = nn.functional.conv2d(x, weight.double(), bias.double(), padding=1)
    expected = norm(convolution(x / std))
    torch.testing.assert_close(ours, expected, atol=1e-5 * float(1 + expected.abs().max()), rtol=1e-5)


def test_few_rows_go_joined_more_apart_and_more_than_a_batch_by_the_loop() -> None:
    of = members(SMALL_CNN, (28, 28))
    # Around the second convolution are half the pixels each way, of 8 + 16 channels and 4 bytes, for each of three members.
    assert largest_images(of[0][0], 400, 400) == 200 * 200 * 24
    (apart,) = convolution_candidates(of, (1, 400, 400))  # 11.5 MB, too much for even one row
    assert apart.rows == range(1, CONVOLUTION_BATCH_ROWS + 1)
    joined, apart = convolution_candidates(of, (1, 28, 28))
    border = 2**22 // (14 * 14 * 24 * 4 * 3)
    assert joined.rows == range(1, border + 1)
    assert apart.rows == range(border + 1, CONVOLUTION_BATCH_ROWS + 1)
    (joined,) = convolution_candidates(of, (1, 4, 9))
    assert joined.rows == range(1, CONVOLUTION_BATCH_ROWS + 1)
    chosen = forms(of, (28, 28))
    with torch.inference_mode():
        for num_rows, kind in (
            (1, JointSmallCnn),
            (border, JointSmallCnn),
            (border + 1, ApartNetworks),
            (CONVOLUTION_BATCH_ROWS, ApartNetworks),
        ):
            form = chosen.form_for(num_rows)
            assert isinstance(form, kind)
            rows = 100 + 50 * torch.randn(num_rows, 28, 28)
            assert_same(form(rows), looped(of, rows))
    assert chosen.form_for(CONVOLUTION_BATCH_ROWS + 1) is None


def test_outputs_that_would_take_much_memory_together_go_by_the_loop() -> None:
    of = members(SMALL_CNN, outputs=25_000)
    assert [each.rows for each in convolution_candidates(of, (1, 28, 28))] == [range(1, 75), range(75, 112)]  # 2**23 // 75,000 = 111


def test_the_bound_counts_strides_but_not_shortcuts() -> None:
    assert largest_images(members(RESNET)[0][0], 8, 8) == 64 * 6
    wide = members({"architecture": "wide_resnet", "params": {"depth": 10, "widen": 2}})[0][0]
    assert largest_images(wide, 8, 8) == 64 * (32 + 32)


def test_a_single_member_is_folded_but_for_a_single_row() -> None:
    alone = forms(members(RESNET, num=1))
    assert alone.form_for(1) is None
    assert isinstance(alone.form_for(2), ApartNetworks)
    assert alone.num_copies == 1


def test_regression_is_served_by_forms() -> None:
    of = members(RESNET, outputs=1)
    form = forms(of, is_classification=False).form_for(2)
    assert isinstance(form, JointResNet)
    rows = 100 + 50 * torch.randn(2, 9, 12)
    with torch.inference_mode():
        assert_same(form(rows), looped(of, rows))


def test_networks_and_rows_are_left_as_they_were() -> None:
    for model, _ in NETWORKS:
        of = members(model)
        before, rows = [copy.deepcopy(network.state_dict()) for network, _ in of], torch.rand(2, 9, 12)
        given_rows = rows.clone()
        with torch.inference_mode():
            for form in (joint_network(of), ApartNetworks(of)):
                assert torch.equal(form(rows), form(rows)), "what is added in place is not kept"
        assert torch.equal(rows, given_rows)
        for (network, _), state in zip(of, before, strict=True):
            assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_members_that_differ_or_are_not_known_go_by_the_loop() -> None:
    alike = members(SMALL_CNN)
    assert forms(alike).form_for(1) is not None
    others: list[list[Member]] = [
        members({"architecture": "small_cnn", "params": {"width": 7}}),
        members(RESNET),
        members(SMALL_CNN, mean=1.0),
        [(nn.Sequential(*list(alike[0][0].children())[:-1], nn.Tanh()), alike[0][1])],
    ]
    for other in others:
        assert forms([*alike, *other]).form_for(1) is None
        assert forms([*other, *alike]).form_for(1) is None
    assert forms(others[-1]).form_for(2) is None
