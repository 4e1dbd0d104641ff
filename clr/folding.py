"""Batch normalisation of a trained network as plain weights: what it does in evaluation mode is y = scale * x + shift.

Shapes: O output channels, I input channels, K kernel size. Computed in float64 and given back as new float32 tensors, so that the networks
stay as they were loaded. Source: 1502.03167, section 3.1, algorithm 2, lines 10 and 11.
"""

import torch
from torch import Tensor, nn


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None = None, *, input_std: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights (O, I, K, K) and biases (O,) of a convolution that does its batch norm too.

    Args:
        convolution: As trained.
        norm: The one that follows it; None: none.
        input_std: (I, 1, 1), by which the input is divided before; None: it is not. A mean can not go into the biases like this: images are
            padded with zeros after the mean was taken off.
    """
    weight = convolution.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if convolution.bias is None else convolution.bias.detach().double()
    if norm is not None:
        scale, shift = _scale_and_shift(norm)
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift
    if input_std is not None:
        weight = weight / input_std.double()
    return weight.float(), bias.float()


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies its channels with and adds to them, (I,) each."""
    scale, shift = _scale_and_shift(norm)
    return scale.float(), shift.float()


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None, "our networks keep running statistics"
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale
