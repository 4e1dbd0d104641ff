"""Does ``cycles: "auto"`` keep its promise? Settings from under- to over-fitted on Fashion-MNIST, several seeds, one budget for all arms.

The promise: what the user gets is not worse than the single cosine run at the same budget, in test error and in negative
log-likelihood. Beside it stand the other single runs and five equal cycles, whose ensemble takes all members. ``make
bench-auto-cycles`` runs it (about an hour on one core) and writes ``benchmarks/results/auto_cycles.json``; runs that are already there
are not run again.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from clr.config import TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.estimates import Estimate, estimate, paired_difference
from clr.planning import Replanned
from clr.training import CycleEnd, StepReport, train

RESULTS = Path(__file__).parent / "results" / "auto_cycles.json"
SINGLES = ("cosine", "step", "exponential")
ARMS = (*SINGLES, "five cycles", "auto")
METRICS = ("error", "nll")


@dataclass(frozen=True)
class Setting:
    """What all arms have in common: data, network, budget and rate; ``seeds`` are 0, 1, …"""

    rows: int
    epochs: float
    seeds: int
    max_lr: float
    run: dict[str, Any]


def mlp(*hidden: int) -> dict[str, Any]:
    """Runs of an MLP; bf16 is twice as fast here."""
    return {"model": {"architecture": "mlp", "params": {"hidden": list(hidden)}}, "precision": "bf16"}


def small_cnn(width: int, **more: Any) -> dict[str, Any]:
    """Runs of a small CNN; fp32 is faster here."""
    return {"model": {"architecture": "small_cnn", "params": {"width": width}}, "precision": "fp32", **more}


SETTINGS: dict[str, Setting] = {
    "short: mlp, 60,000 rows, 3 epochs": Setting(60_000, 3, 5, 0.1, mlp(256, 256)),
    "augmented: small_cnn 8, 10,000 rows, 8 epochs": Setting(10_000, 8, 3, 0.1, small_cnn(8, augmentation="flip_crop")),
    "fitted: mlp, 10,000 rows, 8 epochs": Setting(10_000, 8, 5, 0.1, mlp(256, 256)),
    "fitted: small_cnn 8, 4,000 rows, 25 epochs": Setting(4_000, 25, 3, 0.1, small_cnn(8)),
    "over-fitted: mlp 512, 10,000 rows, 20 epochs": Setting(10_000, 20, 5, 0.1, mlp(512, 512)),
    "over-fitted: small_cnn 16, 1,000 rows, 60 epochs": Setting(1_000, 60, 3, 0.1, small_cnn(16, batch_size=32)),
    "learnt by heart: mlp, 1,000 rows, 100 epochs": Setting(1_000, 100, 5, 0.05, mlp(256, 256)),
}


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--show", action="store_true", help="run nothing, print what there is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.show:
        whole = load_builtin("fashion-mnist")
        for name, setting in SETTINGS.items():
            if arguments.only in name:
                run_setting(name, setting, first_rows(whole, setting.rows))
    show(saved())


def first_rows(dataset: Dataset, rows: int) -> Dataset:
    """The first training rows, with all test rows."""
    assert dataset.test_inputs is not None
    assert dataset.test_targets is not None
    return Dataset.from_arrays(
        dataset.inputs[:rows].numpy(),
        dataset.targets[:rows].numpy(),
        x_test=dataset.test_inputs.numpy(),
        y_test=dataset.test_targets.numpy(),
    )


def run_setting(name: str, setting: Setting, dataset: Dataset) -> None:
    """Runs every arm and seed that the results lack; each is saved at once."""
    for seed in range(setting.seeds):
        for arm in ARMS:
            key = f"{name}/{arm}/{seed}"
            if key not in saved():
                outcome = run_arm(arm, setting, dataset, seed)
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(saved() | {key: outcome}, indent=1, sort_keys=True))
                print(key, outcome, flush=True)


def saved() -> dict[str, Any]:
    """Outcomes by setting, arm and seed."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def schedule(arm: str, setting: Setting) -> dict[str, Any]:
    """The arm's schedule: one length and one rate for all."""
    common = {"epochs": setting.epochs, "max_lr": setting.max_lr}
    match arm:
        case "auto":
            return {"type": "warm_restarts", "cycles": "auto", **common}
        case "five cycles":
            return {"type": "warm_restarts", "cycles": 5, **common}
        case _:
            return {"type": arm, **common}


