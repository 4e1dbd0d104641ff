"""What ``precision: "auto"`` means: a rule that depends on config, shapes and device alone, and a check of it that asks a clock.

The rule says where bf16 autocast is expected to pay, so that equal runs on equal machines compute with equal bits. The check can only
take bf16 back: where it is slower here than float32, or trains to another loss. Whoever asks for it must keep the answer with the run
(``clr.checkpoints`` does) before anything else of the run is kept.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from clr.config import SetupConfig
from clr.models import is_convolutional, multiply_adds

Precision = Literal["fp32", "bf16"]

MIN_WORK_LINEAR = 16_000_000
MIN_WORK_CONVOLUTIONAL = 128_000_000
"""Products of a mini-batch's forward pass from which on bf16 is taken on a CPU (``benchmarks/precision_table.py``). Below, casting the
weights costs as much as the faster products save."""

WARM_UP_STEPS = 2
TIMED_STEPS = 8
CHECK_STEPS = 2 * (WARM_UP_STEPS + TIMED_STEPS)
MIN_RUN_STEPS = 50 * CHECK_STEPS
"""A run of fewer steps is not worth the check."""

LOSS_TOLERANCE = 0.02
"""Between the mean losses of the timed steps, as a share of the one in float32, or of ``LEAST_LOSS`` where that is less."""

LEAST_LOSS = 0.1

CHECK_RATE = 0.1
"""Of the run's first rate: at a high one the first steps tear any two runs apart, however little they differ."""


@dataclass(frozen=True)
class PrecisionCheck:
    """What a few steps of both precisions from the same weights over the same rows have shown.

    Attributes:
        precision: What the run is to take.
        speedup: Seconds of the fastest float32 step over those of the fastest bf16 step.
        loss_difference: Between the mean losses, as a share of the loss in float32; None where one is no finite number.
        steps: Timed steps of each.
        reason: In words.
    """

    precision: Precision
    speedup: float
    loss_difference: float | None
    steps: int
    reason: str


def auto_precision(config: SetupConfig, input_shape: tuple[int, ...], num_outputs: int, device: str) -> Precision:
    """bf16 on a CUDA device that has it; on a CPU that has it, where a mini-batch is enough work.

    Raises:
        ModelError: The network cannot take rows of that shape.
    """
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    if torch.device(device).type != "cpu" or not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return "fp32"
    least = MIN_WORK_CONVOLUTIONAL if is_convolutional(config.model) else MIN_WORK_LINEAR
    return "bf16" if config.batch_size * multiply_adds(config.model, input_shape, num_outputs) >= least else "fp32"


def check_precision(steps: dict[Precision, Callable[[int], float]], clock: Callable[[], float]) -> PrecisionCheck:
    """Takes steps in turn and compares them.

    Args:
        steps: Of each precision what takes the step with that index from 0, waits for the device, and returns the loss.
        clock: Seconds.
    """
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    losses: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for index in range(WARM_UP_STEPS + TIMED_STEPS):
        order: tuple[Precision, ...] = ("fp32", "bf16") if index % 2 == 0 else ("bf16", "fp32")
        for precision in order:
            began = clock()
            loss = steps[precision](index)
            took = clock() - began
            if index >= WARM_UP_STEPS:
                seconds[precision].append(took)
                losses[precision].append(loss)
    speedup = min(seconds["fp32"]) / max(min(seconds["bf16"]), 1e-9)
    plain, rounded = (sum(losses[precision]) / TIMED_STEPS for precision in ("fp32", "bf16"))
    difference = abs(rounded - plain) / max(abs(plain), LEAST_LOSS)
    if not math.isfinite(difference) or difference > LOSS_TOLERANCE:
        reason = (
            f"the mean loss of {TIMED_STEPS} steps is {rounded:.4g} in bf16 and {plain:.4g} in fp32: more than {LOSS_TOLERANCE:.0%} apart"
        )
        return PrecisionCheck("fp32", speedup, difference if math.isfinite(difference) else None, TIMED_STEPS, reason)
    told = f"a step in bf16 takes {1 / speedup:.2f} of one in fp32, at a loss {difference:.2%} off"
    return PrecisionCheck("bf16" if speedup >= 1 else "fp32", speedup, difference, TIMED_STEPS, told)
