"""The paper's four figures for a real run: Fashion-MNIST, with restarts and without, through the whole service.

Starts a private stack, trains a snapshot ensemble and its control (the step-wise schedule with equally spaced snapshots, the paper's
NoCycle) with the setting and the first seed of the README's study (``study.py --name memorised``), has the landscape of both measured
after the last cycle, and draws the figures from the API alone with ``examples/paper_figures.py``. ``make figures`` writes them to
``docs/figures/``.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from clr.builtins import read_builtin
from examples.paper_figures import draw_all
from service.client import Client, Job
from service.embedded import Stack
from worker.settings import Settings

ROWS = 1000
CYCLES = 4
EPOCHS = 100
DIRECTORY = Path(__file__).parent.parent / "docs" / "figures"

Json = dict[str, Any]


def main() -> None:
    """Trains, draws, and keeps what the figures are made of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--max-lr", type=float, default=0.3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapcycle-figures-") as directory, (Path(directory) / "log").open("w+b") as log:
        settings = Settings(redis_url=None, artifacts=None, data_dir=Path(directory), scratch_dir=None, host="127.0.0.1", port=0)
        with Stack(settings, num_workers=1, log=log) as stack, Client(stack.url) as client:
            cyclic, control = train_both(client, settings, arguments)
            paths = draw_all(cyclic, arguments.out, against=control.id, svg=True)
            numbers = {job.data["name"]: summary(job) for job in (cyclic, control)}
    (arguments.out / "paper_figures.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    for path in paths:
        print(path)
    print(json.dumps(numbers, indent=1))


def train_both(client: Client, settings: Settings, arguments: argparse.Namespace) -> tuple[Job, Job]:
    """The snapshot ensemble and its control, both measured."""
    data = read_builtin("fashion-mnist", fashion_mnist_dir=settings.fashion_mnist_dir)
    rows = arguments.rows
    dataset = client.datasets.upload_arrays(data.x[:rows], data.y[:rows], x_test=data.x_test, y_test=data.y_test, name="fashion-mnist")
    model = {"architecture": "small_cnn", "params": {"width": arguments.width}}
    schedules = {
        "snapshot ensemble": {"type": "warm_restarts", "cycles": arguments.cycles, "epochs_per_cycle": arguments.epochs / arguments.cycles},
        "NoCycle": {"type": "step", "epochs": arguments.epochs, "snapshots": arguments.cycles},
    }
    jobs = []
    for name, schedule in schedules.items():
        began = time.monotonic()
        body = {"kind": "train", "dataset_id": dataset["id"], "name": name, "model": model, "landscape": True}
        body["batch_size"] = arguments.batch_size
        job = client.jobs.submit({**body, "schedule": {**schedule, "max_lr": arguments.max_lr}}).wait()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        jobs.append(job)
    return jobs[0], jobs[1]


def summary(job: Job) -> Json:
    """The numbers that the figures show, to be read and compared."""
    result = job.result()
    basins = result["landscape"]["basins"]
    return {
        "test_error": [round(1 - each["metrics"]["test"]["accuracy"], 4) for each in job.snapshots()],
        "test_error_of_the_last_m": [round(1 - each["accuracy"], 4) for each in result["ensemble_sizes"]["test"]["last"]],
        "test_nll_of_the_last_m": [round(each["nll"], 4) for each in result["ensemble_sizes"]["test"]["last"]],
        "barriers": basins["barriers"],
        "basins": basins["basins"],
        "advice": basins["advice"],
        "correlation": result["diversity"]["correlation"],
        "worst_rise": [each["sharpness"]["rises"]["worst"] for each in result["landscape"]["snapshots"]],
        "eigenvalue": [each["sharpness"]["eigenvalue"]["value"] for each in result["landscape"]["snapshots"]],
    }


if __name__ == "__main__":
    main()
