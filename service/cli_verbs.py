"""Commands that change a job without ending it: ``pause``, ``resume``, ``extend``."""

from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_jobs import JobId, refuse_if_over
from service.cli_output import AsJson, Url, connected, print_json

if TYPE_CHECKING:
    from service.client import Job


def pause(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Have a job rest, with a checkpoint and its device given back; a study pauses with its runs."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        refuse_if_over(job, "pause")
        _print_state(job.pause(), as_json=as_json)


def resume(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Queue a paused job again; it goes on bit for bit where it was."""
    with connected(url) as client:
        job = client.jobs.get(job_id)
        refuse_if_over(job, "resume")
        _print_state(job.resume(), as_json=as_json)


def extend(
    job_id: JobId,
    cycles: Annotated[int, typer.Argument(min=1, help="Cycles to append.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Append cycles to a training that runs or has succeeded; its ensemble grows, and its earlier snapshots stay."""
    with connected(url) as client:
        _print_state(client.jobs.get(job_id).extend(cycles), as_json=as_json)


def _print_state(job: "Job", *, as_json: bool) -> None:
    if as_json:
        print_json(job.data)
        return
    requested, cycles = job.data["requested_action"], job.data["progress"]["cycles"]
    of = f", {cycles} cycles in all" if cycles else ""
    typer.echo(f"{job.id} is {job.status}{of}" + (f", {requested} is on its way" if requested else ""))
