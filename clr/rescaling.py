"""When sharpness means nothing: the same function with other weights, and what that does to each measure (1703.04933).

A network with ReLU or batch norm computes the same function with some weights divided by alpha. The Hessian's block of those weights
grows by alpha squared (1703.04933, section 4.2), so an eigenvalue alone ranks parametrisations, not minima. A filter-normalised
ball shrinks with the filters and sees the same losses as before (1712.09913, section 4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from clr.inference import network_outputs
from clr.models import ResNet, WideResNet
from clr.sharpness import Sharpness
from clr.snapshots import Snapshot

SAME_OUTPUTS = 1e-3
"""Outputs that move by more than this share of the largest one are another function, not rounding."""

SAME_SHARPNESS = 0.1
"""A measure that changes by at most this share is called unchanged."""


@dataclass(frozen=True)
class RescalingCheck:
    """The sharpness of one snapshot before and after a rescaling that keeps its function.

    Attributes:
        alpha: What weights were divided by.
        method: Which weights, in words.
        output_change: The outputs' largest change, relative to the largest output.
        before: Of the snapshot itself.
        after: Of the rescaled one, on the same rows and in the same directions.
        verdict: What follows, in words.
    """

    alpha: float
    method: str
    output_change: float
    before: Sharpness
    after: Sharpness
    verdict: str


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A snapshot with other weights and the same outputs, and how it was made."""

    snapshot: Snapshot
    method: str


def check_rescaling(
    snapshot: Snapshot, inputs: Tensor, before: Sharpness, measure: Callable[[Snapshot], Sharpness], *, alpha: float, device: torch.device
) -> RescalingCheck | None:
    """Rescales the snapshot and measures it again; None for a network that has nothing to rescale.

    Args:
        snapshot: Whose sharpness is in question.
        inputs: Rows to compare the outputs on.
        before: Its sharpness.
        measure: What gave ``before``.
        alpha: The factor; a power of two keeps rounding out of it.
        device: To compute on.
    """
    rescaled = rescale(snapshot, alpha)
    if rescaled is None:
        return None
    original, changed = (
        network_outputs(one.build_network(device), one.preprocessing.to(device), inputs) for one in (snapshot, rescaled.snapshot)
    )
    change = ((changed - original).abs().max() / original.abs().max().clamp_min(torch.finfo(original.dtype).tiny)).item()
    after = measure(rescaled.snapshot)
    return RescalingCheck(alpha, rescaled.method, change, before, after, _verdict(alpha, change, before, after))


def rescale(snapshot: Snapshot, alpha: float) -> Rescaled | None:
    """The same function with some weights divided by ``alpha``; None where no two layers allow it.

    Where batch norm follows convolutions, each of those is divided and its running statistics follow. Otherwise the first linear
    layer is divided and the second multiplied, since relu(x / alpha) alpha = relu(x) (1703.04933, section 3).
    """
    network = snapshot.build_network(torch.device("cpu"))
    tensors = dict(snapshot.tensors)
    if pairs := _normalised_convolutions(network):
        for convolution, norm in pairs:
            _divide_before_norm(tensors, convolution, norm, alpha, network.get_submodule(norm))
        method = f"the weights of {len(pairs)} convolutions divided by {alpha:g}, the batch norms' running statistics with them"
    elif len(linear := [name for name, module in network.named_children() if isinstance(module, nn.Linear)]) > 1:
        for name in (f"{linear[0]}.weight", f"{linear[0]}.bias"):
            tensors[name] = tensors[name] / alpha
        tensors[f"{linear[1]}.weight"] = tensors[f"{linear[1]}.weight"] * alpha
        method = f"the first linear layer divided by {alpha:g}, the second multiplied by it"
    else:
        return None
    return Rescaled(replace(snapshot, tensors=tensors), method)


def _normalised_convolutions(network: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions without bias whose output goes to a batch norm and nowhere else, with that norm's."""
    match network:
        case ResNet():
            pairs = [(f"blocks.{index}.conv{i}", f"blocks.{index}.norm{i}") for index in range(len(network.blocks)) for i in (1, 2)]
            return [("stem", "norm"), *pairs]
        case WideResNet():  # its stem and second convolutions also feed the sum that goes past the norm
            return [(f"blocks.{index}.conv1", f"blocks.{index}.norm2") for index in range(len(network.blocks))]
    following = pairwise(network.named_children())
    return [(a, b) for (a, first), (b, second) in following if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)]


def _divide_before_norm(tensors: dict[str, Tensor], convolution: str, norm: str, alpha: float, module: nn.Module) -> None:
    """Divides a convolution's weights and lets the norm's running statistics follow.

    The variance also makes up for the constant eps that the norm adds to it, so that the outputs do not move:
    (v' + eps) = (v + eps) / alpha^2. For a dead channel that is below zero, and still above zero once eps is added.
    """
    assert isinstance(module, nn.BatchNorm2d)
    mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
    tensors[f"{convolution}.weight"] = tensors[f"{convolution}.weight"] / alpha
    tensors[mean] = tensors[mean] / alpha
    tensors[variance] = ((tensors[variance].double() + module.eps) / alpha**2 - module.eps).to(tensors[variance].dtype)


def _verdict(alpha: float, change: float, before: Sharpness, after: Sharpness) -> str:
    """What the two measurements say about the measures, in words."""
    if not change <= SAME_OUTPUTS:
        return f"no verdict: the outputs moved by {change:.2g} of the largest, so rounding made it another function"
    ratios = {
        "eigenvalue": _ratio(before.eigenvalue.value, after.eigenvalue.value),
        "mean": _ratio(before.rises.mean, after.rises.mean),
        "worst": _ratio(before.rises.worst, after.rises.worst),
    }
    if not all(math.isfinite(ratio) for ratio in ratios.values()):
        return "no verdict: a measure is not finite or was zero, so there is nothing to compare"
    is_eigenvalue_same = abs(ratios["eigenvalue"] - 1) <= SAME_SHARPNESS
    are_rises_same = all(abs(ratios[name] - 1) <= SAME_SHARPNESS for name in ("mean", "worst"))
    eigenvalue = (
        f"the largest Hessian eigenvalue kept its size ({ratios['eigenvalue']:.3g} times as large): the weights that were rescaled do "
        "not carry it, so it is not cleared either"
        if is_eigenvalue_same
        else f"the largest Hessian eigenvalue became {ratios['eigenvalue']:.3g} times as large (alpha squared is {alpha**2:g}) while the "
        "function stayed the same: by itself it says nothing about how good a minimum is"
    )
    rises = (
        "the filter-normalised rises did not change: compare snapshots by them"
        if are_rises_same
        else f"the filter-normalised rises changed too ({ratios['mean']:.3g} and {ratios['worst']:.3g} times as large): do not rely on them"
    )
    return f"{eigenvalue}; {rises}"


def _ratio(before: float, after: float) -> float:
    return after / before if before else math.nan
