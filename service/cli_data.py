"""Commands about data and predictions: ``datasets``, ``snapshots``, ``predict``."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from service.cli_output import AsJson, Url, ago, connected, fail, print_json, print_snapshots, print_table

if TYPE_CHECKING:
    from service.client import Client, Job
    from service.client_calls import Inputs
    from service.client_core import Json
    from service.client_parts import Ensemble

MAX_SHOWN = 20
"""Rows of a prediction that are printed for people."""

datasets = typer.Typer(help="List, upload and delete datasets.", no_args_is_help=True)


@datasets.command("list")
def list_datasets(url: Url = None, as_json: AsJson = False) -> None:
    """List datasets, the newest first."""
    with connected(url) as client:
        found = list(client.datasets.list())
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one["id"],
            one["name"] or one["source"].get("name", ""),
            one["task"],
            f"{one['rows']:,}",
            f"{one['test_rows']:,}",
            ago(one["created_at"]),
        ]
        for one in found
    ]
    print_table(rows, "dataset", "name", "task", ">rows", ">test rows", ">created")


@datasets.command("upload")
def upload_dataset(
    file: Annotated[str, typer.Argument(metavar="DATA", help="A .npz (arrays x, y) or .csv file, digits or fashion-mnist.")],
    *,
    target: Annotated[str | None, typer.Option(help="The column to predict, for a .csv.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression; default from the data.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Upload a dataset, or make one of the built-in data."""
    if not is_file(file):
        refuse_options(f"is for files, and {file} is none", {"--target": target, "--task": task})
    with connected(url) as client:
        if is_file(file):
            _require_target(Path(file), target)
            dataset = client.datasets.upload(file, target=target, task=task, name=name)
        else:
            dataset = client.datasets.builtin(file, name=name)
    if as_json:
        print_json(dataset)
    else:
        typer.echo(f"{dataset['id']}: {dataset['task']}, {dataset['rows']:,} rows, {dataset['test_rows']:,} test rows")


