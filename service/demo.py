"""``snapcycle demo``: the whole promise on real data, against a private service that is gone afterwards."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from clr.builtins import BuiltinArrays, read_builtin
from clr.errors import DatasetError
from service.children import LaunchError
from service.cli_output import table
from service.client import Client, ClientError, Job
from service.client_core import Json
from service.client_requests import TrainOptions
from service.embedded import Stack
from worker.settings import Settings

OPTIONS: dict[str, TrainOptions] = {
    "digits": {"architecture": "small_cnn", "params": {"width": 8}, "cycles": 5, "epochs_per_cycle": 6, "max_lr": 0.2, "batch_size": 32},
    "fashion-mnist": {"architecture": "small_cnn", "params": {"width": 16}, "cycles": 5, "epochs_per_cycle": 1},
}
"""Runs of seconds (digits) and of minutes (Fashion-MNIST) on two cores; those for the digits were chosen because averaging shows."""


@dataclass(frozen=True)
class DemoData:
    """Arrays with test rows of their own."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]


def run_demo(name: str) -> int:
    """Runs the demonstration in the terminal; returns the exit status."""
    console = Console(highlight=False)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="snapcycle-demo-") as directory, (Path(directory) / "log").open("w+b") as log:
        try:
            settings = Settings(redis_url=None, artifacts=None, data_dir=Path(directory), scratch_dir=None, host="127.0.0.1", port=0)
            data = hold_out(read_builtin(name, fashion_mnist_dir=settings.fashion_mnist_dir))
            console.print("Starting a private service: embedded server, one worker, HTTP API")
            with Stack(settings, num_workers=1, log=log) as stack, Client(stack.url) as client:
                _show(console, client, data, name)
        except (ClientError, DatasetError, LaunchError) as error:
            log.seek(0)
            console.print(log.read().decode(errors="replace"), markup=False)
            console.print(f"error: {error}", markup=False)
            return 1
    console.print(f"\nDone in {time.monotonic() - began:.0f} s; the private service is gone.")
    return 0


def hold_out(arrays: BuiltinArrays) -> DemoData:
    """The data with test rows: their own, or every other row where they have none, since a score over few rows says little."""
    if arrays.x_test is not None and arrays.y_test is not None:
        return DemoData(arrays.x, arrays.y, arrays.x_test, arrays.y_test, arrays.class_names)
    is_test = np.arange(len(arrays.x)) % 2 == 1
    return DemoData(arrays.x[~is_test], arrays.y[~is_test], arrays.x[is_test], arrays.y[is_test], arrays.class_names)


def _show(console: Console, client: Client, data: DemoData, name: str) -> None:
    console.print(f"  it answers at {client.url}")
    dataset = client.datasets.upload_arrays(data.x, data.y, x_test=data.x_test, y_test=data.y_test, name=name)
    shape = "x".join(map(str, data.x.shape[1:]))
    console.print(f"Uploaded {name}: {len(data.x):,} images of {shape}, {len(data.x_test):,} more for the test")
    options: TrainOptions = {**OPTIONS[name], "name": f"demo on {name}"}
    console.print(f"Training {options['architecture']} once, for {options['cycles']} cycles; each minimum becomes a member\n")
    job = client.jobs.train(dataset, **options).wait(progress=True)
    console.print("\nOne training run, scored on the rows that no training saw:\n")
    console.print(members_table(job))
    console.print("\nThree of them, predicted over HTTP; the least certain last:\n")
    console.print(_predictions_table(job, data))


def members_table(job: Job) -> Table:
    """Each snapshot's accuracy, and the ensemble's."""
    snapshots = job.snapshots()
    rows = [[f"snapshot {s['cycle'] + 1}", f"{s['learning_rate']:.1e}", *_accuracies(s["metrics"])] for s in snapshots]
    rows.append([f"ensemble of {len(snapshots)}", "", *_accuracies(snapshots[-1]["ensemble"])])
    return table(rows, "member", ">taken at rate", ">validation", ">test", ">test NLL")


def _accuracies(metrics: Json) -> list[str]:
    return [f"{metrics['validation']['accuracy']:.2%}", f"{metrics['test']['accuracy']:.2%}", f"{metrics['test']['nll']:.4f}"]


def _predictions_table(job: Job, data: DemoData) -> Table:
    """Three test rows, from certain to uncertain."""
    answers = job.ensemble.explain(data.x_test)["predictions"]
    by_certainty = sorted(range(len(answers)), key=lambda row: float(answers[row]["uncertainty"]["entropy"]))
    chosen = (by_certainty[0], by_certainty[len(answers) * 9 // 10], by_certainty[-1])
    rows = [_prediction_row(answers[row], row, data) for row in chosen]
    return table(rows, ">row", "truth", "prediction", ">probability", ">entropy", ">disagreement", ">members agree")


def _prediction_row(answer: Json, row: int, data: DemoData) -> list[str]:
    uncertainty = answer["uncertainty"]
    return [
        str(row),
        data.class_names[data.y_test[row]],
        data.class_names[int(answer["label"])],
        f"{answer['probability']:.1%}",
        f"{uncertainty['entropy']:.3f}",
        f"{uncertainty['mutual_information']:.3f}",
        f"{uncertainty['agreement']:.0%}",
    ]
