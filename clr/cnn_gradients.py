"""The gradients of ``small_cnn`` by hand: autograd's but for rounding, with less to read and write.

Max pooling commutes with a batch norm whose scales are not negative. So the statistics are taken over the whole feature maps, and what is
normalised and rectified, and its way back, is a quarter of them.

Shapes: B rows, C channels, H and W pixels, K outputs. Feature maps lie in memory as ``channels_last``.
"""
# ruff: noqa: N815  # fields carry their shapes

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from clr.gradients import loss_and_gradient
from clr.models import GlobalAverage
from clr.targets import Task

_aten = torch.ops.aten
_ALL = (True, True, True)
_KINDS = [*(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU) * 2, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, GlobalAverage, nn.Linear]
_WINDOW = (2, 2)


class CnnGradients:
    """Those of ``small_cnn``, whose parameters stay where they are."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        layers = list(model.children())
        assert [type(layer) for layer in layers] == _KINDS, "another kind of network"
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
        self._first, self._second, self._last = (_Block(*pair) for pair in zip(convolutions, norms, strict=True))
        self._head = cast(nn.Linear, layers[-1])
        self._task = task
        self._is_clear = True

    def clear(self) -> None:
        """As ``Gradients``."""
        self._is_clear = True

    @torch.no_grad()
    def add(self, inputs: Tensor, targets: Tensor, share: float | None = None) -> Tensor:
        """As ``Gradients``."""
        first = self._first.pooled_forward(inputs)
        second = self._second.pooled_forward(first.outputs)
        last = self._last.forward(second.outputs)
        features_BC = last.outputs.mean((2, 3))
        loss, grad_BK = self._head_backward(features_BC, targets, share)
        num_pixels = last.outputs.shape[2] * last.outputs.shape[3]
        grad = (grad_BK.mm(self._head.weight) / num_pixels)[:, :, None, None].expand_as(last.outputs)
        grad = self._last.backward(last, grad, is_clear=self._is_clear)
        grad = self._second.pooled_backward(second, grad, is_clear=self._is_clear)
        self._first.pooled_backward(first, grad, is_clear=self._is_clear, needs_inputs=False)
        self._is_clear = False
        return loss

    def _head_backward(self, features_BC: Tensor, targets: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
        """The loss and its gradient by the outputs."""
        head = self._head
        loss, grad_BK = loss_and_gradient(self._task, torch.addmm(head.bias, features_BC, head.weight.t()), targets, share)
        _put(head.weight, grad_BK.t().mm(features_BC), is_clear=self._is_clear)
        _put(head.bias, grad_BK.sum(0), is_clear=self._is_clear)
        return loss, grad_BK


class _Whole(NamedTuple):
    """What a block without pooling keeps of its forward pass: what it takes, what its layers give, and its batch's statistics."""

    inputs: Tensor
    convolved: Tensor
    outputs: Tensor
    mean_C: Tensor
    inverse_std_C: Tensor


class _Pooled(NamedTuple):
    """What a pooled block keeps of its forward pass.

    Attributes:
        inputs: Of the convolution.
        signs_C: -1 in channels whose scale is negative, else 1; None where there are none. ``weight``, ``scale_C`` and what they lead to
            are times these, which changes no output: then the largest of a window stays the largest.
        weight: Of the convolution.
        scale_C: Of the batch norm.
        mean_C: Of the convolution's outputs.
        variance_C: Of these, biased.
        convolved: The convolution's outputs.
        maxima: The largest of each window of them.
        where: Their places.
        outputs: Normalised and rectified.
    """

    inputs: Tensor
    signs_C: Tensor | None
    weight: Tensor
    scale_C: Tensor
    mean_C: Tensor
    variance_C: Tensor
    convolved: Tensor
    maxima: Tensor
    where: Tensor
    outputs: Tensor