@datasets.command("delete")
def delete_dataset(dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's id: ds_...")], url: Url = None) -> None:
    """Delete a dataset that no job uses. Prints nothing."""
    with connected(url) as client:
        client.datasets.delete(dataset_id)


def snapshots(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id: job_...")],
    download: Annotated[Path | None, typer.Option(metavar="DIR", help="Save the weights (safetensors) into this directory.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List a job's snapshots, or download their weights."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        if job.data["kind"] != "train":
            remedy = "take one of its runs: snapcycle jobs --runs" if job.data["kind"] == "study" else "snapcycle show has its answer"
            fail(f"{job.id} is of kind {job.data['kind']} and has no snapshots of its own: {remedy}")
        taken = job.snapshots()
        if download is not None:
            download.mkdir(parents=True, exist_ok=True)
            for snapshot in taken:
                client.snapshots.download(snapshot["id"], download / f"{snapshot['id']}.safetensors")
    if as_json:
        print_json(taken)
    else:
        print_snapshots(taken)


def _ensemble_of(job: "Job") -> "Ensemble[Client]":
    """The job's ensemble; ends the command where it has none."""
    if job.data["kind"] != "train":
        fail(f"{job.id} is of kind {job.data['kind']} and has no ensemble: take a train job, snapcycle jobs --kind train lists them")
    return job.ensemble


def predict(
    source: Annotated[str, typer.Argument(metavar="JOB|ENSEMBLE", help="A job's id (job_...) or an ensemble's (ens_...).")],
    file: Annotated[Path, typer.Argument(help="What to predict: .npy, .npz (array x), .csv, or .json (as the API takes it).")],
    *,
    output: Annotated[Path | None, typer.Option(help="Save the probabilities (or means) as .npy instead of printing them.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The ensemble as it was with this many members.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Predict with an ensemble, also while it is still being trained."""
    refuse_both(output=output, json=as_json)
    inputs = read_inputs(file)
    with connected(url) as client:
        ensemble = _ensemble_of(client.jobs.get(source)) if source.startswith("job_") else client.ensembles.get(source)
        if output is not None:
            import numpy as np

            np.save(output, ensemble.predict(inputs, version=version), allow_pickle=False)
            return
        answer = ensemble.explain(inputs, version=version)
    if as_json:
        print_json(answer)
    else:
        print_predictions(answer)


@contextmanager
def dataset_of(client: "Client", data: str, *, target: str | None, keep: bool) -> Iterator[str]:
    """The id of the dataset that an argument means: its id itself, a file to upload, or a built-in name.

    Args:
        keep: Whether a dataset that has to be made for this stays.
    """
    if is_file(data):
        _require_target(Path(data), target)
    else:
        refuse_options(f"is for .csv files, and {data} is none", {"--target": target})
        if existing := _existing_dataset(client, data):
            yield existing
            return
    made = client.datasets.upload(data, target=target) if is_file(data) else client.datasets.builtin(data)
    try:
        yield made["id"]
    finally:
        if not keep:
            client.datasets.delete(made["id"])


def _existing_dataset(client: "Client", data: str) -> str | None:
    """The dataset of that id, or the newest one of that built-in name."""
    if data.startswith("ds_"):
        return data
    source = {"type": "builtin", "name": data}
    return next((dataset["id"] for dataset in client.datasets.list() if dataset["source"] == source), None)


def _require_target(file: Path, target: str | None) -> None:
    """Ends the command where a table is given without the column to predict."""
    if target is not None or file.suffix != ".csv":
        return
    with file.open(encoding="utf-8", errors="replace", newline="") as text:
        columns = next(csv.reader(text), [])
    fail(f"--target is missing: which column is to be predicted? {file.name} has {', '.join(columns) or 'no column'}")


def refuse_options(reason: str, options: dict[str, object]) -> None:
    """Ends the command where one of the options was given, since it would have no effect."""
    for name, value in options.items():
        if value not in (None, False):
            raise typer.BadParameter(f"{reason}: leave it out", param_hint=name)


def refuse_both(**options: object) -> None:
    """Ends the command, as wrong usage, where two options were given of which only one can have an effect; both are named."""
    given = ["--" + name.replace("_", "-") for name, value in options.items() if value not in (None, False)]
    if len(given) > 1:
        raise typer.BadParameter("exclude each other: leave one of them out", param_hint=" and ".join(given))


def is_file(text: str) -> bool:
    """Whether an argument means a file rather than an id or a name."""
    return Path(text).suffix != "" or Path(text).exists()


def read_inputs(path: Path) -> "Inputs":
    """What a file holds for a prediction; ends the command where it cannot be read."""
    import json

    import numpy as np

    try:
        match path.suffix:
            case ".npy":
                inputs = np.load(path, allow_pickle=False)
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    inputs = arrays["x"]
            case ".csv":
                import polars

                inputs = polars.read_csv(path, infer_schema_length=None).to_dicts()
            case ".json":
                document = json.loads(path.read_text(encoding="utf-8"))
                inputs = document["instances"] if "instances" in document else np.array(document["inputs"])
            case other:
                fail(f"{path} must end in .npy, .npz, .csv or .json, got {other or 'no suffix'}")
    except (OSError, ValueError, KeyError) as error:
        fail(f"{path} cannot be read: {error}")
    return cast("Inputs", inputs)


def print_predictions(answer: "Json") -> None:
    """The first rows of a prediction, with how sure the ensemble is."""
    typer.echo(f"{answer['ensemble_id']} version {answer['ensemble_version']}, {answer['members_used']} members")
    rows = answer["predictions"]
    if "label" in rows[0]:
        cells = [
            [
                str(number),
                row["label"],
                f"{row['probability']:.2%}",
                f"{row['uncertainty']['entropy']:.3f}",
                f"{row['uncertainty']['mutual_information']:.3f}",
                f"{row['uncertainty']['agreement']:.0%}",
            ]
            for number, row in enumerate(rows[:MAX_SHOWN])
        ]
        print_table(cells, ">row", "label", ">probability", ">entropy", ">mutual information", ">agreement")
    else:
        print_table(
            [[str(n), f"{row['value']:.6g}", f"{row['std']:.3g}"] for n, row in enumerate(rows[:MAX_SHOWN])], ">row", ">value", ">std"
        )
    if len(rows) > MAX_SHOWN:
        typer.echo(f"... {len(rows) - MAX_SHOWN:,} more rows: --json or --output shows them all")
