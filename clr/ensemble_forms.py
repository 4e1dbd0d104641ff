"""One pass for all members of an ensemble of equal multilayer perceptrons, instead of one pass a member.

Shapes: M members, B rows, D features, H units of a layer, C outputs.

The first layers, which all take the same rows, are one wide layer; the following ones are batched products. For one row that is MKL's
work; from ``PACKED_ROWS`` on oneDNN's, with weights in its own order, which torch has as the operators its compiler uses. Neither is
trusted: a form that differs from the loop over the members, on rows as the training's, is not used.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from clr.preprocessing import Preprocessing, arrange

Member = tuple[nn.Module, Preprocessing]
Form = Callable[[Tensor], Tensor]
"""From rows as the data holds them, at most ``MAX_ROWS``, to raw outputs (M, B, C), float32."""

MAX_ROWS = 256
"""Beyond, the layers of a single member are large enough to keep the processor busy."""
PACKED_ROWS = 2
"""From here on oneDNN's packed weights are faster than MKL's products; a single row is bound by reading the weights."""

TOLERANCE = 1e-4
"""Largest difference from the loop: of a probability, or in standard deviations of the target."""
_GATE_ROWS = (1, PACKED_ROWS, 33)


class JointForms:
    """The forms of one ensemble, each as soon as it is needed for the first time and only where it agrees with the loop."""

    def __init__(self, members: Sequence[Member], loop: Form, *, input_shape: tuple[int, ...], is_classification: bool) -> None:
        """``loop`` is the definition that the forms are held against."""
        self._members, self._loop = members, loop
        self._input_shape, self._is_classification = input_shape, is_classification
        self._makers: dict[str, Callable[[Sequence[Member]], Form]] = {"stacked": StackedMlp, "packed": PackedMlp}
        can_join = _can_join(members)
        self._forms: dict[str, Form | None] = {} if can_join else dict.fromkeys(self._makers)
        self.num_copies = len(self._makers) if can_join else 0
        """How many copies of the weights the forms may take."""

    def form_for(self, num_rows: int) -> Form | None:
        """The form for this many rows; None: the loop. Two threads may make the same one, and keep either."""
        if num_rows > MAX_ROWS:
            return None
        name = "packed" if num_rows >= PACKED_ROWS else "stacked"
        if name not in self._forms:
            self._forms[name] = self._made(name)
        return self._forms[name]

    @torch.inference_mode()
    def _made(self, name: str) -> Form | None:
        try:
            form = self._makers[name](self._members)
            rows_to_compare = _rows_to_compare(self._members[0][1], self._input_shape, torch.Generator().manual_seed(0))
            agrees = all(self._difference(form, rows) <= TOLERANCE for rows in rows_to_compare)
        except (AttributeError, RuntimeError):  # another torch, without these operators or with other arguments
            return None
        return form if agrees else None

    def _difference(self, form: Form, rows: Tensor) -> float:
        ours, expected = form(rows), self._loop(rows)
        if self._is_classification:
            ours, expected = ours.softmax(2), expected.softmax(2)
        return float((ours - expected).abs().nan_to_num(torch.inf).max()) if ours.shape == expected.shape else torch.inf


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


def _can_join(members: Sequence[Member]) -> bool:
    """Whether they are layers with ReLU between them on the CPU, of the same shapes, for rows prepared in the same way."""
    (network, first), *others = members
    shapes = [tuple(value.shape) for value in network.state_dict().values()]
    return (
        len(members) > 1
        and first.mean.device.type == "cpu"
        and all(_is_mlp(each) for each, _ in members)
        and all([tuple(value.shape) for value in each.state_dict().values()] == shapes for each, _ in others)
        and all(each.layout == first.layout and each.mean.equal(first.mean) and each.std.equal(first.std) for _, each in others)
    )


def _is_mlp(network: nn.Module) -> bool:
    """Whether it is linear layers with ReLU between them, and (in evaluation mode) nothing else."""
    if not isinstance(network, nn.Sequential):
        return False
    layers = [layer for layer in network if not isinstance(layer, nn.Flatten | nn.Dropout)]
    kinds = [nn.Linear if index % 2 == 0 else nn.ReLU for index in range(len(layers))]
    return len(layers) % 2 == 1 and all(
        type(layer) is kind and getattr(layer, "bias", True) is not None for layer, kind in zip(layers, kinds, strict=True)
    )


def _rows_to_compare(preprocessing: Preprocessing, input_shape: tuple[int, ...], generator: torch.Generator) -> Iterator[Tensor]:
    """Rows with the mean and three times the spread of the training rows, so that odd ones are among them."""
    mean, std = preprocessing.mean, preprocessing.std
    match preprocessing.layout:
        case "features":
            mean, std = mean.reshape(input_shape), std.reshape(input_shape)
        case "grey":
            mean, std = mean[0], std[0]
        case "channels_last":
            mean, std = mean.permute(1, 2, 0), std.permute(1, 2, 0)
        case "channels_first":
            pass
    for num_rows in _GATE_ROWS:
        yield mean + 3 * std * torch.randn((num_rows, *input_shape), generator=generator)
