"""Convolutional networks with their batch norms folded away, for few rows all members at once.

Shapes: M members, B rows, H height, W width, C channels or classes. The layers are those of ``clr.joint_layers``.

One code serves both forms: joined, M members are one network of M groups; apart, they are M networks of one group each.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clr.inference import CONVOLUTION_BATCH_ROWS
from clr.joint_form import Candidate, Form, Member, are_alike
from clr.joint_layers import JointConvolution, JointHead, JointNorm, centred_images, padded_shortcut
from clr.models import GlobalAverage, ResidualBlock, ResNet, WideBlock, WideResNet
from clr.preprocessing import Preprocessing

JOINED_BYTES = 4 << 20
"""Of the images around one joint convolution: where they no longer fit in the cache, groups are slower than one member after the other."""

MAX_OUTPUTS = 1 << 23
"""Of all members together, 32 MB: the loop needs those of one member at a time."""

_SMALL_CNN_LAYERS = (
    *(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU) * 2,
    *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU, GlobalAverage, nn.Linear),
)
_GATE_ROWS = (1, 5)
"""Few, since large networks take seconds for more."""


def convolution_candidates(members: Sequence[Member], input_size: tuple[int, int, int] | None) -> list[Candidate]:
    """The forms for these members; none where they are other networks, or differ. ``input_size``: channels, height, width of an image."""
    if input_size is None or not are_alike(members) or _maker(members[0][0]) is None:
        return []
    num_outputs = [module.out_features for module in members[0][0].modules() if isinstance(module, nn.Linear)][-1]
    end = 1 + min(CONVOLUTION_BATCH_ROWS, MAX_OUTPUTS // (len(members) * num_outputs))
    if len(members) == 1:  # where nothing is joined, oneDNN's calls cost a single row of narrow layers more than folding saves
        return [Candidate(ApartNetworks, range(2, end), _GATE_ROWS)] if end > 2 else []
    row_bytes = 4 * len(members) * largest_images(members[0][0], *input_size[1:])
    joined_end = min(1 + JOINED_BYTES // row_bytes, end)
    candidates = [
        Candidate(joint_network, range(1, joined_end), _GATE_ROWS),
        Candidate(ApartNetworks, range(joined_end, end), _GATE_ROWS),
    ]
    return [each for each in candidates if each.rows]


def largest_images(network: nn.Module, height: int, width: int) -> int:
    """The most values that a convolution after the first takes and gives for one row."""
    largest, is_first = 1, True
    for module in network.modules():
        match module:
            case nn.MaxPool2d():
                height, width = height // 2, width // 2
            case nn.Conv2d() if module.kernel_size != (1, 1):  # a shortcut comes after the convolutions beside it
                height, width = -(-height // module.stride[0]), -(-width // module.stride[1])
                if not is_first:
                    largest = max(largest, height * width * (module.in_channels + module.out_channels))
                is_first = False
    return largest


class ApartNetworks:
    """One folded network after the other."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._networks = [joint_network([member]) for member in members]

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        return torch.cat([network(rows) for network in self._networks])


def joint_network(members: Sequence[Member]) -> Form:
    """All members as one network of groups."""
    make = _maker(members[0][0])
    assert make is not None, "the candidates are made for networks that are known"
    return make([network for network, _ in members], members[0][1])


class JointSmallCnn:
    """Three convolutions, pooled after the first two."""

    def __init__(self, networks: Sequence[nn.Module], preprocessing: Preprocessing) -> None:
        def layers(index: int) -> list[Any]:
            return [cast("nn.Sequential", network)[index] for network in networks]

        self._preprocessing = preprocessing
        self._first = JointConvolution(layers(0), layers(1), shared_std=preprocessing.std)
        self._second = JointConvolution(layers(4), layers(5))
        self._third = JointConvolution(layers(8), layers(9))
        self._head = JointHead(layers(12))

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BCHW = functional.max_pool2d(self._first(centred_images(rows, self._preprocessing)), 2)
        x_BCHW = functional.max_pool2d(self._second(x_BCHW), 2)
        return self._head(self._third(x_BCHW))


