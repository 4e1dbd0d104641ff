"""Our own arm of the ensemble's forward pass, and the five trained members that all arms are given."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.forward_timing import timed
from benchmarks.training_tiers_data import TIERS, Tier, dataset_of
from clr.ensemble import Ensemble
from clr.training import CycleEnd, train

MEMBERS = 5
SHORT = {name: Tier(name, tier.network, tier.model, 1_000, MEMBERS, 1, 1_000) for name, tier in TIERS.items()}
"""Training makes members that differ; how well they do is of no matter here."""

_ready: dict[str, Any] = {}


def prepare(tier: str, directory: str) -> None:
    """Trains the members, and writes their weights for the other arms."""
    dataset = dataset_of(SHORT[tier])
    snapshots = [event.snapshot for event in train(SHORT[tier].config(0, precision="fp32"), dataset) if isinstance(event, CycleEnd)]
    assert len(snapshots) == MEMBERS
    assert dataset.test_inputs is not None
    preprocessing = snapshots[0].preprocessing
    arrays = {"rows": dataset.test_inputs.numpy(), "moments": np.array([preprocessing.mean.item(), preprocessing.std.item()], np.float32)}
    for number, snapshot in enumerate(snapshots):
        arrays |= {f"{number}.{name}": tensor.numpy() for name, tensor in snapshot.tensors.items()}
    for name, array in arrays.items():
        np.save(Path(directory) / f"{name}.npy", array, allow_pickle=False)
    _ready.update(ensemble=Ensemble(snapshots), rows=dataset.test_inputs)


def probs(arm: str, batch: int) -> list[list[float]]:
    """The mean probabilities of the first rows."""
    return _call(arm, batch)().tolist()  # type: ignore[no-any-return]


def run(arm: str, batch: int, seconds: float) -> dict[str, Any]:
    """How long a call takes, from rows of bytes to mean probabilities."""
    return timed(_call(arm, batch), seconds)


def _call(arm: str, batch: int) -> Any:
    rows, ensemble = _ready["rows"][:batch], _ready["ensemble"]
    match arm:
        case "snapcycle":
            return lambda: ensemble.predict(rows)
        case "snapcycle, with uncertainty":
            return lambda: ensemble.predict_with_uncertainty(rows).probs_BC
        case _:
            raise ValueError(f"there is no arm {arm!r}")
