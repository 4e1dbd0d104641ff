"""A study through the whole system: embedded server, workers, HTTP. Prints its table as Markdown and keeps the whole result.

``make study`` runs it with the arguments in ``ARGS``, for example ``make study ARGS="--rows 10000 --architecture mlp --epochs 20"``,
and writes ``benchmarks/results/study_<name>.json``. What a reader needs to repeat it stands in that file: the request, the data,
the machine and the time it took. ``--show`` prints the table of a file that is there. With ``--data-dir`` the service's data stay,
so that a study that was interrupted goes on where it was.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from clr.builtins import read_builtin
from service.client import Client, Job
from service.client_core import Json
from service.embedded import Stack
from service.job_display import JobDisplay
from service.study_table import study_markdown, study_remarks
from worker.settings import Settings

RESULTS = Path(__file__).parent / "results"
THREADS_NAME = "OMP_NUM_THREADS"
MAX_POINTS = 200
CONTROLS = ("cosine", "no_cycle", "no_cycle_cosine")


def main() -> int:
    """Runs the study, or shows one; the exit status says whether it has a table."""
    arguments = parse()
    path = RESULTS / f"study_{arguments.name}.json"
    if not arguments.show:
        document = run(arguments)
        if document["result"]["status"] != "succeeded":
            print(json.dumps(document["result"]["error"], indent=2), file=sys.stderr)
            return 1
        RESULTS.mkdir(exist_ok=True)
        thin_out(document["result"])
        path.write_text(json.dumps(document) + "\n")
    print(describe(json.loads(path.read_text())))
    return 0


def parse() -> argparse.Namespace:
    """The arguments; what is left out gets the service's default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="fashion-mnist", help="part of the result's file name")
    parser.add_argument("--dataset", default="fashion-mnist", choices=["fashion-mnist", "digits"])
    parser.add_argument("--rows", type=int, help="only the first rows for training and validation; the test rows stay")
    parser.add_argument("--architecture", default="mlp")
    parser.add_argument("--params", type=json.loads, default={}, help='JSON: {"hidden": [512, 512]}')
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2], help="0,1,2")
    parser.add_argument("--arms", type=lambda text: text.split(","), help="cosine,snapshot_ensemble; default all")
    parser.add_argument("--max-lr", type=lambda text: text if text == "auto" else float(text))
    parser.add_argument("--restart-lr", type=float)
    parser.add_argument("--min-lr", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--augmentation", choices=["none", "crop", "flip_crop"])
    parser.add_argument("--precision", choices=["fp32", "bf16"])
    parser.add_argument("--validation-fraction", type=float)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--data-dir", type=Path, help="keep the service's data here, and go on with what is there")
    parser.add_argument("--show", action="store_true", help="run nothing, print what there is")
    return parser.parse_args()


def study_request(arguments: argparse.Namespace) -> Json:
    """The body of ``POST /v1/jobs`` but for the dataset."""
    names = ("arms", "max_lr", "restart_lr", "min_lr", "batch_size", "augmentation", "precision", "validation_fraction")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.weight_decay is not None:
        options["optimizer"] = {"type": "sgd", "weight_decay": arguments.weight_decay}
    model = {"architecture": arguments.architecture, "params": arguments.params}
    lengths = {"epochs": arguments.epochs, "cycles": arguments.cycles, "seeds": arguments.seeds}
    return {"kind": "study", "name": arguments.name, "model": model, **lengths, **options}


def run(arguments: argparse.Namespace) -> Json:
    """Runs the study on a private service and returns all that is kept of it."""
    os.environ[THREADS_NAME] = str(arguments.threads)  # the trainers take it over
    request = study_request(arguments)
    with data_directory(arguments.data_dir) as directory, (directory / "log").open("ab") as log:
        settings = Settings(redis_url=None, artifacts=None, data_dir=directory, host="127.0.0.1", port=0)
        with Stack(settings, num_workers=arguments.workers, log=log) as stack, Client(stack.url) as client:
            job = follow(begun(client, arguments, request))
            result = job.result()
            dataset = client.datasets.get(job.data["dataset_id"])
    runs_began = datetime.fromisoformat(job.data["created_at"])
    return {
        "request": request,
        "config": job.data["config"],
        "data": {"name": arguments.dataset, "rows": dataset["rows"], "test_rows": dataset["test_rows"], "sha256": dataset["sha256"]},
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "workers": arguments.workers,
        "threads": arguments.threads,
        "seconds": round((datetime.fromisoformat(job.data["finished_at"]) - runs_began).total_seconds(), 1),
        "result": result,
    }


@contextmanager
def data_directory(kept: Path | None) -> Iterator[Path]:
    """A directory for the service's data: the one that is kept, or one that is gone afterwards."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="snapcycle-study-") as directory:
        yield Path(directory)


def begun(client: Client, arguments: argparse.Namespace, request: Json) -> Job:
    """The study of this request: the one that was begun before, or a new one."""
    text = json.dumps([arguments.dataset, arguments.rows, request], sort_keys=True)
    mark = {"request": hashlib.sha256(text.encode()).hexdigest()}
    for known in client.jobs.list():
        if known["kind"] == "study" and known["metadata"] == mark and known["status"] not in ("failed", "cancelled"):
            return client.jobs.get(known["id"])
    dataset = upload(client, arguments.dataset, arguments.rows)
    return client.jobs.submit({**request, "dataset_id": dataset["id"], "metadata": mark})


def upload(client: Client, name: str, rows: int | None) -> Json:
    """The dataset with its own test rows, and with no more than ``rows`` others."""
    arrays = read_builtin(name)
    return client.datasets.upload_arrays(arrays.x[:rows], arrays.y[:rows], x_test=arrays.x_test, y_test=arrays.y_test, name=name)


def follow(job: Job) -> Job:
    """Shows the progress until the study ends."""
    with JobDisplay(job.data) as display:
        for event in job.follow():
            display.show(event)
    return job.refresh()


def thin_out(result: Json) -> None:
    """Keeps so many points of each arm's loss, the last one among them, that the file stays small."""
    for arm in result["arms"]:
        rows = arm["loss"]["rows"]
        arm["loss"]["rows"] = rows[:: -max(1, len(rows) // MAX_POINTS)][::-1]


def describe(document: Json) -> str:
    """The table with its setting, as it goes into a page."""
    config, data, result = document["config"], document["data"], document["result"]
    restart = "" if config["restart_lr"] is None else f", restart_lr {config['restart_lr']:g}"
    setting = [
        f"{data['name']}, {data['rows']:,} rows for training and validation, {data['test_rows']:,} test rows",
        f"{config['model']['architecture']} {json.dumps(config['model']['params'])}",
        f"{config['epochs']:g} epochs, {config['cycles']} cycles, max_lr {config['max_lr']}{restart}",
        f"weight decay {config['optimizer']['weight_decay']:g}, batch size {config['batch_size']}",
        f"augmentation {config['augmentation']}, precision {config['precision']}",
    ]
    took = f"{result['num_runs']} runs in {document['seconds'] / 60:.1f} minutes ({document['machine']}; {document['workers']} at a time)"
    remarks = [*comparisons(result), *study_remarks(result), took]
    return "\n".join([", ".join(setting), "", study_markdown(result), "", *(f"- {remark}" for remark in remarks)])


def comparisons(result: Json) -> list[str]:
    """What the snapshots take off the error of the controls, and whether the intervals are apart."""
    errors = {arm["arm"]: arm["metrics"]["error"] for arm in result["arms"] if arm["metrics"]["error"]}
    ours = errors.get("snapshot_ensemble")
    return [] if ours is None else [compared(ours, errors[name], name) for name in CONTROLS if name in errors]


def compared(ours: Json, theirs: Json, name: str) -> str:
    """One comparison in words."""
    cut = 100 * (theirs["mean"] - ours["mean"]) / theirs["mean"]
    words = f"snapshot ensemble against {name.replace('_', ' ')}: {abs(cut):.1f} % {'less' if cut >= 0 else 'more'} error"
    if ours["high"] is None or theirs["high"] is None:
        return words
    are_apart = ours["high"] < theirs["low"] or theirs["high"] < ours["low"]
    return f"{words}, intervals {'do not overlap' if are_apart else 'overlap'}"


if __name__ == "__main__":
    sys.exit(main())
