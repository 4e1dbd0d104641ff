"""What one trained network says about rows: batched, in evaluation mode, float32.

Shapes: N rows, C classes.
"""

import torch
from torch import Tensor, nn

from clr.preprocessing import Preprocessing
from clr.targets import Task

BATCH_ROWS = 1024
"""Fixed, since the last bits of a result may depend on the batch it was computed in."""


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
    chunks = torch.split(inputs, BATCH_ROWS) if rows is None else (inputs.index_select(0, some) for some in torch.split(rows, BATCH_ROWS))
    return torch.cat([model(preprocessing(batch.to(device))).float().cpu() for batch in chunks])


def predictions(outputs: Tensor, task: Task, preprocessing: Preprocessing) -> Tensor:
    """Probabilities (N, C) or values in the target's unit (N,), from raw outputs and in their precision."""
    if task is Task.CLASSIFICATION:
        return outputs.softmax(1)
    return outputs.squeeze(1) * preprocessing.target_std + preprocessing.target_mean
