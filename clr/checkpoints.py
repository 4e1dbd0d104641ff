"""Checkpoints: everything needed to go on with a run after any optimizer step, bit for bit, in one safetensors file.

Randomness and learning rates are functions of the step, so a checkpoint holds only weights, the optimizer's state, the running
sums of the members' predictions, and whatever the caller adds.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clr import tensor_files
from clr.config import TrainingConfig
from clr.errors import CheckpointError
from clr.gradients import gradients_form
from clr.schedule_config import WarmRestartsSchedule

__all__ = ["Checkpoint", "CheckpointError", "environment", "load_checkpoint", "save_checkpoint", "with_more_cycles"]

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after ``step`` completed optimizer steps.

    Attributes:
        step: Completed optimizer steps.
        tensors: ``model.…``, ``optimizer.<parameter>.…``, ``held_out.…`` (what the members predict), ``minimum.…`` (the network at the
            start of the cycle) and ``last.loss``, copies on the CPU.
        state: What ``train`` needs besides, as JSON: members so far, changes of plan, resolved config, data hash, environment.
        caller_state: The caller's own JSON, such as a ``History``; ``train`` does not read it.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    caller_state: dict[str, Any] = field(default_factory=dict)

    def with_caller_state(self, caller_state: dict[str, Any]) -> "Checkpoint":
        """The same checkpoint with the caller's JSON added."""
        return replace(self, caller_state=caller_state)

    def matches_environment(self, device: str) -> list[str]:
        """What differs between here and where the checkpoint was written; if anything, resuming is not bit-exact."""
        config = TrainingConfig.model_validate(self.state["config"])
        now = environment(device) | {"gradients": gradients_form(config, torch.device(device))}
        then = {"gradients": "autograd"} | self.state["environment"]  # where nothing was noted yet, there was no other form
        return [f"{name}: {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value]


def environment(device: str) -> dict[str, str | int]:
    """What the bits of a result depend on besides config and data."""
    is_cuda = torch.device(device).type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if is_cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "cudnn": str(torch.backends.cudnn.version()) if is_cuda else "none",  # type: ignore[no-untyped-call]  # torch has no types for it
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def with_more_cycles(checkpoint: Checkpoint, config: TrainingConfig) -> Checkpoint:
    """The checkpoint of a run that has got more cycles since; any other one as it is, also where it doesn't belong to the config."""
    before, now = TrainingConfig.model_validate(checkpoint.state["config"]).schedule, config.schedule
    if not (isinstance(before, WarmRestartsSchedule) and isinstance(now, WarmRestartsSchedule)) or before.cycles == now.cycles:
        return checkpoint
    length = now.model_dump(mode="json", include={"cycles", "epochs", "epochs_per_cycle"})
    state = checkpoint.state | {"config": checkpoint.state["config"] | {"schedule": checkpoint.state["config"]["schedule"] | length}}
    return replace(checkpoint, state=state)


def save_checkpoint(checkpoint: Checkpoint, path: Path | str) -> str:
    """Writes the checkpoint atomically; returns the file's SHA-256."""
    document = {"format": _FORMAT, "step": checkpoint.step, "state": checkpoint.state, "caller_state": checkpoint.caller_state}
    return tensor_files.save_tensors(path, checkpoint.tensors, document)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        CheckpointError: Damaged, or not a checkpoint.
    """
    try:
        tensors, document = tensor_files.load_tensors(path)
        if document["format"] != _FORMAT or not isinstance(document["state"]["environment"], dict):
            raise CheckpointError(f"format must be {_FORMAT}, got {document['format']!r}")
        return Checkpoint(int(document["step"]), tensors, document["state"], document["caller_state"])
    except (tensor_files.TensorFileError, CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{Path(path).name} is not a usable checkpoint ({error}): resume from an older one") from error
