"""Commands about jobs: ``train``, ``jobs``, ``show``, ``follow``, ``stop``, ``cancel``."""

from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli_data import dataset_of, refuse_both
from service.cli_follow import follow_to_the_end, print_job, print_plan
from service.cli_output import AsJson, Url, ago, connected, fail, print_json, print_table, score
from service.cli_requests import MaxSecondsOption, PriorityOption, number, override, parameters, rate, read_config

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
    cycles: Annotated[str | None, typer.Option(metavar="INTEGER", help="Number of cycles, so of snapshots, or auto.")] = None,
    epochs_per_cycle: Annotated[str | None, typer.Option(metavar="NUMBER", help="Length of a cycle in epochs.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="NUMBER", help="Length of the whole run in epochs.")] = None,
    minutes: Annotated[str | None, typer.Option(metavar="NUMBER", help="Length of the run in minutes, in place of epochs.")] = None,
    max_lr: Annotated[
        str | None, typer.Option(metavar="RATE", help="Learning rate at each restart: a number, auto, or a range test's id.")
    ] = None,
    min_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="Learning rate approached at each minimum.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rows per optimizer step.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="Fixes everything that is random.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with any fields of the request; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    priority: PriorityOption = None,
    max_seconds: MaxSecondsOption = None,
    landscape: Annotated[
        bool, typer.Option("--landscape", metavar="", help="Measure the minima after the last cycle, as `evaluate` does.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", metavar="", help="Show the training until it ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would run.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Train a snapshot ensemble. What is left out gets the service's default; --dry-run shows the whole plan."""
    refuse_both(dry_run=dry_run, follow=follow)
    refuse_both(minutes=minutes, epochs=epochs)
    refuse_both(minutes=minutes, epochs_per_cycle=epochs_per_cycle)
    body: Json = {"kind": "train", **({} if config is None else read_config(config))}
    override(
        body,
        {
            "batch_size": number(batch_size),
            "seed": number(seed),
            "name": name,
            "priority": priority,
            "max_seconds": number(max_seconds),
            "landscape": landscape or None,
        },
    )
    override(body.setdefault("model", {"architecture": "mlp"}), {"architecture": architecture, "params": parameters(param)})
    override(body, {"budget": None if minutes is None else {"minutes": number(minutes)}})
    numbers = {"min_lr": min_lr, "cycles": cycles, "epochs_per_cycle": epochs_per_cycle, "epochs": epochs}
    fields = {"type": schedule, "max_lr": rate(max_lr), **{option: number(text) for option, text in numbers.items()}}
    override(body.setdefault("schedule", {"type": "warm_restarts"}), fields)
    with connected(url) as client, dataset_of(client, data, target=target, keep=not dry_run) as dataset_id:
        body["dataset_id"] = dataset_id
        if dry_run:
            print_plan(client.jobs.check(body), as_json=as_json)
            return
        job = client.jobs.submit(body)
        if follow:
            follow_to_the_end(job, as_json=as_json)
        elif as_json:
            print_json(job.data)
        else:
            typer.echo(f"{job.id} is {job.status}: watch it with `snapcycle follow {job.id}`")


def jobs(
    *,
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only train, range_test, study or evaluate jobs.")] = None,
    runs: Annotated[bool, typer.Option("--runs", metavar="", help="Also the runs of studies.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Most jobs to list.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first; --json prints one page of the API, with the runs of studies."""
    with connected(url) as client:
        listing = _calls().jobs(status=status, kind=kind, limit=limit)
        if as_json:
            print_json(client.send(listing))
            return
        found = list(islice((job for job in client.pages(listing) if runs or job["parent_id"] is None), limit))
    rows = [
        [
            job["id"],
            " ".join(filter(None, (job["kind"], job["name"]))),
            job["status"] + (f" {job['progress']['fraction']:.0%}" if job["status"] in ("running", "paused") else ""),
            "" if job["best"] is None else score(job["best"]["metrics"]["validation"]),
            ago(job["created_at"]),
        ]
        for job in found
    ]
    print_table(rows, "job", "kind and name", "status", ">best", ">created")


def show(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one job: what it is set to, how it stands, its snapshots, and what it has found."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        if as_json:
            print_json(job.data)
        else:
            print_job(job)


def follow(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job's training until it ends; --json prints its events, one a line. The exit status is the job's result."""
    with connected(url) as client:
        follow_to_the_end(client.jobs.get(job_id), as_json=as_json)


def stop(
    job_id: JobId,
    when: Annotated[When, typer.Option(help="now, or at the end of the running cycle.")] = When.NOW,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """End a job early and keep its snapshots."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        refuse_if_over(job, "stop")
        _print_effect(job.stop(when.value), as_json=as_json)


def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a job; the snapshots that it has taken stay usable."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        refuse_if_over(job, "cancel")
        _print_effect(job.cancel(), as_json=as_json)


def _calls() -> Any:
    from service import client_calls

    return client_calls


def refuse_if_over(job: "Job", verb: str) -> None:
    """Ends the command where the job has ended by itself; cancelling a cancelled job is no mistake."""
    if job.data["terminal"] and not (verb == "cancel" and job.status == "cancelled"):
        ended = {"succeeded": "has already succeeded", "failed": "has failed", "cancelled": "was cancelled"}[job.status]
        fail(f"{job.id} {ended}: nothing to {verb}")


def _print_effect(job: "Job", *, as_json: bool) -> None:
    if as_json:
        print_json(job.data)
        return
    requested = job.data["requested_action"]
    typer.echo(f"{job.id} is {job.status}" + (f", {requested} is on its way" if requested else ""))