def run_arm(arm: str, setting: Setting, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Test error and negative log-likelihood of what the user gets: the ensemble as the run itself makes it."""
    began = time.monotonic()
    config = TrainingConfig.model_validate({**setting.run, "seed": seed, "schedule": schedule(arm, setting)})
    outcome: dict[str, Any] = {}
    for event in train(config, dataset):
        match event:
            case StepReport():
                outcome["steps"] = event.step
            case Replanned():
                outcome["cycle_ends"], outcome["reason"] = list(event.decision.cycle_ends), event.decision.reason
            case CycleEnd(ensemble=ensemble):
                outcome |= {"members": ensemble.num_members, "error": 1 - ensemble.test["accuracy"], "nll": ensemble.test["nll"]}
    return outcome | {"seconds": round(time.monotonic() - began, 1)}


def show(results: dict[str, Any]) -> None:
    """Prints a table for each measure, and below each setting what auto has kept of its promise."""
    for metric, scale, digits in (("error", 100, 2), ("nll", 1, 4)):
        unit = "test error, %" if metric == "error" else "test NLL"
        table = Table(title=f"{unit}: mean ± standard error over the seeds", title_justify="left")
        for column in ("setting", "seeds", *ARMS, "cycles of auto", "auto - cosine", "not worse than cosine", "than the best single"):
            table.add_column(column)
        for name in SETTINGS:
            if arms := complete_seeds(results, name):
                table.add_row(*row(name, arms, metric, scale, digits))
        Console(width=230).print(table)


def complete_seeds(results: dict[str, Any], name: str) -> dict[str, list[dict[str, Any]]]:
    """The outcomes of each arm for the seeds for which there are all arms."""
    seeds = [seed for seed in range(SETTINGS[name].seeds) if all(f"{name}/{arm}/{seed}" in results for arm in ARMS)]
    return {arm: [results[f"{name}/{arm}/{seed}"] for seed in seeds] for arm in ARMS} if seeds else {}


def row(name: str, arms: dict[str, list[dict[str, Any]]], metric: str, scale: float, digits: int) -> list[str]:
    """A setting's line of the table of ``metric``."""
    estimates = {arm: measured([scale * run[metric] for run in runs]) for arm, runs in arms.items()}
    cells = [f"{each.mean:.{digits}f} ± {each.standard_error or 0:.{digits}f}" for each in estimates.values()]
    cycles = ", ".join(str(len(run.get("cycle_ends", [0]))) for run in arms["auto"])
    difference = paired_difference(estimates["auto"].per_seed, estimates["cosine"].per_seed)
    assert difference is not None
    paired = f"{difference.mean:+.{digits}f} ± {difference.standard_error or 0:.{digits}f}"
    best = min((estimates[arm] for arm in SINGLES), key=lambda each: each.mean)
    verdicts = [verdict(estimates["auto"], other, digits) for other in (estimates["cosine"], best)]
    return [name, str(len(arms["auto"])), *cells, cycles, paired, *verdicts]


def measured(values: list[float]) -> Estimate:
    """The estimate of a list that is not empty."""
    answer = estimate(values)
    assert answer is not None
    return answer


def verdict(ours: Estimate, other: Estimate, digits: int) -> str:
    """Whether ours is at most one standard error of the other's mean above it."""
    excess = ours.mean - other.mean - (other.standard_error or 0)
    return "yes" if excess <= 0 else f"no, by {excess:.{digits}f}"


if __name__ == "__main__":
    main()
