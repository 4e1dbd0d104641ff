"""One pass for all members of an ensemble of equal multilayer perceptrons, instead of one pass a member.

Shapes: M members, B rows, D features, H units of a layer, C outputs.

The first layers, which all take the same rows, are one wide layer; the following ones are batched products. For one row that is MKL's
work; for more the wide layer is oneDNN's, with weights in its own order, which torch has as the operators its compiler uses. (The middle
layers as one convolution of M groups is faster still in places, and two hundred times slower in others, by processor and number of rows.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clr.joint_form import Candidate, Member, are_alike
from clr.preprocessing import Preprocessing, arrange

MAX_ROWS = 256
"""Beyond, the layers of a single member are large enough to keep the processor busy."""
PACKED_ROWS = range(2, 32)
"""Where oneDNN's packed weights are faster than MKL's products: a single row is bound by reading the weights, and many rows by arithmetic,
at which MKL is as good where there is no AVX-512."""

NARROW = 16
"""Outputs of a layer up to which its transposed product is faster."""


def mlp_candidates(members: Sequence[Member]) -> list[Candidate]:
    """The forms for these members; none where they are other networks, differ, or are alone."""
    if len(members) < 2 or not all(_is_mlp(network) for network, _ in members) or not are_alike(members):
        return []
    packed = range(PACKED_ROWS.start, MAX_ROWS + 1) if has_avx512() else PACKED_ROWS
    stacked = frozenset(range(1, MAX_ROWS + 1)).difference(packed)
    return [Candidate(PackedMlp, packed, (packed[0], 17)), Candidate(StackedMlp, stacked, (1, 33))]


def has_avx512() -> bool:
    """Whether this processor has AVX-512, for which oneDNN has kernels that MKL lacks."""
    return bool(torch.cpu.get_capabilities().get("avx512_f"))


class StackedMlp:
    """One wide first product, then one batched product a layer.

    The division by the standard deviation goes into the first weights. The mean is still taken off the rows: inside of the bias, large
    means would cancel in float32.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        weights, biases = _weights(members)
        self._num_members, self._preprocessing = len(members), members[0][1]
        self._first_DH = torch.cat(weights[0]).t().contiguous()
        self._first_bias = torch.cat(biases[0])
        self._rest = _batched(weights[1:], biases[1:])

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BD = centred(rows, self._preprocessing)
        x = torch.addmm(self._first_bias, x_BD, self._first_DH).view(len(x_BD), self._num_members, -1).transpose(0, 1)
        for layer in self._rest:
            x = layer(x.relu_())
        return x


class PackedMlp:
    """The same with oneDNN for the wide layer, the largest by far: its weights are packed once, and the ReLU is part of the product."""

    def __init__(self, members: Sequence[Member]) -> None:
        weights, biases = _weights(members)
        self._num_members, self._preprocessing = len(members), members[0][1]
        self._activation = "none" if len(weights) == 1 else "relu"
        self._first = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights[0]))
        self._first_bias = torch.cat(biases[0])
        self._rest = _batched(weights[1:], biases[1:])

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BD = centred(rows, self._preprocessing)
        x: Tensor = torch.ops.mkldnn._linear_pointwise(x_BD, self._first, self._first_bias, self._activation, [], "")
        x = x.view(len(x_BD), self._num_members, -1).transpose(0, 1)
        for index, layer in enumerate(self._rest):
            x = layer(x.relu_() if index else x)
        return x


class _BatchedLayer:
    """A layer that is not the first, of all members.

    One with few outputs, such as the last, has its product the other way round but for single rows: MKL is slow where the second factor is
    narrow, and takes up to four times as long.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        weight_MCH, bias_MC = torch.stack([*weights]), torch.stack([*biases])
        self._is_narrow = weight_MCH.shape[1] <= NARROW
        weight_MHC = weight_MCH.transpose(1, 2)
        self._weight_MHC = weight_MHC if self._is_narrow else weight_MHC.contiguous()
        self._bias_M1C = bias_MC[:, None]

    def __call__(self, x_MBH: Tensor) -> Tensor:
        """The layer's outputs (M, B, C)."""
        if self._is_narrow and x_MBH.shape[1] > 1:
            return torch.baddbmm(self._bias_M1C.mT, self._weight_MHC.mT, x_MBH.mT).mT
        return torch.baddbmm(self._bias_M1C, x_MBH, self._weight_MHC)


def _batched(weights: Sequence[Sequence[Tensor]], biases: Sequence[Sequence[Tensor]]) -> list[_BatchedLayer]:
    """The layers behind the first."""
    return [_BatchedLayer(*layer) for layer in zip(weights, biases, strict=True)]


def centred(rows: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The rows (B, D) without the mean, float32."""
    return torch.sub(arrange(rows, preprocessing.layout), preprocessing.mean).flatten(1)


def _weights(members: Sequence[Member]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Weights and biases by layer and member; the first weights take centred rows."""
    layers = list(zip(*([each for each in network.modules() if isinstance(each, nn.Linear)] for network, _ in members), strict=True))
    std = members[0][1].std.flatten()
    std_D = std.repeat_interleave(layers[0][0].in_features // len(std))  # of an image one value a channel
    weights = [[layer.weight.detach() for layer in column] for column in layers]
    weights[0] = [weight / std_D for weight in weights[0]]
    return weights, [[layer.bias.detach() for layer in column] for column in layers]


def _is_mlp(network: nn.Module) -> bool:
    """Whether it is linear layers with ReLU between them, and (in evaluation mode) nothing else."""
    if not isinstance(network, nn.Sequential):
        return False
    layers = [layer for layer in network if not isinstance(layer, nn.Flatten | nn.Dropout)]
    kinds = [nn.Linear if index % 2 == 0 else nn.ReLU for index in range(len(layers))]
    return len(layers) % 2 == 1 and all(
        type(layer) is kind and getattr(layer, "bias", True) is not None for layer, kind in zip(layers, kinds, strict=True)
    )
