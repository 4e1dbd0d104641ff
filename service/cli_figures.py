"""Commands about the minima of a job: ``evaluate`` and ``figures``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_data import refuse_both
from service.cli_follow import plan_or_answer
from service.cli_output import AsJson, Url, connected, fail, print_json, print_table
from service.cli_refusals import in_words
from service.cli_requests import MaxSecondsOption, PriorityOption, number, override, read_config

if TYPE_CHECKING:
    from service.client import Job
    from service.client_core import Json

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id: job_...")]


def evaluate(
    job_id: JobId,
    *,
    max_rows: Annotated[str | None, typer.Option(metavar="INTEGER", help="Training rows to measure losses on.")] = None,
    num_lambdas: Annotated[str | None, typer.Option(metavar="INTEGER", help="Points on the line between two snapshots.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with any settings of the measurement; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    priority: PriorityOption = None,
    max_seconds: MaxSecondsOption = None,
    submit_only: Annotated[
        bool, typer.Option("--submit-only", metavar="", help="Don't wait for the report; `snapcycle show` has it later.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would run.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Measure the minima of a train job: how sharp they are, and which share a basin; --json prints the whole report."""
    refuse_both(dry_run=dry_run, submit_only=submit_only)
    settings: Json = {} if config is None else read_config(config)
    override(settings, {"max_rows": number(max_rows), "num_lambdas": number(num_lambdas)})
    body: Json = {"kind": "evaluate", "job_id": job_id, "landscape": settings}
    override(body, {"name": name, "priority": priority, "max_seconds": number(max_seconds)})
    with connected(url) as client:
        plan_or_answer(client, body, dry_run=dry_run, submit_only=submit_only, as_json=as_json)


def figures(
    job_id: JobId,
    *,
    out: Annotated[Path | None, typer.Option(help="A directory to write the figures into, as pages for any browser.")] = None,
    against: Annotated[str | None, typer.Option(metavar="JOB", help="Another job to show beside it.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List a job's figures, or write them as pages for any browser: learning rate and loss, ensemble size, interpolation and the like."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        found = job.figures(against=against)
        if out is not None:
            written = _write_pages(job, found, out, against=against)
    if as_json:
        print_json(found if out is None else [str(path) for path in written])
    elif out is None:
        print_table(
            [[each["name"], "yes" if each["available"] else "no", in_words(each["reason"] or each["shows"])] for each in found],
            "figure",
            "there",
            "shows",
        )
    else:
        for path in written:
            typer.echo(path)
        for each in found:
            if each["reason"]:
                typer.echo(f"{each['name']} is not there: {in_words(each['reason'])}", err=True)
    if out is not None and not written:
        fail(f"{job_id} has no figure to write" + ("" if job.data["terminal"] else " yet"))


def _write_pages(job: "Job", found: "list[Json]", directory: Path, *, against: str | None) -> list[Path]:
    """Writes the figures that are there, and the script that draws them once; returns the figures' files."""
    from service.figure_page import PLOTLY_FILE, page_beside_script, plotly_script

    if directory.exists() and not directory.is_dir():
        fail(f"{directory} is a file: --out names a directory")
    written = []
    for name in [each["name"] for each in found if each["available"]]:
        figure = job.figure(name, against=against)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name}.html"
        path.write_text(page_beside_script(f"{job.data['name'] or job.id}: {name}", {name: figure}), encoding="utf-8")
        written.append(path)
    if written:
        (directory / PLOTLY_FILE).write_text(plotly_script(), encoding="utf-8")
    return written
