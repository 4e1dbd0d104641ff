"""The memory that training takes, from the sizes of the layers."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from clr.config import TrainingConfig
from clr.memory import BYTES_PER_VALUE, training_bytes
from clr.models import build_model, is_convolutional
from clr.preprocessing import image_size

ROWS = 2


def outputs_of_layers(model: nn.Module, row: tuple[int, ...]) -> int:
    """Counted while a batch goes through, on the meta device."""
    counts = [ROWS * torch.Size(row).numel()]
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _module, _inputs, output: counts.append(output.numel()))
    with torch.no_grad():
        model(torch.empty((ROWS, *row), device="meta"))
    return sum(counts) // ROWS


@pytest.mark.parametrize(
    ("architecture", "params"),
    [
        ("mlp", {"hidden": [10, 7]}),
        ("mlp", {"hidden": [10], "dropout": 0.2}),
        ("mlp", {"hidden": []}),
        ("small_cnn", {"width": 6}),
        ("resnet", {"depth": 8, "width": 4}),
        ("resnet", {"depth": 20, "width": 4}),
        ("wide_resnet", {"depth": 10, "widen": 2, "dropout": 0.3}),
        ("wide_resnet", {"depth": 16, "widen": 1}),
    ],
)
@pytest.mark.parametrize("input_shape", [(28, 28), (9, 13), (12, 10, 3), (3, 17, 8)])
def test_every_number_of_a_forward_pass_is_counted_twice(architecture: str, params: dict[str, Any], input_shape: tuple[int, ...]) -> None:
    config = TrainingConfig.model_validate({"model": {"architecture": architecture, "params": params}})
    with torch.device("meta"):
        model = build_model(config.model, input_shape, 5)
    size = image_size(input_shape)
    assert size is not None
    row = size if is_convolutional(config.model) else (torch.Size(input_shape).numel(),)
    one, two = (
        training_bytes(config.model, config.optimizer, input_shape=input_shape, num_outputs=5, batch_size=batch_size)
        for batch_size in (1, 2)
    )
    assert two - one == BYTES_PER_VALUE * 2 * outputs_of_layers(model, row)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * one - two == BYTES_PER_VALUE * 4 * num_parameters


def test_the_estimate_imports_no_more_of_torch() -> None:
    program = """
import sys
import torch
from clr.config import TrainingConfig
from clr.memory import training_bytes
before = set(sys.modules)
for architecture in ("mlp", "small_cnn", "resnet", "wide_resnet"):
    config = TrainingConfig.model_validate({"model": {"architecture": architecture}})
    training_bytes(config.model, config.optimizer, input_shape=(28, 28), num_outputs=5, batch_size=8)
print(len(set(sys.modules) - before))
"""
    assert int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout) < 10
