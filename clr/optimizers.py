"""Optimizers in torch's fused form (one kernel for all weights), and their state as named tensors."""

from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor, nn

from clr.config import AdamWConfig, OptimizerConfig, SgdConfig


def build_optimizer(config: OptimizerConfig, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of all of the model's parameters, in one group."""
    parameters = model.parameters()
    match config:
        case SgdConfig(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay):
            return torch.optim.SGD(parameters, learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True)
        case AdamWConfig(beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay):
            return torch.optim.AdamW(parameters, learning_rate, (beta1, beta2), eps, weight_decay, fused=True)
    assert_never(config)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the rate of the next step; where it is a tensor, in place, since a captured step reads it there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """References to the optimizer's state as ``<index of the parameter>.<name>``; empty where it keeps none."""
    return {
        f"{index}.{name}": value
        for index, parameter in enumerate(optimizer.param_groups[0]["params"])
        for name, value in optimizer.state[parameter].items()
        if value is not None  # SGD without momentum keeps a None
    }


def complete_state(config: OptimizerConfig, optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimizer that has made no step yet the state it would begin with; a first step from these zeros gives the same weights."""
    for parameter in optimizer.param_groups[0]["params"]:
        state = optimizer.state[parameter]
        for name in _state_names(config):
            if name not in state:
                state[name] = torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)


def restore_state(config: OptimizerConfig, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimizer the state that ``state_tensors`` named.

    Raises:
        KeyError: Tensors are missing or unknown; a missing momentum would start again from nothing, in silence.
    """
    parameters = optimizer.param_groups[0]["params"]
    expected = {f"{index}.{name}" for index in range(len(parameters)) for name in _state_names(config)}
    if tensors.keys() != expected:
        raise KeyError(f"optimizer tensors {sorted(tensors.keys() ^ expected)[:3]}")
    for key, saved in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        # Like the parameter in memory format too, or the kernels would take another path and round otherwise.
        like = torch.empty_like(parameter) if saved.shape == parameter.shape else torch.empty_like(saved, device=parameter.device)
        optimizer.state[parameter][name] = like.detach().copy_(saved)


def _state_names(config: OptimizerConfig) -> tuple[str, ...]:
    """What the optimizer keeps for each parameter after its first step."""
    match config:
        case SgdConfig():
            return ("momentum_buffer",) if config.momentum else ()
        case AdamWConfig():
            return ("step", "exp_avg", "exp_avg_sq")
    assert_never(config)
