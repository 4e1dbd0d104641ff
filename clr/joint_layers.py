"""The layers of M convolutional networks of one shape as one layer each: convolutions of M groups, over images in the order of pixels.

Shapes: M members, B rows, H height, W width, C channels or classes, F features. Images are (B, M * C, H, W) in ``channels_last``.

The operators are those that torch's compiler emits for oneDNN, with the ReLU and the sum with a shortcut inside the convolution. Weights
are handed over as they are and ordered at each call, which takes microseconds: the order that oneDNN wants depends on rows and threads,
and weights in another one take it a millisecond.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from clr.folding import folded, scale_and_shift
from clr.preprocessing import Preprocessing, arrange


class JointConvolution:
    """The same convolution of every member, with the batch norm after it in its weights, and with ReLU."""

    def __init__(
        self,
        convolutions: Sequence[nn.Conv2d],
        norms: Sequence[nn.BatchNorm2d | None],
        *,
        relu: bool = True,
        shared_std: Tensor | None = None,
    ) -> None:
        """``shared_std``: the members all take the same images, that are still to be divided by it; None: each has its own."""
        weights, biases = zip(*[folded(*pair, input_std=shared_std) for pair in zip(convolutions, norms, strict=True)], strict=True)
        self._weight = torch.cat(weights).contiguous(memory_format=torch.channels_last)
        self._bias = torch.cat(biases)
        first, groups = convolutions[0], len(convolutions) if shared_std is None else 1
        assert isinstance(first.padding, tuple), "our networks pad by numbers"
        self._geometry = (list(first.padding), list(first.stride), list(first.dilation), groups)
        self._has_relu = relu

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of images."""
        activation = "relu" if self._has_relu else "none"
        y_BCHW: Tensor = torch.ops.mkldnn._convolution_pointwise(x_BCHW, self._weight, self._bias, *self._geometry, activation, [], "")
        return y_BCHW

    def add_to(self, shortcut_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The sum of the shortcut and the convolution of ``x_BCHW``, in the shortcut's memory."""
        activation = "relu" if self._has_relu else None
        y_BCHW: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut_BCHW, x_BCHW, self._weight, self._bias, *self._geometry, "add", 1.0, activation, [], None
        )
        return y_BCHW


class JointNorm:
    """The same batch norm of every member, with ReLU, where no convolution stands before it that could do it."""

    def __init__(self, norms: Sequence[nn.BatchNorm2d]) -> None:
        scales, shifts = zip(*map(scale_and_shift, norms), strict=True)
        self._scale_C11, self._shift_C11 = torch.cat(scales)[:, None, None], torch.cat(shifts)[:, None, None]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images."""
        return torch.addcmul(self._shift_C11, x_BCHW, self._scale_C11).relu_()


class JointHead:
    """The mean over the pixels and every member's last layer."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._weight_MFC = torch.stack([layer.weight.detach() for layer in layers]).transpose(1, 2).contiguous()
        self._bias_M1C = torch.stack([layer.bias.detach() for layer in layers])[:, None]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Raw outputs (M, B, C)."""
        x_BMF = x_BCHW.mean((2, 3)).view(len(x_BCHW), len(self._weight_MFC), -1)
        return torch.baddbmm(self._bias_M1C, x_BMF.transpose(0, 1), self._weight_MFC)


def padded_shortcut(x_BCHW: Tensor, *, num_members: int, stride: int, extra_channels: int) -> Tensor:
    """Every ``stride``-th pixel, and zeros behind the channels of each member."""
    if stride == 1 and not extra_channels:
        return x_BCHW
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)[:, ::stride, ::stride]
    x_BHWMC = x_BHWC.reshape(*x_BHWC.shape[:3], num_members, -1)
    return functional.pad(x_BHWMC, (0, extra_channels)).flatten(3).permute(0, 3, 1, 2)


def centred_images(rows: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The rows without the mean, (B, C, H, W) float32.

    Their strides say ``channels_last`` for grey images too, where both orders are the same memory: torch goes by the strides.
    """
    x_BHWC = arrange(rows, preprocessing.layout).permute(0, 2, 3, 1)
    centred_BHWC = torch.empty(x_BHWC.shape)
    torch.sub(x_BHWC, preprocessing.mean.permute(1, 2, 0), out=centred_BHWC)
    return centred_BHWC.permute(0, 3, 1, 2)
