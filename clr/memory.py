"""How much memory training a network takes, estimated before any of it is allocated."""

import math
from functools import lru_cache

import torch
from torch import nn

from clr.config import ModelConfig, OptimizerConfig, SgdConfig
from clr.models import GlobalAverage, build_model
from clr.preprocessing import image_size

BYTES_PER_VALUE = 4
"""Of float32; bf16 takes less."""


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
    """How many numbers all layers together make of one row, the row itself included.

    By the sizes of the layers: to send an empty tensor through them imports so much of torch that an API's first job waited a second.
    """
    size = image_size(input_shape)
    layers = [module for module in network.modules() if not list(module.children())]
    is_convolutional = size is not None and any(isinstance(layer, nn.Conv2d) for layer in layers)
    channels, height, width = size if size is not None and is_convolutional else (math.prod(input_shape), 1, 1)
    count = channels * height * width
    for layer in layers:
        match layer:
            case nn.Linear():
                channels, height, width = layer.out_features, 1, 1
            case nn.Conv2d():
                channels = layer.out_channels
                if layer.kernel_size != (1, 1):  # a shortcut comes after the convolutions beside it
                    height, width = -(-height // layer.stride[0]), -(-width // layer.stride[1])
            case nn.MaxPool2d(kernel_size=2):
                height, width = height // 2, width // 2
            case GlobalAverage():
                height, width = 1, 1
            case nn.Flatten() | nn.ReLU() | nn.Dropout() | nn.BatchNorm2d():
                pass  # as many as it gets
            case _:
                raise AssertionError(f"the size of {type(layer).__name__}'s output has to be said here")
        count += channels * height * width
    return count
