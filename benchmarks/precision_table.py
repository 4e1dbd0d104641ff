"""Where bf16 trains faster than float32 on this processor, by architecture, shape and batch: what the rule of ``clr.precision`` stands on.

Each line is a full training step of our own run: the fastest of several groups of steps, both precisions in turn, so that what else the
machine does favours neither. The last column is what the rule takes.

``make precision-table`` runs it, in about four minutes; it fails where the rule takes bf16 although it is slower by more than a twentieth.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compare import RESULTS, machine
from clr.config import TrainingConfig, WarmRestartsSchedule
from clr.datasets import Dataset
from clr.models import multiply_adds
from clr.plans import run_plan
from clr.precision import auto_precision, cpu_has_bf16
from clr.runs import Run

Json = dict[str, Any]

GROUPS = 15
GROUP_SECONDS = 0.02
MAX_GROUP_STEPS = 200
WARM_UP_STEPS = 4
TOLERANCE = 0.95
"""The least gain at which the rule still counts as right: timings of a shared machine differ by as much."""


@dataclass(frozen=True)
class Case:
    """A network at a shape and batch size.

    Attributes:
        side: Of the grey images.
    """

    architecture: str
    params: tuple[tuple[str, Any], ...]
    side: int
    batch: int

    @property
    def model(self) -> Json:
        """As a config names it."""
        return {"architecture": self.architecture, "params": dict(self.params)}


CASES: tuple[Case, ...] = (
    *(
        Case("mlp", (("hidden", (units, units)),), side, batch)
        for units, side, batch in product((32, 64, 128, 256, 512, 1024), (8, 28), (32, 128, 512))
    ),
    *(Case("small_cnn", (("width", width),), side, batch) for width, side, batch in product((4, 8, 16, 32), (8, 28), (32, 128))),
    *(Case("resnet", (("depth", 8), ("width", width)), side, batch) for width, side, batch in product((4, 8, 16), (8, 28), (32, 128))),
    Case("resnet", (("depth", 20), ("width", 16)), 28, 128),
    Case("wide_resnet", (("depth", 10), ("widen", 1)), 28, 128),
    Case("wide_resnet", (("depth", 16), ("widen", 2)), 28, 32),
)


def main() -> None:
    """Measures every case, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    architectures = sorted({case.architecture for case in CASES})
    parser.add_argument("--architectures", nargs="+", choices=architectures, default=architectures)
    parser.add_argument("--json", type=Path, default=RESULTS / "precision_table.json")
    arguments = parser.parse_args()
    if not cpu_has_bf16():
        raise SystemExit("this processor has no bf16 units, so auto is fp32 here: measure on one that has avx512_bf16 or amx_bf16")
    print(f"{'network':<32} {'batch':>5} {'M products':>10} {'fp32 us':>9} {'bf16 us':>9} {'gain':>5}  rule")
    rows = []
    for case in CASES:
        if case.architecture in arguments.architectures:
            rows.append(row := measure(case))
            name = f"{case.architecture} {' '.join(str(value) for _, value in case.params)} {case.side}x{case.side}"
            seconds = f"{1e6 * row['fp32_seconds']:>9.0f} {1e6 * row['bf16_seconds']:>9.0f}"
            print(f"{name:<32} {case.batch:>5} {row['products'] / 1e6:>10.1f} {seconds} {row['gain']:>5.2f}  {row['rule']}", flush=True)
    arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    wrong = [row for row in rows if row["rule"] == "bf16" and row["gain"] < TOLERANCE]
    missed = [row for row in rows if row["rule"] == "fp32" and row["gain"] > 1 / TOLERANCE]
    print(f"{len(rows)} cases: bf16 taken though slower {len(wrong)}, left though faster {len(missed)}")
    if wrong:
        raise SystemExit(1)


def measure(case: Case) -> Json:
    """The seconds of a step in either precision, and what the rule takes."""
    draws = np.random.default_rng(0)
    num_rows = 8 * case.batch
    images = draws.integers(0, 256, (num_rows, case.side, case.side), np.uint8)
    dataset = Dataset.from_arrays(images, np.arange(num_rows) % 10)
    schedule = WarmRestartsSchedule(max_lr=0.01, cycles=1, epochs_per_cycle=1000.0)
    config = TrainingConfig.model_validate({"model": case.model, "batch_size": case.batch, "schedule": schedule})
    steps = {precision: _steps(config.model_copy(update={"precision": precision}), dataset) for precision in ("fp32", "bf16")}
    for step in steps.values():
        step(WARM_UP_STEPS)
    group = min(MAX_GROUP_STEPS, max(1, round(GROUP_SECONDS / steps["fp32"](1))))
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for turn in range(GROUPS):
        for precision in ("fp32", "bf16") if turn % 2 else ("bf16", "fp32"):
            seconds[precision].append(steps[precision](group) / group)
    return asdict(case) | {
        "products": case.batch * multiply_adds(config.model, dataset.input_shape, dataset.num_outputs),
        "fp32_seconds": min(seconds["fp32"]),
        "bf16_seconds": min(seconds["bf16"]),
        "gain": min(seconds["fp32"]) / min(seconds["bf16"]),
        "rule": auto_precision(config, dataset, "cpu"),
    }


def _steps(config: TrainingConfig, dataset: Dataset) -> Callable[[int], float]:
    """What takes so many full steps of a run and returns the seconds."""
    plan = run_plan(config, dataset)
    run = Run(config, dataset, plan.schedule, plan.steps_per_epoch, torch.device("cpu"))
    rows = run.batches(0)[0]

    def take(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            run.update(rows, 0.01)
        return time.perf_counter() - began

    return take


if __name__ == "__main__":
    main()
