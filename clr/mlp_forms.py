"""One pass for all members of an ensemble of equal multilayer perceptrons, instead of one pass a member.

Shapes: M members, B rows, D features, H units of a layer, C outputs.

The first layers, which all take the same rows, are one wide layer; the following ones are batched products. For one row that is MKL's
work; for more oneDNN's, with weights in its own order, which torch has as the operators its compiler uses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clr.joint_form import Candidate, Member, are_alike
from clr.preprocessing import Preprocessing, arrange

MAX_ROWS = 256
"""Beyond, the layers of a single member are large enough to keep the processor busy."""
PACKED_ROWS = 2
"""From here on oneDNN's packed weights are faster than MKL's products; a single row is bound by reading the weights."""


def mlp_candidates(members: Sequence[Member]) -> list[Candidate]:
    """The forms for these members; none where they are other networks, differ, or are alone."""
    if len(members) < 2 or not all(_is_mlp(network) for network, _ in members) or not are_alike(members):
        return []
    return [
        Candidate(StackedMlp, range(1, PACKED_ROWS), (1,)),
        Candidate(PackedMlp, range(PACKED_ROWS, MAX_ROWS + 1), (PACKED_ROWS, 33)),
    ]


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
        self._rest = [
            (torch.stack(bias)[:, None], torch.stack(weight).transpose(1, 2).contiguous())
            for weight, bias in zip(weights[1:], biases[1:], strict=True)
        ]

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BD = centred(rows, self._preprocessing)
        x = torch.addmm(self._first_bias, x_BD, self._first_DH).view(len(x_BD), self._num_members, -1).transpose(0, 1)
        for bias, weight in self._rest:
            x = torch.baddbmm(bias, x.relu_(), weight)
        return x


class PackedMlp:
    """The same with oneDNN: ReLU inside the product, and the middle layers as convolutions of M groups over a picture of B x 1 points."""

    def __init__(self, members: Sequence[Member]) -> None:
        weights, biases = _weights(members)
        self._num_members, self._preprocessing = len(members), members[0][1]
        self._is_single = len(weights) == 1
        self._first = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights[0]))
        self._first_bias = torch.cat(biases[0])
        self._middle = [
            (self._packed_groups(torch.cat(weight)), torch.cat(bias)) for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True)
        ]
        self._last_bias = torch.stack(biases[-1])[:, None]
        self._last = torch.stack(weights[-1]).transpose(1, 2).contiguous()

    def __call__(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BD = centred(rows, self._preprocessing)
        num_rows = len(x_BD)
        activation = "none" if self._is_single else "relu"
        x = torch.ops.mkldnn._linear_pointwise(x_BD, self._first, self._first_bias, activation, [], "")
        for weight, bias in self._middle:
            picture = x.view(1, num_rows, 1, -1).permute(0, 3, 1, 2)
            x = torch.ops.mkldnn._convolution_pointwise(picture, weight, bias, [0, 0], [1, 1], [1, 1], self._num_members, "relu", [], "")
            x = x.permute(0, 2, 3, 1).reshape(num_rows, -1)
        x_MBH = x.view(num_rows, self._num_members, -1).transpose(0, 1)
        return x_MBH if self._is_single else torch.baddbmm(self._last_bias, x_MBH, self._last)

    def _packed_groups(self, weight: Tensor) -> Tensor:
        size = [1, self._num_members * weight.shape[1], 32, 1]
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight[:, :, None, None], [0, 0], [1, 1], [1, 1], self._num_members, size
        )
        return packed


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
