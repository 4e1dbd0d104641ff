"""How much memory training a network takes, estimated before any of it is allocated."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from clr.config import ModelConfig, OptimizerConfig, SgdConfig
from clr.models import build_model
from clr.preprocessing import image_size

BYTES_PER_VALUE = 4
"""Of float32; bf16 takes less."""

_ROWS = 2
"""Of the trial batch: batch normalisation refuses one."""


def training_bytes(
    model: ModelConfig, optimizer: OptimizerConfig, *, input_shape: tuple[int, ...], num_outputs: int, batch_size: int
) -> int:
    """An upper estimate of what one process holds at its peak, beside the data set.

    Weights, gradients, the optimizer's moments and the copy for a snapshot; for each row of a batch the output of every layer, which the
    backward pass needs, and its gradient.

    Raises:
        ModelError: As ``build_model``.
    """
    num_parameters, values_per_row = _network_size(model, input_shape, num_outputs)
    moments = 1 if isinstance(optimizer, SgdConfig) else 2
    copies = 3 + moments
    return BYTES_PER_VALUE * (copies * num_parameters + 2 * batch_size * values_per_row)


@lru_cache(maxsize=1024)  # as clr.models.count_parameters
def _network_size(model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> tuple[int, int]:
    """Parameters, and numbers that all layers together make of one row."""
    with torch.device("meta"):
        network = build_model(model, input_shape, num_outputs)
    return sum(parameter.numel() for parameter in network.parameters()), _values_per_row(network, input_shape)


def _values_per_row(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """How many numbers all layers together make of one row."""
    size = image_size(input_shape)
    row = size if size is not None and any(isinstance(module, nn.Conv2d) for module in network.modules()) else (math.prod(input_shape),)
    counts = [_ROWS * math.prod(row)]

    def count(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        counts.append(output.numel())

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty((_ROWS, *row), device="meta"))
    return sum(counts) // _ROWS