class _Block:
    """A convolution, the batch norm behind it, and a ReLU, with max pooling or without."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        self.weight, self.scale_C, self.bias_C = convolution.weight, norm.weight, norm.bias
        self.running_mean_C, self.running_variance_C, self.num_batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
        self.momentum, self.eps = norm.momentum, norm.eps

    def forward(self, inputs: Tensor) -> _Whole:
        """Without pooling."""
        convolved = _convolved(inputs, self.weight)
        self.num_batches += 1
        outputs, mean_C, inverse_std_C = torch.native_batch_norm(
            convolved, self.scale_C, self.bias_C, self.running_mean_C, self.running_variance_C, True, self.momentum, self.eps
        )
        return _Whole(inputs, convolved, outputs.relu_(), mean_C, inverse_std_C)

    def backward(self, kept: _Whole, grad: Tensor, *, is_clear: bool) -> Tensor:
        """Without pooling: puts the gradients, and returns that by the inputs."""
        grad = _aten.threshold_backward(grad, kept.outputs, 0)
        running = self.running_mean_C, self.running_variance_C
        grad, grad_scale_C, grad_bias_C = _aten.native_batch_norm_backward(
            grad, kept.convolved, self.scale_C, *running, kept.mean_C, kept.inverse_std_C, True, self.eps, _ALL
        )
        grad, grad_weight = _convolution_backward(grad, kept.inputs, self.weight)
        self._put(grad_weight, grad_scale_C, grad_bias_C, is_clear=is_clear)
        return grad

    def pooled_forward(self, inputs: Tensor) -> _Pooled:
        """With pooling."""
        weight, scale_C, signs_C = self.weight.detach(), self.scale_C.detach(), None
        if scale_C.amin().item() < 0:
            signs_C = torch.where(scale_C < 0, -1.0, 1.0)
            weight, scale_C = weight * signs_C[:, None, None, None], scale_C * signs_C
        convolved = _convolved(inputs, weight)
        mean_C, variance_C = self._noted_statistics(convolved, signs_C)
        maxima, where = _aten.max_pool2d_with_indices(convolved, _WINDOW, _WINDOW)
        outputs, _, _ = torch.native_batch_norm(maxima, scale_C, self.bias_C, mean_C, variance_C, False, self.momentum, self.eps)
        return _Pooled(inputs, signs_C, weight, scale_C, mean_C, variance_C, convolved, maxima, where, outputs.relu_())

    def _noted_statistics(self, convolved: Tensor, signs_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of the batch; the running ones are those without signs."""
        self.num_batches += 1
        if signs_C is not None:
            self.running_mean_C *= signs_C
        mean_C, variance_C = torch.batch_norm_update_stats(convolved, self.running_mean_C, self.running_variance_C, self.momentum)
        if signs_C is not None:
            self.running_mean_C *= signs_C
        return mean_C, variance_C

    def pooled_backward(self, kept: _Pooled, grad: Tensor, *, is_clear: bool, needs_inputs: bool = True) -> Tensor:
        """With pooling: puts the gradients, and returns that by the inputs, if it is needed.

        The batch norm has two ways back: through its outputs, here the maxima alone, as if its statistics were constants; and through the
        statistics, from each pixel (Ioffe and Szegedy, 1502.03167, section 3).
        """
        grad = _aten.threshold_backward(grad, kept.outputs, 0)
        grad, grad_scale_C, grad_bias_C = _aten.native_batch_norm_backward(
            grad, kept.maxima, kept.scale_C, kept.mean_C, kept.variance_C, None, None, False, self.eps, _ALL
        )
        grad = _aten.max_pool2d_with_indices_backward(grad, kept.convolved, _WINDOW, _WINDOW, (0, 0), (1, 1), False, kept.where)
        inverse_std_C = (kept.variance_C + self.eps).rsqrt_()
        share_C = kept.scale_C * inverse_std_C / -(kept.convolved.numel() // len(kept.mean_C))  # of one pixel
        by_value_C = share_C * grad_scale_C * inverse_std_C
        constant_C = share_C * grad_bias_C - by_value_C * kept.mean_C
        _pixels(grad).addcmul_(_pixels(kept.convolved), by_value_C).add_(constant_C)
        grad, grad_weight = _convolution_backward(grad, kept.inputs, kept.weight, needs_inputs=needs_inputs)
        if kept.signs_C is not None:
            grad_weight, grad_scale_C = grad_weight * kept.signs_C[:, None, None, None], grad_scale_C * kept.signs_C
        self._put(grad_weight, grad_scale_C, grad_bias_C, is_clear=is_clear)
        return grad

    def _put(self, grad_weight: Tensor, grad_scale_C: Tensor, grad_bias_C: Tensor, *, is_clear: bool) -> None:
        for parameter, grad in ((self.weight, grad_weight), (self.scale_C, grad_scale_C), (self.bias_C, grad_bias_C)):
            _put(parameter, grad, is_clear=is_clear)


def _put(parameter: Tensor, grad: Tensor, *, is_clear: bool) -> None:
    """Makes the gradient the parameter's, or adds it to what is there."""
    if is_clear or parameter.grad is None:
        parameter.grad = grad
    else:
        parameter.grad += grad


def _convolved(inputs: Tensor, weight: Tensor) -> Tensor:
    return torch.conv2d(inputs, weight, None, 1, 1)


def _convolution_backward(grad: Tensor, inputs: Tensor, weight: Tensor, *, needs_inputs: bool = True) -> tuple[Tensor, Tensor]:
    """The gradients by the inputs, if needed, and by the weights."""
    mask = (needs_inputs, True, False)
    grad, grad_weight, _ = _aten.convolution_backward(grad, inputs, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, mask)
    return grad, grad_weight


def _pixels(maps: Tensor) -> Tensor:
    """A view (B * H * W, C)."""
    return maps.permute(0, 2, 3, 1).view(-1, maps.shape[1])
