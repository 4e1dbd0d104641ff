"""What one trained network says about rows: batched, in evaluation mode, float32.

Shapes: N rows, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clr.preprocessing import Preprocessing
from clr.targets import Task

BATCH_ROWS = 128
"""At a time on the CPU. Larger images between layers leave the cache, and glibc takes their memory from the system each time: convolutions
are then half as fast. Fixed, since the last bits of a result may depend on the batch it was computed in."""
CUDA_BATCH_ROWS = 1024
"""The same on a GPU, which few rows leave idle."""


def batches(inputs: Tensor, device: torch.device) -> Sequence[Tensor]:
    """The rows as ``device`` takes them, in order; views, not copies."""
    size = batch_rows(device)
    return (inputs,) if len(inputs) <= size else torch.split(inputs, size)


def batch_rows(device: torch.device) -> int:
    """How many rows ``device`` takes at a time."""
    return CUDA_BATCH_ROWS if device.type == "cuda" else BATCH_ROWS


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
    chosen = batches(inputs, device) if rows is None else (inputs.index_select(0, some) for some in batches(rows, device))
    return torch.cat([model(preprocessing(batch.to(device))).float().cpu() for batch in chosen])


def predictions(outputs: Tensor, task: Task, preprocessing: Preprocessing) -> Tensor:
    """Probabilities (N, C) or values in the target's unit (N,), from raw outputs and in their precision."""
    if task is Task.CLASSIFICATION:
        return outputs.softmax(1)
    return outputs.squeeze(1) * preprocessing.target_std + preprocessing.target_mean
