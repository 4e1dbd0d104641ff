"""Batch norm folded into the convolution before it: the same function of the rows with fewer steps (1712.05877, section 3.2).

Only for networks in evaluation mode, where a batch norm is a fixed scale and shift of each channel.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clr.models import ResidualBlock, ResNet, WideBlock

PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ResNet: (("stem", "norm"),),
    ResidualBlock: (("conv1", "norm1"), ("conv2", "norm2")),
    WideBlock: (("conv1", "norm2"),),
}
"""By module: convolutions and the batch norms that take their outputs and nothing else. A ``Sequential`` says it by its order."""


def has_foldable(network: nn.Module) -> bool:
    """Whether folding would change anything."""
    return any(_pairs(module) for module in network.modules())


def folded(network: nn.Module) -> nn.Module:
    """A copy of the network, in evaluation mode, whose batch norms are part of the convolutions before them where there are such."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for module in network.modules():
            for convolution, norm in _pairs(module):
                fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
                setattr(module, convolution, fused.requires_grad_(requires_grad=False))
                setattr(module, norm, nn.Identity())
    return network


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of a module's children: a convolution and the batch norm after it."""
    if isinstance(module, nn.Sequential):
        children = list(module.named_children())
        named = [(before[0], after[0]) for before, after in pairwise(children)]
    else:
        named = list(PAIRS.get(type(module), ()))
    return [
        (convolution, norm)
        for convolution, norm in named
        if isinstance(getattr(module, convolution), nn.Conv2d) and isinstance(getattr(module, norm), nn.BatchNorm2d)
    ]
