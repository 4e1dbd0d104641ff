"""Is the range test's suggestion as good as a grid search? Three networks on Fashion-MNIST, compared by the accuracy on the test rows.

1. A grid search finds the best of twelve rates: one cosine annealing at each with the seeds 0, 1 and 2.
2. With the seeds 3, 4 and 5, which neither the search nor the development of the rule has seen, ``"max_lr": "auto"`` takes a rate; that
   rate and the best of the grid are then trained several times each, with the seed's split and other random numbers.

Comparing fresh trainings is fair to both: the best of twelve noisy numbers is better than it will be the next time, and single
trainings of ``resnet`` at nearly equal rates differ by more than the half point in question.

``make bench-range-test`` runs it, a network in one process and one thread, and writes ``benchmarks/results/range_test_grid.json``; what
stands there is not run again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
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
GRID_SEEDS, FRESH_SEEDS = (0, 1, 2), (3, 4, 5)
RUNS = 4
"""Fresh trainings at each rate and seed."""

ROWS, EPOCHS = 10_000, 5
RESULTS = Path(__file__).parent / "results" / "range_test_grid.json"

Json = dict[str, Any]


def main() -> None:
    """Runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    results: Json = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with ProcessPoolExecutor(
        arguments.processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for stage in (grid_stage, search_stage, fresh_stage):
            futures: dict[Future[Any], tuple[str, ...]] = {}
            for path, function, *given in stage(results):
                if look_up(results, path) is None:
                    futures[pool.submit(function, *given)] = path
            for future in as_completed(futures):
                store(results, futures[future], future.result())
                print(*futures[future], flush=True)
    show(results)


Task = tuple[Any, ...]
"""Where the result will stand, then the function and its arguments."""


def grid_stage(_: Json) -> Iterator[Task]:
    """One training for each network, seed and rate of the grid."""
    for name, seed, rate in product(reversed(MODELS), GRID_SEEDS, GRID):
        yield (name, "grid", str(seed), f"{rate:.6g}"), accuracy, name, rate, seed, seed


def search_stage(_: Json) -> Iterator[Task]:
    """One range test for each network and fresh seed."""
    for name, seed in product(reversed(MODELS), FRESH_SEEDS):
        yield (name, "search", str(seed)), search, name, seed


def fresh_stage(results: Json) -> Iterator[Task]:
    """The trainings that are compared: at the rate that was found, at the best of the grid, and at the one of the curve alone."""
    for name, seed in product(reversed(MODELS), FRESH_SEEDS):
        found = results[name]["search"][str(seed)]
        rates = {"auto": found["max_lr"], "best": best_of_grid(results[name]), "curve": found["curve_max_lr"]}
        for (what, rate), run in product(rates.items(), range(RUNS)):
            if what != "curve" or run == 0:
                yield (name, what, str(seed), str(run)), accuracy, name, rate, 1000 * seed + run, seed


@lru_cache(1)
def rows() -> Dataset:
    """The first training rows, with all test rows."""
    whole = load_builtin("fashion-mnist")
    assert whole.test_inputs is not None
    assert whole.test_targets is not None
    return Dataset.from_arrays(
        whole.inputs[:ROWS].numpy(),
        whole.targets[:ROWS].numpy(),
        x_test=whole.test_inputs.numpy(),
        y_test=whole.test_targets.numpy(),
    )


def accuracy(name: str, max_lr: float, seed: int, split_seed: int) -> float:
    """On the test rows after one cosine annealing from ``max_lr``; 0 where it diverges, since a repeated cycle has another rate."""
    schedule = CosineSchedule(max_lr=max_lr, epochs=EPOCHS)
    config = TrainingConfig.model_validate({"model": MODELS[name], "seed": seed, "split_seed": split_seed, "schedule": schedule})
    for event in train(config, rows()):
        match event:
            case Rollback():
                return 0.0
            case CycleEnd():
                return event.snapshot.metrics["test"]["accuracy"]
    raise AssertionError("a run ends with a snapshot")


def search(name: str, seed: int) -> Json:
    """What ``max_lr: "auto"`` takes, why, and what it cost."""
    schedule = CosineSchedule(max_lr="auto", epochs=EPOCHS)
    config = TrainingConfig.model_validate({"model": MODELS[name], "seed": seed, "schedule": schedule})
    began = time.process_time()
    answer = range_test(search_config(config), rows())
    if answer.max_lr is None:
        raise SystemExit(f"the range test refused: {answer.reason}")
    return {
        "max_lr": answer.max_lr,
        "curve_max_lr": answer.curve_max_lr,
        "min_lr": answer.min_lr,
        "suggestions": answer.suggestions,
        "probes": [[probe.learning_rate, probe.validation_loss] for probe in answer.probes],
        "num_steps": answer.num_steps,
        "cpu_seconds": round(time.process_time() - began, 1),
        "reason": answer.reason,
    }


def look_up(results: Json, path: tuple[str, ...]) -> Any:
    """What stands at ``path``, or None."""
    found: Any = results
    for name in path:
        found = found.get(name) if found else None
    return found


def store(results: Json, path: tuple[str, ...], value: Any) -> None:
    """Puts ``value`` at ``path`` and writes everything."""
    place = results
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def by_rate(network: Json) -> dict[float, float]:
    """The mean accuracy at each rate of the grid."""
    return {rate: fmean(of_seed[f"{rate:.6g}"] for of_seed in network["grid"].values()) for rate in GRID}


def best_of_grid(network: Json) -> float:
    """The rate with the best mean accuracy."""
    means = by_rate(network)
    return max(means, key=means.__getitem__)


def show(results: Json) -> None:
    """Prints the grid, then one row for each network: the rate that was found against the best of the grid."""
    grid = Table(title=f"Test accuracy (%) after {EPOCHS} epochs of {ROWS} rows, mean of the seeds 0, 1, 2; 0: diverged")
    grid.add_column("max_lr", justify="right")
    table = Table(title=f"Found against best of the grid: mean test accuracy (%) of {RUNS} trainings with each of the seeds 3, 4, 5")
    columns = ("network", "found max_lr", "accuracy", "best of grid", "accuracy", "difference", "by seed", "curve alone", "steps", "run sd")
    for column in columns:
        table.add_column(column, justify="right")
    for name in MODELS:
        network = results[name]
        grid.add_column(name, justify="right")
        found = [network["search"][str(seed)] for seed in FRESH_SEEDS]
        ours, best, curve = ([list(network[what][str(seed)].values()) for seed in FRESH_SEEDS] for what in ("auto", "best", "curve"))
        differences = [100 * (fmean(a) - fmean(b)) for a, b in zip(ours, best, strict=True)]
        table.add_row(
            name,
            ", ".join(f"{one['max_lr']:.2g}" for one in found),
            f"{100 * fmean(map(fmean, ours)):.2f}",
            f"{best_of_grid(network):.2g}",
            f"{100 * fmean(map(fmean, best)):.2f}",
            f"{fmean(differences):+.2f}",
            ", ".join(f"{difference:+.2f}" for difference in differences),
            f"{100 * (fmean(map(fmean, curve)) - fmean(map(fmean, best))):+.2f}",
            ", ".join(str(one["num_steps"]) for one in found),
            f"{100 * fmean(map(stdev, best)):.2f}",
        )
    for rate in GRID:
        grid.add_row(f"{rate:.4f}", *(f"{100 * by_rate(results[name])[rate]:.2f}" for name in MODELS))
    console = Console(width=150)
    console.print(grid)
    console.print(table)


if __name__ == "__main__":
    main()
