"""The loss of a network on fixed rows as a function of its weights: value, gradient and Hessian-vector product.

Evaluation mode throughout: batch-norm statistics stay as they are and nothing is dropped, so the weights alone decide.
Shapes: B rows, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from clr.preprocessing import Preprocessing
from clr.snapshots import Snapshot
from clr.targets import Task

Weights = dict[str, Tensor]
"""A network's parameters by name, or a direction in their space; names that a direction lacks stay as they are."""

CHUNK_ROWS = 256
"""Rows at a time: bounds the memory of a second derivative, which keeps every activation several times."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to measure losses on.

    Attributes:
        inputs: As the data set holds them.
        targets: Class indices, or values in their own unit.
        task: What is predicted.
        target_unit: A regression's losses are in squares of it; 1 for classification.
    """

    inputs: Tensor
    targets: Tensor
    task: Task
    target_unit: float = 1.0

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, num_rows: int) -> "Rows":
        """The first ``num_rows`` of them."""
        return Rows(self.inputs[:num_rows], self.targets[:num_rows], self.task, self.target_unit)

    def to(self, device: torch.device) -> "Rows":
        """The same on ``device``."""
        return Rows(self.inputs.to(device), self.targets.to(device), self.task, self.target_unit)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, ``CHUNK_ROWS`` at a time."""
        return zip(torch.split(self.inputs, CHUNK_ROWS), torch.split(self.targets, CHUNK_ROWS), strict=True)

    def summed_loss(self, outputs: Tensor, targets_B: Tensor, preprocessing: Preprocessing) -> Tensor:
        """The sum of the rows' losses, from a network's raw outputs: cross-entropy in nats, or squared errors in ``target_unit``."""
        if self.task is Task.CLASSIFICATION:
            return functional.cross_entropy(outputs, targets_B, reduction="sum")
        standardised_B = (targets_B.to(outputs.dtype) - preprocessing.target_mean) / preprocessing.target_std
        factor = (preprocessing.target_std / self.target_unit) ** 2
        return functional.mse_loss(outputs.squeeze(1), standardised_B, reduction="sum") * factor

    def constant_loss(self) -> float:
        """The least loss of a prediction that is the same for every row: entropy of the classes, or variance of the values."""
        if self.task is Task.CLASSIFICATION:
            entropy: Tensor = torch.special.entr(self.targets.cpu().bincount().double() / len(self))
            return entropy.sum().item()
        return (self.targets.cpu().double() / self.target_unit).var(correction=0).item()


class LossSurface:
    """The mean loss on ``rows`` around a snapshot. Invariant: its network is in evaluation mode and never changes."""

    def __init__(self, snapshot: Snapshot, rows: Rows, device: torch.device) -> None:
        """Puts copies of the weights and the rows on ``device``."""
        self._network: nn.Module = snapshot.build_network(device)
        self._preprocessing = snapshot.preprocessing.to(device)
        self._rows = rows.to(device)
        self.weights: Weights = {name: parameter.detach() for name, parameter in self._network.named_parameters()}

    @torch.no_grad()
    def loss(self, weights: Weights) -> float:
        """The loss with ``weights`` in place of the snapshot's."""
        return sum(chunk.item() for chunk in self._chunk_losses(weights))

    def gradient(self, weights: Weights) -> Weights:
        """The loss' gradient with respect to all parameters, taken at ``weights``."""
        total = {name: torch.zeros_like(tensor) for name, tensor in self.weights.items()}
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        for loss in self._chunk_losses(leaves):
            _add(total, torch.autograd.grad(loss, list(leaves.values())))
        return total

    def hessian_product(self, vector: Weights) -> Weights:
        """The Hessian at the snapshot's own weights times ``vector``, by differentiating the gradient along it (Pearlmutter 1994)."""
        total = {name: torch.zeros_like(tensor) for name, tensor in self.weights.items()}
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in self.weights.items()}
        for loss in self._chunk_losses(leaves):
            gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            slope = torch.stack([(gradient * vector[name]).sum() for name, gradient in zip(leaves, gradients, strict=True)]).sum()
            _add(total, torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True))
        return total

    def _chunk_losses(self, weights: Weights) -> Iterator[Tensor]:
        """Each chunk's share of the mean loss."""
        for inputs, targets in self._rows.chunks():
            outputs = functional_call(self._network, weights, (self._preprocessing(inputs),))
            yield self._rows.summed_loss(outputs, targets, self._preprocessing) / len(self._rows)


def _add(total: Weights, terms: tuple[Tensor, ...]) -> None:
    for name, term in zip(total, terms, strict=True):
        total[name] += term
