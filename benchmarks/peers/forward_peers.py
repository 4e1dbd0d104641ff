"""The forward pass of an ensemble as a user would write it: the loop, torch's vmap, torchensemble's predict."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torchensemble import SnapshotEnsembleClassifier

from benchmarks.peers.forward_timing import timed
from benchmarks.peers.networks import build

_ready: dict[str, Any] = {}


def prepare(network: str, directory: str) -> None:
    """Reads the members that ``benchmarks.forward_own`` trained."""
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in Path(directory).glob("*.npy")}
    _ready["rows"] = torch.from_numpy(arrays.pop("rows"))
    _ready["moments"] = [float(value) for value in arrays.pop("moments")]
    members: list[nn.Module] = []
    while own := {name.partition(".")[2]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith(f"{len(members)}.")}:
        model = build(network)
        model.load_state_dict(own)
        members.append(model.eval().requires_grad_(requires_grad=False))
    _ready["members"] = members
    _ready["stacked"] = stack_module_state(members)
    _ready["skeleton"] = build(network).to("meta").eval()
    ensemble = SnapshotEnsembleClassifier(estimator=members[0], n_estimators=len(members), cuda=False)
    ensemble.estimators_ = nn.ModuleList(members)
    _ready["ensemble"] = ensemble.eval()


def probs(arm: str, batch: int) -> list[list[float]]:
    """The mean probabilities of the first rows."""
    return _call(arm, batch)().tolist()  # type: ignore[no-any-return]


def run(arm: str, batch: int, seconds: float) -> dict[str, Any]:
    """How long a call takes, from rows of bytes to mean probabilities."""
    return timed(_call(arm, batch), seconds)


def _call(arm: str, batch: int) -> Any:
    rows: Tensor = _ready["rows"][:batch]
    mean, std = _ready["moments"]
    members: list[nn.Module] = _ready["members"]

    def standardised() -> Tensor:
        return rows.unsqueeze(1).float().sub_(mean).div_(std)

    @torch.inference_mode()
    def loop() -> Tensor:
        inputs = standardised()
        return torch.stack([member(inputs).softmax(1) for member in members]).mean(0)

    parameters, buffers = _ready["stacked"]

    def one(own_parameters: Any, own_buffers: Any, inputs: Tensor) -> Tensor:
        return functional_call(_ready["skeleton"], (own_parameters, own_buffers), (inputs,))  # type: ignore[no-any-return]

    every = torch.vmap(one, in_dims=(0, 0, None))

    @torch.inference_mode()
    def vmap() -> Tensor:
        return every(parameters, buffers, standardised()).softmax(2).mean(0)

    match arm:
        case "loop":
            return loop
        case "vmap":
            return vmap
        case "torchensemble":
            return lambda: _ready["ensemble"].predict(standardised())
        case _:
            raise ValueError(f"there is no arm {arm!r}")
