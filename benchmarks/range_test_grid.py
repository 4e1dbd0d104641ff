"""Is the range test's suggestion as good as a grid search? Three networks, three seeds, twelve rates, on Fashion-MNIST.

One cosine annealing runs at each rate of the grid, at the rate that the range test suggests, and at the rate that its curve alone
would suggest, all with the same budget, seed, split and data; compared is the accuracy on the test rows, which no choice sees.
``make bench-range-test`` runs it on one thread and writes ``benchmarks/results/range_test_grid.json``; what stands there is not run
again. The seeds are 0, 1 and 2; the rule was developed on other seeds and other rows (``docs/decisions/rate-ladder.md``).
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from clr.config import CosineSchedule, TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.range_test import range_test
from clr.rate_curve import sweep_rates
from clr.rate_search import search_config
from clr.training import CycleEnd, Rollback, train

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"architecture": "mlp"},
    "small_cnn": {"architecture": "small_cnn"},
    "resnet": {"architecture": "resnet", "params": {"depth": 8, "width": 8}},
}
GRID = sweep_rates(0.001, 3.0, 12, exponential=True)
RESULTS = Path(__file__).parent / "results" / "range_test_grid.json"

Json = dict[str, Any]


def main() -> None:
    """Runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="training and validation rows")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--grid-only", action="store_true", help="leave the suggestions for another call")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = first_rows(load_builtin("fashion-mnist"), arguments.rows)
    results: dict[str, Json] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = {(name, seed): f"{name}/{arguments.rows}/{arguments.epochs:g}/{seed}" for seed in range(arguments.seeds) for name in MODELS}
    for (name, seed), key in names.items():
        run = results.setdefault(key, {"grid": {}})
        for rate in GRID:
            if f"{rate:.6g}" not in run["grid"]:
                run["grid"][f"{rate:.6g}"] = final_accuracy(MODELS[name], dataset, rate, epochs=arguments.epochs, seed=seed)
                save(results)
        if "suggestion" not in run and not arguments.grid_only:
            run["suggestion"] = suggestion(MODELS[name], dataset, epochs=arguments.epochs, seed=seed)
            save(results)
            print(key, run["suggestion"], flush=True)
    if not arguments.grid_only:
        show({key: [results[names[key, seed]] for seed in range(arguments.seeds)] for key in MODELS}, arguments.rows, arguments.epochs)


def save(results: dict[str, Json]) -> None:
    """Writes all results."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


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


def suggestion(model: Json, dataset: Dataset, *, epochs: float, seed: int) -> Json:
    """What ``max_lr: "auto"`` takes, what it cost, and the test accuracy at its rate and at the one of the curve alone."""
    asked = {"model": model, "seed": seed, "schedule": CosineSchedule(max_lr="auto", epochs=epochs)}
    began = time.process_time()
    answer = range_test(search_config(TrainingConfig.model_validate(asked)), dataset)
    seconds = time.process_time() - began
    if answer.max_lr is None or answer.curve_max_lr is None:
        raise SystemExit(f"the range test refused: {answer.reason}")
    return {
        "max_lr": answer.max_lr,
        "accuracy": final_accuracy(model, dataset, answer.max_lr, epochs=epochs, seed=seed),
        "curve_max_lr": answer.curve_max_lr,
        "curve_accuracy": final_accuracy(model, dataset, answer.curve_max_lr, epochs=epochs, seed=seed),
        "min_lr": answer.min_lr,
        "suggestions": answer.suggestions,
        "probes": [[probe.learning_rate, probe.validation_loss] for probe in answer.probes],
        "steps": answer.num_steps,
        "cpu_seconds": round(seconds, 1),
        "reason": answer.reason,
    }


def final_accuracy(model: Json, dataset: Dataset, max_lr: float, *, epochs: float, seed: int) -> float:
    """Test accuracy after one cosine annealing from ``max_lr``; 0 where it diverges, since a repeated cycle has another rate."""
    config = TrainingConfig.model_validate({"model": model, "seed": seed, "schedule": CosineSchedule(max_lr=max_lr, epochs=epochs)})
    for event in train(config, dataset):
        match event:
            case Rollback():
                return 0.0
            case CycleEnd():
                return event.snapshot.metrics["test"]["accuracy"]
    raise AssertionError("a run ends with a snapshot")


def show(runs: dict[str, list[Json]], rows: int, epochs: float) -> None:
    """Prints the accuracy at every rate, then one row for each network: suggestion against the rate with the best mean accuracy."""
    console = Console(width=150)
    grid = Table(title=f"Test accuracy (%) after {epochs:g} epochs of {rows} rows, mean of the seeds; 0: diverged")
    grid.add_column("max_lr", justify="right")
    table = Table(title="Suggestion against the best rate of the grid (percentage points)")
    for column in (
        "network",
        "suggested max_lr",
        "accuracy",
        "best of grid",
        "accuracy",
        "difference",
        "by seed",
        "own best",
        "curve alone",
    ):
        table.add_column(column, justify="right")
    means = {name: {rate: fmean(run["grid"][rate] for run in of_seeds) for rate in of_seeds[0]["grid"]} for name, of_seeds in runs.items()}
    for name, of_seeds in runs.items():
        grid.add_column(name, justify="right")
        best = max(means[name], key=means[name].__getitem__)
        ours = [run["suggestion"]["accuracy"] for run in of_seeds]
        curve = fmean(run["suggestion"]["curve_accuracy"] for run in of_seeds)
        table.add_row(
            name,
            ", ".join(f"{run['suggestion']['max_lr']:.2g}" for run in of_seeds),
            f"{fmean(ours):.2%}",
            best,
            f"{means[name][best]:.2%}",
            f"{100 * (fmean(ours) - means[name][best]):+.2f}",
            ", ".join(f"{100 * (one - run['grid'][best]):+.2f}" for one, run in zip(ours, of_seeds, strict=True)),
            ", ".join(f"{100 * (one - max(run['grid'].values())):+.2f}" for one, run in zip(ours, of_seeds, strict=True)),
            f"{100 * (curve - means[name][best]):+.2f}",
        )
    for rate in next(iter(means.values())):
        grid.add_row(rate, *(f"{100 * by_rate[rate]:.2f}" for by_rate in means.values()))
    console.print(grid)
    console.print(table)


if __name__ == "__main__":
    main()
