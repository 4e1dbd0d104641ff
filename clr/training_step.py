"""One optimizer step on a mini-batch that lies on the device: all that is computed, and nothing that waits for the device."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from clr.augmentation import moved
from clr.cnn_gradients import CnnGradients
from clr.config import TrainingConfig
from clr.gradients import AutogradGradients, Gradients, MlpGradients, goes_by_hand
from clr.models import is_convolutional
from clr.optimizers import state_tensors
from clr.preprocessing import Preprocessing, arrange
from clr.targets import Task

StepForm = Literal["kernels", "graph"]
"""How the steps of full mini-batches reach a device: kernel by kernel, or as one CUDA graph."""


class Batch(NamedTuple):
    """What a step differs in from others, but for the learning rate; on the device.

    Attributes:
        inputs: Rows as the data set holds them.
        targets: Class indices, or standardised values.
        moves: Of ``clr.augmentation.draw_moves``.
    """

    inputs: Tensor
    targets: Tensor
    moves: Tensor | None


class TrainingStep:
    """Forward pass, loss, backward pass and update, kernel by kernel."""

    form: StepForm = "kernels"

    def __init__(
        self, config: TrainingConfig, task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, preprocessing: Preprocessing
    ) -> None:
        self.config, self.optimizer = config, optimizer
        self._model, self._preprocessing = model, preprocessing
        device = preprocessing.mean.device
        self._gradients: Gradients
        if not goes_by_hand(config, device):
            self._gradients = AutogradGradients(model, task, optimizer=optimizer, autocast=_autocast(config.precision, device))
        else:
            self._gradients = CnnGradients(model, task) if is_convolutional(config.model) else MlpGradients(model, task)

    def __call__(self, batch: Batch) -> Tensor:
        """Updates the network by the gradient of the rows' mean loss, and returns that loss before the update, on the device."""
        images, targets = arrange(batch.inputs, self._preprocessing.layout), batch.targets
        if batch.moves is not None:
            images = moved(images, batch.moves)
        self._gradients.clear()
        size = self.config.batch_size
        if len(targets) <= size:
            loss = self._gradients.add(self._preprocessing.standardize(images), targets)
        else:
            parts = zip(torch.split(images, size), torch.split(targets, size), strict=True)
            losses = [
                self._gradients.add(self._preprocessing.standardize(part), of_part, len(of_part) / len(targets)) for part, of_part in parts
            ]
            loss = torch.stack(losses).sum()
        self.optimizer.step()
        return loss

    def state(self) -> list[Tensor]:
        """References to all that a step changes and the next one starts from."""
        return [*self._model.state_dict().values(), *state_tensors(self.optimizer).values()]


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What a forward pass runs in; it can be entered again and again."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
