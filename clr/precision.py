"""What ``precision: "auto"`` means: a rule over config, data and the kind of device, so that equal jobs compute with equal bits.

No clock is asked. Where bf16 pays on a CPU was measured beforehand, and is measured again by ``make precision-table`` (speed) and
``make bench-precision`` (accuracy); what they showed stands here as numbers.
"""

from collections.abc import Mapping
from typing import Literal

import torch

from clr.config import SetupConfig
from clr.datasets import Dataset
from clr.models import multiply_adds
from clr.targets import Task

Precision = Literal["fp32", "bf16"]

MIN_PRODUCTS: Mapping[str, int] = {"mlp": 16_000_000}
"""Products of a mini-batch's forward pass from which on bf16 was faster on a CPU at every shape that was measured, by architecture.
Below, casting weights and activations costs as much as the faster products save. An architecture that is not named has not been
shown to gain and to pass the accuracy gate, and stays in float32."""


def auto_precision(config: SetupConfig, dataset: Dataset, device: str) -> Precision:
    """bf16 on a CUDA device that has it; on a CPU that has it, for classes, where the network's mini-batches are large enough.

    Raises:
        ModelError: The network cannot take the data's rows.
    """
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    least = MIN_PRODUCTS.get(config.model.architecture)
    if torch.device(device).type != "cpu" or least is None or dataset.task is not Task.CLASSIFICATION or not cpu_has_bf16():
        return "fp32"
    products = config.batch_size * multiply_adds(config.model, dataset.input_shape, dataset.num_outputs)
    return "bf16" if products >= least else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies in bf16 itself: elsewhere the kernels compute in float32 and round, which only costs."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
