"""What one trained network says about rows: batched, in evaluation mode, float32.

Shapes: N rows, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clr.preprocessing import Preprocessing
from clr.targets import Task

BATCH_ROWS = 1024
"""At a time. Fixed, since the last bits of a result may depend on the batch it was computed in."""
CONVOLUTION_BATCH_ROWS = 128
"""The same for convolutions on the CPU. Larger images between layers leave the cache, and glibc takes their memory from the system each
time: they are then half as fast."""


def batch_rows(network: nn.Module, device: torch.device) -> int:
    """How many rows go through the network at a time."""
    is_slow_with_many = device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in network.modules())
    return CONVOLUTION_BATCH_ROWS if is_slow_with_many else BATCH_ROWS


def batches(rows: Tensor, size: int) -> Sequence[Tensor]:
    """The rows, or their indices, in order and at most ``size`` at a time; views, not copies."""
    return (rows,) if len(rows) <= size else torch.split(rows, size)


@torch.inference_mode()
def network_outputs(model: nn.Module, preprocessing: Preprocessing, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
    """The network's raw outputs for the rows of ``inputs``: (N, C) logits or (N, 1) standardised values, on the CPU.

    Args:
        model: In evaluation mode.
        preprocessing: On the model's device.
        inputs: Rows as the data set holds them.
        rows: Indices of the rows to take; None: all.
    """
    device = preprocessing.mean.device
    size = batch_rows(model, device)
    chosen = batches(inputs, size) if rows is None else (inputs.index_select(0, some) for some in batches(rows, size))
    return torch.cat([model(preprocessing(batch.to(device))).float().cpu() for batch in chosen])


def predictions(outputs: Tensor, task: Task, preprocessing: Preprocessing) -> Tensor:
    """Probabilities (N, C) or values in the target's unit (N,), from raw outputs and in their precision."""
    if task is Task.CLASSIFICATION:
        return outputs.softmax(1)
    return outputs.squeeze(1) * preprocessing.target_std + preprocessing.target_mean
