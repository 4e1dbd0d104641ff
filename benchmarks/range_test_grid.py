"""Is the range test's suggestion as good as a grid search? Three architectures, three seeds, twelve rates, on Fashion-MNIST.

For each architecture and seed the range test suggests ``max_lr``; then one cosine annealing runs at that rate and at each rate of the
grid, all with the same budget, seed and data. Compared is the test accuracy. ``make bench-range-test`` runs it (about an hour on
two cores) and writes ``benchmarks/results/range_test_grid.json``; rows that are already there are not run again.
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

from clr.config import CosineSchedule, RangeTestConfig, TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.range_test import range_test
from clr.rate_curve import sweep_rates
from clr.training import CycleEnd, Rollback, train

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"architecture": "mlp"},
    "small_cnn": {"architecture": "small_cnn"},
    "resnet-8": {"architecture": "resnet", "params": {"depth": 8}},
}
GRID = sweep_rates(0.001, 3.0, 12, exponential=True)
RESULTS = Path(__file__).parent / "results" / "range_test_grid.json"


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="training rows")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    dataset = first_rows(load_builtin("fashion-mnist"), arguments.rows)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, model in MODELS.items():
        for seed in range(arguments.seeds):
            key = f"{name}/{arguments.rows}/{arguments.epochs:g}/{seed}"
            if key not in results:
                results[key] = compare(model, dataset, epochs=arguments.epochs, seed=seed)
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(results, indent=1))
    show(results, arguments.rows, arguments.epochs, arguments.seeds)


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


def compare(model: dict[str, Any], dataset: Dataset, *, epochs: float, seed: int) -> dict[str, Any]:
    """The suggestion, and the test accuracy at it and at every rate of the grid."""
    began = time.monotonic()
    answer = range_test(RangeTestConfig.model_validate({"model": model, "seed": 1000 * seed}), dataset)
    seconds = time.monotonic() - began
    if answer.max_lr is None:
        raise SystemExit(f"the range test refused: {answer.reason}")
    accuracy = {f"{rate:.6g}": final_accuracy(model, dataset, rate, epochs=epochs, seed=seed) for rate in (*GRID, answer.max_lr)}
    print(f"{model['architecture']} seed {seed}: suggested {answer.max_lr:.3g}, accuracies {accuracy}", flush=True)
    return {
        "suggested": answer.max_lr,
        "min_lr": answer.min_lr,
        "suggestions": answer.suggestions,
        "spread_decades": answer.spread_decades["max_lr"],
        "range_test_seconds": seconds,
        "grid": {f"{rate:.6g}": accuracy[f"{rate:.6g}"] for rate in GRID},
        "accuracy_at_suggestion": accuracy[f"{answer.max_lr:.6g}"],
    }


def final_accuracy(model: dict[str, Any], dataset: Dataset, max_lr: float, *, epochs: float, seed: int) -> float:
    """Test accuracy after one cosine annealing from ``max_lr``; 0 where it diverges, since a repeated cycle has another rate."""
    config = TrainingConfig.model_validate({"model": model, "seed": seed, "schedule": CosineSchedule(max_lr=max_lr, epochs=epochs)})
    for event in train(config, dataset):
        match event:
            case Rollback():
                return 0.0
            case CycleEnd():
                return event.snapshot.metrics["test"]["accuracy"]
    raise AssertionError("a run ends with a snapshot")


def show(results: dict[str, Any], rows: int, epochs: float, seeds: int) -> None:
    """Prints one row for each architecture; accuracies are means over the seeds."""
    table = Table(title=f"Test accuracy after {epochs:g} epochs of {rows} rows, mean of {seeds} seeds")
    for column in ("network", "suggested max_lr", "accuracy there", "best rate of the grid", "accuracy there", "difference (points)"):
        table.add_column(column, justify="right")
    for name in MODELS:
        runs = [results[f"{name}/{rows}/{epochs:g}/{seed}"] for seed in range(seeds)]
        ours = fmean(run["accuracy_at_suggestion"] for run in runs)
        by_rate = {rate: fmean(run["grid"][rate] for run in runs) for rate in runs[0]["grid"]}
        best = max(by_rate, key=by_rate.__getitem__)
        suggested = ", ".join(f"{run['suggested']:.2g}" for run in runs)
        table.add_row(name, suggested, f"{ours:.2%}", best, f"{by_rate[best]:.2%}", f"{100 * (ours - by_rate[best]):+.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
