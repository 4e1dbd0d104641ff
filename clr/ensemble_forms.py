"""Ways to compute the raw outputs of all members: the loop over them, and faster forms of the same function.

Shapes: M members, B rows, D features, H units, C classes. Every form is a function from rows as the data holds them, float32, to outputs
(M, B, C), float32 on the CPU. None is trusted: ``clr.ensemble_executor`` compares each with the loop and measures it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from clr.folding import folded, has_foldable
from clr.inference import network_outputs
from clr.preprocessing import Preprocessing, arrange

Form = Callable[[Tensor], Tensor]
Member = tuple[nn.Module, Preprocessing]


def loop(members: Sequence[Member]) -> Form:
    """One member after the other: the definition that all other forms are held against."""
    return lambda rows: torch.stack([network_outputs(network, preprocessing, rows) for network, preprocessing in members])


def other_forms(members: Sequence[Member]) -> dict[str, Callable[[], Form]]:
    """What may be faster for these members on a CPU, by name; each entry makes its form, which copies the weights."""
    first = members[0][1]
    networks = [network for network, _ in members]
    if first.mean.device.type != "cpu" or not _share_preprocessing(members) or not _are_alike(networks):
        return {}
    if all(_is_mlp(network) for network in networks):
        return {
            "stacked": lambda: StackedMlp(networks, first, is_transposed=False),
            "stacked_transposed": lambda: StackedMlp(networks, first, is_transposed=True),
        }
    forms: dict[str, Callable[[], Form]] = {}
    if any(has_foldable(network) for network in networks):
        forms["folded"] = lambda: _once_prepared([folded(network) for network in networks], first, torch.contiguous_format)
    forms["folded_channels_last"] = lambda: _once_prepared([folded(network) for network in networks], first, torch.channels_last)
    if len(members) > 1 and all(_begins_with_convolution(network) for network in networks):
        forms["wide_first"] = lambda: WideFirst([folded(network) for network in networks], first)
    if len(members) > 1:
        forms["vmap"] = lambda: _vectorised([folded(network) for network in networks], first)
    return forms


class StackedMlp:
    """Members that are equal multilayer perceptrons: one wide first layer, then one batched product a layer.

    The division by the standard deviation goes into the first weights. The mean is still taken off the rows: inside of the bias, large
    means would cancel in float32.
    """

    def __init__(self, networks: Sequence[nn.Module], preprocessing: Preprocessing, *, is_transposed: bool) -> None:
        """``is_transposed`` keeps the weights as the layers have them, which suits larger batches."""
        layers = list(zip(*([each for each in network.modules() if isinstance(each, nn.Linear)] for network in networks), strict=True))
        self._num_members = len(networks)
        self._mean, self._layout = preprocessing.mean, preprocessing.layout
        std = preprocessing.std.flatten()
        std_D = std.repeat_interleave(layers[0][0].in_features // len(std))  # of an image one value a channel
        wide_HD = torch.cat([layer.weight / std_D for layer in layers[0]])
        self._first_DH = wide_HD.t() if is_transposed else wide_HD.t().contiguous()
        self._first_bias = torch.cat([layer.bias for layer in layers[0]])
        self._rest: list[tuple[Tensor, Tensor]] = []
        for column in layers[1:]:
            weight = torch.stack([layer.weight for layer in column]).transpose(1, 2)
            self._rest.append((torch.stack([layer.bias for layer in column])[:, None], weight if is_transposed else weight.contiguous()))

    def __call__(self, rows: Tensor) -> Tensor:
        """Outputs (M, B, C)."""
        x_BD = arrange(rows, self._layout).sub(self._mean).flatten(1)
        x = torch.addmm(self._first_bias, x_BD, self._first_DH)
        x = x.view(len(x_BD), self._num_members, -1).transpose(0, 1)
        for bias, weight in self._rest:
            x = torch.baddbmm(bias, x.relu_(), weight)
        return x


class WideFirst:
    """Convolutional members: the first convolution, which all take the same rows through, as one; then each member's rest."""

    def __init__(self, networks: Sequence[nn.Module], preprocessing: Preprocessing) -> None:
        stems = [stem for network in networks if isinstance(stem := next(network.children()), nn.Conv2d)]
        first, biases = stems[0], [stem.bias for stem in stems if stem.bias is not None]
        self._preprocessing = preprocessing
        self._weight = torch.cat([stem.weight for stem in stems]).contiguous(memory_format=torch.channels_last)
        self._bias = torch.cat(biases) if biases else None
        self._stride, self._padding, self._channels = first.stride, first.padding, first.out_channels
        self._rests = [_in_format(nn.Sequential(*list(network.children())[1:]), torch.channels_last) for network in networks]

    def __call__(self, rows: Tensor) -> Tensor:
        """Outputs (M, B, C)."""
        x = self._preprocessing(rows).contiguous(memory_format=torch.channels_last)
        wide = functional.conv2d(x, self._weight, self._bias, self._stride, self._padding)
        parts = torch.split(wide, self._channels, dim=1)
        return torch.stack([rest(part) for rest, part in zip(self._rests, parts, strict=True)])


def _once_prepared(networks: Sequence[nn.Module], preprocessing: Preprocessing, memory_format: torch.memory_format) -> Form:
    """The loop over folded networks, whose rows are prepared once for all."""
    networks = [_in_format(network, memory_format) for network in networks]

    def outputs(rows: Tensor) -> Tensor:
        x = preprocessing(rows).contiguous(memory_format=memory_format)
        return torch.stack([network(x) for network in networks])

    return outputs


def _vectorised(networks: Sequence[nn.Module], preprocessing: Preprocessing) -> Form:
    """All members as one call of ``torch.func``: linear layers become batched products, later convolutions grouped ones."""
    parameters, buffers = stack_module_state(list(networks))
    parameters = {name: value.detach() for name, value in parameters.items()}
    network = networks[0]

    def one(state: dict[str, Tensor], constants: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(network, (state, constants), (x,))  # type: ignore[no-any-return]  # torch says Any

    every = vmap(one, in_dims=(0, 0, None))
    return lambda rows: every(parameters, buffers, preprocessing(rows))


def _share_preprocessing(members: Sequence[Member]) -> bool:
    first = members[0][1]
    return all(
        other.layout == first.layout and torch.equal(other.mean, first.mean) and torch.equal(other.std, first.std) for _, other in members
    )


def _are_alike(networks: Sequence[nn.Module]) -> bool:
    """Whether they have the same layers; an ensemble that was put together by hand may have any."""
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in networks]
    return all(type(network) is type(networks[0]) for network in networks) and all(each == shapes[0] for each in shapes)


def _begins_with_convolution(network: nn.Module) -> bool:
    return isinstance(network, nn.Sequential) and isinstance(network[0], nn.Conv2d)


def _in_format(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The network with its convolutions' weights in this order."""
    return network.to(memory_format=memory_format)  # type: ignore[call-overload,no-any-return]  # torch's stubs leave this form out


def _is_mlp(network: nn.Module) -> bool:
    """Whether it is layers with ReLU between them, and (in evaluation mode) nothing else."""
    kinds = (nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout)
    return isinstance(network, nn.Sequential) and all(isinstance(layer, kinds) for layer in network)