class JointResNet:
    """Residual blocks with ReLU after the sum."""

    def __init__(self, networks: Sequence[nn.Module], preprocessing: Preprocessing) -> None:
        own = [cast("ResNet", network) for network in networks]
        self._preprocessing = preprocessing
        self._stem = JointConvolution([each.stem for each in own], [each.norm for each in own], shared_std=preprocessing.std)
        self._blocks = [JointResidualBlock(cast("tuple[ResidualBlock, ...]", each)) for each in zip(*(n.blocks for n in own), strict=True)]
        self._head = JointHead([each.head for each in own])

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BCHW = self._stem(centred_images(rows, self._preprocessing))
        for block in self._blocks:
            x_BCHW = block(x_BCHW)
        return self._head(x_BCHW)


class JointResidualBlock:
    """``clr.models.ResidualBlock`` of every member."""

    def __init__(self, blocks: Sequence[ResidualBlock]) -> None:
        first = blocks[0]
        self._num_members, self._stride, self._extra_channels = len(blocks), first.stride, first.extra_channels
        self._first = JointConvolution([each.conv1 for each in blocks], [each.norm1 for each in blocks])
        self._second = JointConvolution([each.conv2 for each in blocks], [each.norm2 for each in blocks])

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """The block's output, perhaps in the memory of its input."""
        shortcut_BCHW = padded_shortcut(x_BCHW, num_members=self._num_members, stride=self._stride, extra_channels=self._extra_channels)
        return self._second.add_to(shortcut_BCHW, self._first(x_BCHW))


class JointWideResNet:
    """Residual blocks with batch norm and ReLU before each convolution; without dropout, which does nothing in evaluation mode."""

    def __init__(self, networks: Sequence[nn.Module], preprocessing: Preprocessing) -> None:
        own = [cast("WideResNet", network) for network in networks]
        self._preprocessing = preprocessing
        self._stem = JointConvolution([each.stem for each in own], [None] * len(own), relu=False, shared_std=preprocessing.std)
        self._blocks = [JointWideBlock(cast("tuple[WideBlock, ...]", each)) for each in zip(*(n.blocks for n in own), strict=True)]
        self._norm = JointNorm([each.norm for each in own])
        self._head = JointHead([each.head for each in own])

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BCHW = self._stem(centred_images(rows, self._preprocessing))
        for block in self._blocks:
            x_BCHW = block(x_BCHW)
        return self._head(self._norm(x_BCHW))


class JointWideBlock:
    """``clr.models.WideBlock`` of every member."""

    def __init__(self, blocks: Sequence[WideBlock]) -> None:
        self._norm = JointNorm([each.norm1 for each in blocks])
        self._first = JointConvolution([each.conv1 for each in blocks], [each.norm2 for each in blocks])
        self._second = JointConvolution([each.conv2 for each in blocks], [None] * len(blocks), relu=False)
        shortcuts = [each.shortcut for each in blocks if each.shortcut is not None]
        self._shortcut = JointConvolution(shortcuts, [None] * len(shortcuts), relu=False) if shortcuts else None

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """The block's output, perhaps in the memory of its input."""
        y_BCHW = self._norm(x_BCHW)
        shortcut_BCHW = x_BCHW if self._shortcut is None else self._shortcut(y_BCHW)
        return self._second.add_to(shortcut_BCHW, self._first(y_BCHW))


def _maker(network: nn.Module) -> Callable[[Sequence[nn.Module], Preprocessing], Form] | None:
    """What makes the form of networks like this one; None: it is none that we know."""
    if type(network) is ResNet:
        return JointResNet
    if type(network) is WideResNet:
        return JointWideResNet
    if type(network) is nn.Sequential and tuple(type(layer) for layer in network) == _SMALL_CNN_LAYERS:
        return JointSmallCnn
    return None
