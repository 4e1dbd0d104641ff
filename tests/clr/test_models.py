"""Networks: published parameter counts, shapes, what they refuse, and what they compute where that can be said by hand."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from clr.config import ModelConfig
from clr.errors import ModelError
from clr.models import build_model, count_parameters, has_dropout
from clr.preprocessing import image_size


def config_of(architecture: str, **params: Any) -> ModelConfig:
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python({"architecture": architecture, "params": params})
    return config


@pytest.mark.parametrize(
    ("architecture", "params", "shape", "outputs", "expected"),
    [
        ("mlp", {}, (28, 28), 10, 784 * 256 + 256 + 256 * 256 + 256 + 2560 + 10),
        ("mlp", {"hidden": []}, (4,), 3, 15),
        ("small_cnn", {"width": 16}, (28, 28), 10, 16 * 9 + 32 + 16 * 32 * 9 + 64 + 32 * 64 * 9 + 128 + 650),
        ("resnet", {"depth": 20}, (32, 32, 3), 10, 269_722),  # 0.27 M in 1512.03385, table 6
        ("resnet", {"depth": 56}, (32, 32, 3), 10, 853_018),  # 0.85 M
        ("resnet", {"depth": 110}, (3, 32, 32), 10, 1_727_962),  # 1.7 M
        ("wide_resnet", {"depth": 16, "widen": 4}, (32, 32, 3), 10, 2_748_890),  # 2.7 M in 1605.07146
        ("wide_resnet", {"depth": 40, "widen": 4}, (32, 32, 3), 10, 8_949_210),  # 8.9 M, table 4
        ("wide_resnet", {"depth": 28, "widen": 10}, (32, 32, 3), 10, 36_479_194),  # 36.5 M, table 4
    ],
)
def test_parameter_counts_are_the_published_ones(
    architecture: str, params: dict[str, Any], shape: tuple[int, ...], outputs: int, expected: int
) -> None:
    assert count_parameters(config_of(architecture, **params), shape, outputs) == expected


@pytest.mark.parametrize(
    ("architecture", "params"),
    [
        ("mlp", {"hidden": [5], "dropout": 0.5}),
        ("small_cnn", {"width": 2}),
        ("resnet", {"depth": 8, "width": 2}),
        ("wide_resnet", {"depth": 10, "widen": 1, "dropout": 0.1}),
    ],
)
@pytest.mark.parametrize("shape", [(8, 8), (9, 7, 3), (4, 12, 16)])
def test_every_network_takes_every_kind_of_image(architecture: str, params: dict[str, Any], shape: tuple[int, ...]) -> None:
    size = image_size(shape)
    assert size is not None
    model = build_model(config_of(architecture, **params), shape, 3)
    assert model(torch.randn(1, *size)).shape == (1, 3)  # one row is enough to train on: the last batch may be that small
    assert model.eval()(torch.randn(5, *size)).shape == (5, 3)


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet", "wide_resnet"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((20,), "needs images, .* a row has the shape .20,.: take mlp"),
        ((5, 6, 7), "needs images"),
        ((4, 4), "at least 8 x 4 pixels, got 4 x 4"),
        ((3, 100), "got 3 x 100"),
    ],
)
def test_convolutions_refuse_what_is_no_image(architecture: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=f"{architecture} .*{message}|{message}"):
        build_model(config_of(architecture), shape, 3)


def test_networks_beyond_a_billion_weights_are_refused_without_allocating_them() -> None:
    with pytest.raises(ModelError, match="at most 1000000000 parameters, got 8"):
        count_parameters(config_of("mlp", hidden=[16_384] * 32), (28, 28), 10)


def test_counting_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    count_parameters(config_of("resnet"), (8, 8), 10)
    assert torch.equal(before, torch.get_rng_state())


def test_resnet_shortcut_drops_pixels_and_pads_channels() -> None:
    model = build_model(config_of("resnet", depth=8, width=2), (8, 8), 3)
    block = model.get_submodule("blocks.1")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)  # norms scale by 0, so the residual branch is silent
    x = torch.rand(1, 2, 8, 8)
    y = block(x)
    assert y.shape == (1, 4, 4, 4)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert y[:, 2:].abs().max() == 0


def test_dropout_is_where_the_config_says() -> None:
    assert has_dropout(config_of("mlp", dropout=0.1))
    assert has_dropout(config_of("wide_resnet", dropout=0.1))
    assert not any(has_dropout(config_of(name)) for name in ("mlp", "wide_resnet", "resnet", "small_cnn"))
    mlp = build_model(config_of("mlp", hidden=[3, 3], dropout=0.25), (4,), 2)
    assert [layer.p for layer in mlp.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
