"""What the commands show of a job: its events while it runs, and the job itself."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from service.cli_landscape import print_landscape
from service.cli_output import CANCELLED, FAILURE, INTERRUPTED, local_time, print_json, print_snapshots
from service.cli_range import print_range
from service.cli_refusals import in_words
from service.cli_settings import estimate_lines, settings_of
from service.cli_study_table import print_study

if TYPE_CHECKING:
    from service.client import Client, Job
    from service.client_core import Json

ANSWERS: "dict[str, Callable[[Json], None]]" = {
    "range_test": print_range,
    "study": print_study,
    "evaluate": lambda result: print_landscape(result["landscape"]),
}
"""How the result of each kind of job that is one answer is printed."""


def plan_or_answer(client: "Client", body: "Json", *, dry_run: bool, submit_only: bool, as_json: bool) -> None:
    """Says what a job would be, or submits it and prints its answer once it is there; ends the command as the job ended."""
    if dry_run:
        print_plan(client.jobs.check(body), as_json=as_json)
        return
    job = client.jobs.submit(body)
    if submit_only:
        if as_json:
            print_json(job.data)
        else:
            typer.echo(f"{job.id} is {job.status}: `snapcycle follow {job.id}` waits for its answer")
        return
    if as_json:
        for _ in job.follow():
            pass
        job = job.refresh()
        answer = job.result()
        print_json(answer)
    else:
        typer.echo(job.id)
        job = wait_and_show(job)
        answer = job.result() if job.status == "succeeded" else {}
        if answer:
            ANSWERS[job.data["kind"]](answer)
        else:
            print_job(job)
    exit_as(job)
    if job.data["kind"] == "range_test" and answer.get("max_lr") is None:
        raise typer.Exit(FAILURE)  # it has an answer, that there is no rate: a script must not go on with one


def follow_to_the_end(job: "Job", *, as_json: bool) -> None:
    """Shows the job's events, then ends the command with a status that tells its result."""
    if as_json:
        with _interruptible(job):
            for event in job.follow():
                typer.echo(json.dumps(event, ensure_ascii=False))
        job = job.refresh()
    else:
        typer.echo(job.id)
        job = wait_and_show(job)
        print_job(job)
    exit_as(job)


def wait_and_show(job: "Job") -> "Job":
    """Shows the job's progress until it ends, and returns it as it ended."""
    from service.job_display import JobDisplay

    with _interruptible(job), JobDisplay(job.data) as display:
        for event in job.follow():
            display.show(event)
    return job.refresh()


def exit_as(job: "Job") -> None:
    """Ends the command where the job did not succeed, with the status that says so."""
    status = {"failed": FAILURE, "cancelled": CANCELLED}.get(job.status, 0)
    if status:
        raise typer.Exit(status)


@contextmanager
def _interruptible(job: "Job") -> Iterator[None]:
    """Lets Ctrl-C end the command, and says that it did not end the job."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\n{job.id} goes on without you: `snapcycle follow {job.id}` shows it, `snapcycle stop {job.id}` ends it", err=True)
        raise typer.Exit(INTERRUPTED) from None


def print_job(job: "Job") -> None:
    """Prints a job: what it is, how it stands, and what it has made."""
    data = job.data
    progress = data["progress"]
    result = job.result() if job.status == "succeeded" else None
    lines = {
        "status": data["status"] + (f" ({data['phase']})" if data["phase"] and not data["terminal"] else ""),
        "reason": data["stop_reason"],
        "name": data["name"],
        "dataset": data["dataset_id"],
        "kind": data["kind"],
        "parent": data["parent_id"],
        **settings_of(
            data["config"], cycles=progress.get("cycles") if data["terminal"] else None, rate_from=data.get("max_lr_from"), result=result
        ),
        "progress": f"{progress['fraction']:.0%}" + (f", step {progress['step']:,} of {progress['steps']:,}" if progress["steps"] else ""),
        "ensemble": data["ensemble_id"],
        "created": local_time(data["created_at"]),
        "finished": local_time(data["finished_at"]),
    }
    typer.echo(job.id)
    for label, value in lines.items():
        if value:
            typer.echo(f"  {label:<9} {value}")
    snapshots = job.snapshots() if data["kind"] == "train" else []
    if snapshots:
        typer.echo()
        print_snapshots(snapshots)
    if result is not None and data["kind"] in ANSWERS:
        typer.echo()
        ANSWERS[data["kind"]](result)
    elif result is not None and result.get("landscape"):
        typer.echo()
        print_landscape(result["landscape"])
    if data["error"]:
        typer.echo(f"\nerror: {data['error']['message']}", err=True)
        if data["error"].get("suggestion"):
            typer.echo(f"  {data['error']['suggestion']}", err=True)


def print_plan(plan: "Json", *, as_json: bool) -> None:
    """Prints a dry run."""
    if as_json:
        print_json(plan)
    else:
        typer.echo("\n".join(_plan_lines(plan)))


def _plan_lines(plan: "Json") -> Iterator[str]:
    """A dry run in words: settings, sizes, warnings, and what is decided later."""
    settings = settings_of(plan["config"])
    yield from (f"{label:<16} {value}" for label, value in settings.items())
    yield from estimate_lines(plan)
    for warning in plan["warnings"]:
        yield f"warning: {in_words(warning)}"
    for note in plan["notes"]:
        yield f"note: {in_words(note)}"
