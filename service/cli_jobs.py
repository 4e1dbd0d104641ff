"""Commands about jobs: ``train``, ``jobs``, ``show``, ``follow``, ``stop``, ``cancel``."""

import json
import math
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli_data import dataset_of, refuse_options
from service.cli_output import (
    CANCELLED,
    FAILURE,
    INTERRUPTED,
    AsJson,
    Url,
    ago,
    connected,
    fail,
    local_time,
    print_json,
    print_snapshots,
    print_table,
    score,
)

if TYPE_CHECKING:
    from service.client import Job
    from service.client_core import Json

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id: job_...")]


class When(StrEnum):
    """When a stopped job ends."""

    NOW = "now"
    CYCLE_END = "cycle_end"


def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A .npz or .csv file, a dataset's id, digits or fashion-mnist.")],
    *,
    target: Annotated[str | None, typer.Option(help="The column to predict, for a .csv.")] = None,
    architecture: Annotated[str | None, typer.Option(help="mlp, small_cnn, resnet or wide_resnet.")] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the architecture: width=16.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="fixed, step, exponential, cosine, one_cycle, triangular, triangular2, exp_range or warm_restarts."),
    ] = None,
    cycles: Annotated[str | None, typer.Option(metavar="INTEGER", help="Number of cycles, so of snapshots.")] = None,
    epochs_per_cycle: Annotated[str | None, typer.Option(metavar="NUMBER", help="Length of a cycle in epochs.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="NUMBER", help="Length of the whole run in epochs.")] = None,
    max_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="Learning rate at each restart.")] = None,
    min_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="Learning rate approached at each minimum.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rows per optimizer step.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="Fixes everything that is random.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with any fields of the request; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the training until it ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Train a snapshot ensemble. What is left out gets the service's default; --dry-run shows the whole plan."""
    if dry_run:
        refuse_options("has nothing to show beside --dry-run", {"--follow": follow})
    body: Json = {"kind": "train", **({} if config is None else _read_config(config))}
    _override(body, {"batch_size": _number(batch_size), "seed": _number(seed), "name": name})
    _override(body.setdefault("model", {"architecture": "mlp"}), {"architecture": architecture, "params": _parameters(param)})
    numbers = {"max_lr": max_lr, "min_lr": min_lr, "cycles": cycles, "epochs_per_cycle": epochs_per_cycle, "epochs": epochs}
    fields = {"type": schedule, **{option: _number(text) for option, text in numbers.items()}}
    _override(body.setdefault("schedule", {"type": "warm_restarts"}), fields)
    with connected(url) as client, dataset_of(client, data, target=target, keep=not dry_run) as dataset_id:
        body["dataset_id"] = dataset_id
        if dry_run:
            plan = client.jobs.check(body)
            if as_json:
                print_json(plan)
            else:
                typer.echo("\n".join(_plan_lines(plan)))
            return
        job = client.jobs.submit(body)
        if follow:
            _follow_to_the_end(job, as_json=as_json)
        elif as_json:
            print_json(job.data)
        else:
            typer.echo(f"{job.id} is {job.status}: watch it with `snapcycle follow {job.id}`")


def jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Most jobs to list.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    with connected(url) as client:
        page = client.send(_calls().jobs(status=status, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [
        [
            job["id"],
            job["name"] or "",
            job["status"],
            f"{job['progress']['fraction']:.0%}",
            "" if job["best"] is None else score(job["best"]["metrics"]["validation"]),
            ago(job["created_at"]),
        ]
        for job in page["data"]
    ]
    print_table(rows, "job", "name", "status", ">done", ">best", ">created")


def show(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one job with its snapshots."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        if as_json:
            print_json(job.data)
        else:
            _print_job(job)


def follow(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job's training until it ends; --json prints its events, one a line. The exit status is the job's result."""
    with connected(url) as client:
        _follow_to_the_end(client.jobs.get(job_id), as_json=as_json)


def stop(
    job_id: JobId,
    when: Annotated[When, typer.Option(help="now, or at the end of the running cycle.")] = When.NOW,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """End a job early and keep its snapshots."""
    with connected(url) as client:
        _print_effect(client.jobs.get(job_id).stop(when.value), as_json=as_json)


def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a job; the snapshots that it has taken stay usable."""
    with connected(url) as client:
        _print_effect(client.jobs.get(job_id).cancel(), as_json=as_json)


def _calls() -> Any:
    from service import client_calls

    return client_calls


def _override(document: "Json", fields: "Json") -> None:
    """Lets options win; a part of the config that is no object goes as it is to the service, which says what it should be."""
    if isinstance(document, dict):
        document |= {name: value for name, value in fields.items() if value is not None}


def _number(text: str | None) -> int | float | str | None:
    """An option's number. Anything else goes as text to the service, which says why it cannot be, also of ``auto``."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text


def _parameters(pairs: list[str] | None) -> "Json | None":
    """``width=16`` as ``{"width": 16}``: values are JSON where they read as such, else text."""
    if not pairs:
        return None
    parameters = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"must be NAME=VALUE, got {pair!r}", param_hint="--param")
        try:
            parameters[name] = json.loads(value)
        except json.JSONDecodeError:
            parameters[name] = value
    return parameters


def _read_config(path: Path) -> "Json":
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read as JSON: {error}")
    if not isinstance(document, dict):
        fail(f"{path} must hold a JSON object, got {type(document).__name__}")
    return document


def _follow_to_the_end(job: "Job", *, as_json: bool) -> None:
    """Shows the job's events, then ends the command with a status that tells its result."""
    try:
        if as_json:
            for event in job.follow():
                typer.echo(json.dumps(event, ensure_ascii=False))
        else:
            from service.job_display import JobDisplay

            typer.echo(job.id)
            with JobDisplay(job.data) as display:
                for event in job.follow():
                    display.show(event)
        job = job.refresh()
    except KeyboardInterrupt:
        typer.echo(f"\n{job.id} goes on without you: `snapcycle follow {job.id}` shows it, `snapcycle stop {job.id}` ends it", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not as_json:
        _print_job(job)
    status = {"failed": FAILURE, "cancelled": CANCELLED}.get(job.status, 0)
    if status:
        raise typer.Exit(status)


def _print_effect(job: "Job", *, as_json: bool) -> None:
    if as_json:
        print_json(job.data)
        return
    requested = job.data["requested_action"]
    typer.echo(f"{job.id} is {job.status}" + (f", {requested} is on its way" if requested else ""))


def _print_job(job: "Job") -> None:
    data = job.data
    progress = data["progress"]
    lines = {
        "status": data["status"] + (f" ({data['phase']})" if data["phase"] and not data["terminal"] else ""),
        "reason": data["stop_reason"],
        "name": data["name"],
        "dataset": data["dataset_id"],
        "model": " ".join([data["config"]["model"]["architecture"], *(f"{k}={v}" for k, v in data["config"]["model"]["params"].items())]),
        "progress": f"{progress['fraction']:.0%}, step {progress['step']:,} of {progress['steps']:,}",
        "ensemble": data["ensemble_id"],
        "created": local_time(data["created_at"]),
        "finished": local_time(data["finished_at"]),
    }
    typer.echo(job.id)
    for label, value in lines.items():
        if value:
            typer.echo(f"  {label:<9} {value}")
    snapshots = job.snapshots()
    if snapshots:
        typer.echo()
        print_snapshots(snapshots)
    if data["error"]:
        typer.echo(f"\nerror: {data['error']['message']}", err=True)
        if data["error"].get("suggestion"):
            typer.echo(f"  {data['error']['suggestion']}", err=True)


def _plan_lines(plan: "Json") -> Iterator[str]:
    for name, value in plan["estimate"].items():
        yield f"{name.replace('_', ' '):<16} {f'{value:,}' if isinstance(value, int | float) else value}"
    for warning in plan["warnings"]:
        yield f"warning: {warning}"
