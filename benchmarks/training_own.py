"""Our own arm of the training tiers: ``clr.training.train``, in the process that asks for it."""

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training_tiers_data import QUICK, TIERS, Tier, dataset_of
from clr.datasets import Dataset
from clr.training import CycleEnd, StepReport, run_plan, train

_datasets: dict[str, Dataset] = {}


def read(tier: str, directory: str, *, quick: bool) -> None:
    """Reads the tier's rows for the next runs, and what the other arms were given."""
    chosen = _tier(tier, quick=quick)
    _datasets.clear()
    _datasets[tier] = dataset_of(chosen)
    _given["rates"] = np.load(Path(directory) / "rates.npy", allow_pickle=False)


_given: dict[str, np.ndarray[Any, Any]] = {}


def run(tier: str, seed: int, *, quick: bool, precision: str = "auto") -> dict[str, Any]:
    """Trains. The clock covers splitting, standardising and every evaluation; that of the epochs stands still in evaluations, which
    the peers are spared.
    """
    config, dataset = _tier(tier, quick=quick).config(seed, precision=precision), _datasets[tier]
    steps_per_epoch = run_plan(config, dataset).steps_per_epoch
    epoch_ends: list[float] = []
    snapshot_seconds: list[float] = []
    accuracies: list[float] = []
    nlls: list[float] = []
    rates: list[float] = []
    taken, evaluating = "", 0.0
    began = last_step = time.perf_counter()
    for event in train(config, dataset):
        match event:
            case StepReport():
                rates.append(event.learning_rate)
                if event.step % steps_per_epoch == 0:
                    last_step = time.perf_counter()
                    epoch_ends.append(last_step - began - evaluating)
            case CycleEnd():
                evaluating += time.perf_counter() - last_step
                snapshot_seconds.append(time.perf_counter() - began)
                accuracies.append(event.ensemble.test["accuracy"])
                nlls.append(event.ensemble.test["nll"])
                taken = event.snapshot.config.precision
    seconds = time.perf_counter() - began
    worst = float(np.abs(np.array(rates) - _given["rates"]).max())
    if worst > 1e-9:
        raise ValueError(f"the learning rates must be those that the peers were given, got a difference of {worst:.3g}")
    return {
        "seconds": seconds,
        "evaluating_seconds": evaluating,
        "epoch_ends": epoch_ends,
        "snapshot_seconds": snapshot_seconds,
        "accuracies": accuracies,
        "nlls": nlls,
        "precision": taken,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def first_loss(tier: str, seed: int, *, quick: bool) -> float:
    """The loss of the first mini-batch in float32: that of the weights and rows that the peers were given."""
    for event in train(_tier(tier, quick=quick).config(seed, precision="fp32"), _datasets[tier]):
        if isinstance(event, StepReport):
            return event.loss.item()
    raise AssertionError("a run has steps")


def _tier(name: str, *, quick: bool) -> Tier:
    return (QUICK if quick else TIERS)[name]
