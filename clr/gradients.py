"""The gradients of a mini-batch's mean loss: by autograd, or for a plain multilayer perceptron by hand, with the same bits.

``clr.cnn_gradients`` has those of ``small_cnn``.

Autograd records what a network does and frees what it kept, anew in every step. A small network on a CPU spends a sixth of its step on
that. By hand the same kernels run in the same order on the same numbers, and write into gradients that stay.

Shapes: B rows, F features of a layer's inputs, K of its outputs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from clr.config import MlpConfig, SmallCnnConfig, TrainingConfig
from clr.models import has_dropout, is_convolutional
from clr.targets import Task

_aten = torch.ops.aten
_MEAN, _IGNORED_CLASS = 1, -100  # ATen's Reduction::Mean, and nll_loss's default


class Gradients(Protocol):
    """Fills the ``grad`` of a network's parameters."""

    def clear(self) -> None:
        """Forgets the gradients of the last step."""

    def add(self, inputs: Tensor, targets: Tensor, share: float | None = None) -> Tensor:
        """Adds the gradients of the rows' mean loss, times ``share`` where there is one; returns that loss, on the device.

        Args:
            inputs: As the network takes them.
            targets: Class indices, or standardised values.
            share: Of the rows of the step, where it takes several such parts.
        """


class AutogradGradients:
    """Those of any network."""

    def __init__(self, model: nn.Module, task: Task, *, optimizer: torch.optim.Optimizer, autocast: AbstractContextManager[object]) -> None:
        self._model, self._task, self._optimizer, self._autocast = model, task, optimizer, autocast

    def clear(self) -> None:
        """As ``Gradients``."""
        self._optimizer.zero_grad()

    def add(self, inputs: Tensor, targets: Tensor, share: float | None = None) -> Tensor:
        """As ``Gradients``."""
        with self._autocast:
            loss = self._loss(self._model(inputs), targets)
        if share is not None:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        return loss.detach()

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._task is Task.CLASSIFICATION:
            return functional.cross_entropy(outputs, targets)
        return functional.mse_loss(outputs.float().squeeze(1), targets)


def goes_by_hand(config: TrainingConfig, device: torch.device) -> bool:
    """Whether there is a way by hand for the network: a multilayer perceptron without dropout or ``small_cnn``, in float32 on the CPU."""
    is_plain = isinstance(config.model, MlpConfig | SmallCnnConfig) and not has_dropout(config.model)
    return is_plain and config.precision == "fp32" and device.type == "cpu"


def gradients_form(config: TrainingConfig, device: torch.device) -> str:
    """In which order gradients are computed, which their last bits depend on: as autograd does, or as ``clr.cnn_gradients``."""
    return "pooled first" if goes_by_hand(config, device) and is_convolutional(config.model) else "autograd"


class MlpGradients:
    """Those of a network of linear layers with a ReLU between any two, whose parameters stay where they are."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        assert {type(module) for module in model.modules()} <= {nn.Sequential, nn.Flatten, nn.Linear, nn.ReLU}, "another kind of network"
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._weights_KF = [layer.weight for layer in layers]
        self._biases_K = [layer.bias for layer in layers]
        self._task = task
        for parameter in (*self._weights_KF, *self._biases_K):
            parameter.grad = torch.zeros_like(parameter)
        self._is_clear = True

    def clear(self) -> None:
        """As ``Gradients``."""
        self._is_clear = True

    @torch.no_grad()
    def add(self, inputs: Tensor, targets: Tensor, share: float | None = None) -> Tensor:
        """As ``Gradients``."""
        layers = list(zip(self._weights_KF, self._biases_K, strict=True))
        taken_BF = [inputs.flatten(1)]
        for weight_KF, bias_K in layers[:-1]:
            taken_BF.append(torch.addmm(bias_K, taken_BF[-1], weight_KF.t()).relu_())
        weight_KF, bias_K = layers[-1]
        loss, grad_BK = loss_and_gradient(self._task, torch.addmm(bias_K, taken_BF[-1], weight_KF.t()), targets, share)
        for index in range(len(layers) - 1, -1, -1):
            weight_KF, bias_K = layers[index]
            self._put(weight_KF, torch.mm, grad_BK.t(), taken_BF[index])
            self._put(bias_K, torch.sum, grad_BK, 0)
            if index:
                grad_BK = _aten.threshold_backward(_through(weight_KF, grad_BK), taken_BF[index], 0)
        self._is_clear = False
        return loss

    def _put(self, parameter: Tensor, operation: Callable[..., Tensor], *operands: Tensor | int) -> None:
        """Writes what the operation gives into the parameter's gradient, or adds it to what is there."""
        assert parameter.grad is not None
        if self._is_clear:
            operation(*operands, out=parameter.grad)
        else:
            parameter.grad += operation(*operands)


def _through(weight_KF: Tensor, grad_BK: Tensor) -> Tensor:
    """The gradient (B, F) by what the layer takes."""
    if len(grad_BK) == weight_KF.shape[1] == 1:  # a single number counts as column-major, and autograd computes the transposed product
        return weight_KF.t().mm(grad_BK.t()).t()
    return grad_BK.mm(weight_KF)


def loss_and_gradient(task: Task, outputs_BK: Tensor, targets: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
    """The rows' mean loss, times ``share`` where there is one, and its gradient (B, K) by the outputs."""
    scale = torch.tensor(1.0 if share is None else share)
    if task is Task.CLASSIFICATION:
        log_probs_BK = _aten._log_softmax(outputs_BK, 1, False)
        loss, total = _aten.nll_loss_forward(log_probs_BK, targets, None, _MEAN, _IGNORED_CLASS)
        grad_BK = _aten.nll_loss_backward(scale, log_probs_BK, targets, None, _MEAN, _IGNORED_CLASS, total)
        grad_BK = _aten._log_softmax_backward_data(grad_BK, log_probs_BK, 1, torch.float32)
    else:
        values_B = outputs_BK.squeeze(1)
        loss = _aten.mse_loss(values_B, targets, _MEAN)
        grad_BK = _aten.mse_loss_backward(scale, values_B, targets, _MEAN).unsqueeze(1)
    return loss if share is None else loss * share, grad_BK
