"""The command ``snapcycle``. The commands stand in ``service.cli_*``; each imports what it needs when it runs, so that help is quick."""

import typer

from service import cli_data, cli_figures, cli_jobs, cli_keys, cli_machine, cli_processes, cli_range_test, cli_study, cli_verbs

app = typer.Typer(
    name="snapcycle",
    help="Snapshot ensembles as a service: train one network, get M for free.",
    epilog="Exit status: 0 success, 1 failure or refusal, 2 wrong usage, 3 a job that was cancelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

START = "Start"
TRAIN = "Train and predict"

app.command(rich_help_panel=START)(cli_processes.up)
app.command(rich_help_panel=START)(cli_processes.demo)
app.command(rich_help_panel=START)(cli_processes.api)
app.command(rich_help_panel=START)(cli_processes.worker)
app.command(rich_help_panel=START)(cli_machine.doctor)
app.add_typer(cli_keys.keys, name="keys", rich_help_panel=START)

app.add_typer(cli_data.datasets, name="datasets", rich_help_panel=TRAIN)
app.command(rich_help_panel=TRAIN)(cli_jobs.train)
app.command(name="range-test", rich_help_panel=TRAIN)(cli_range_test.range_test)
app.command(rich_help_panel=TRAIN)(cli_study.study)
app.command(rich_help_panel=TRAIN)(cli_figures.evaluate)
app.command(rich_help_panel=TRAIN)(cli_figures.figures)
app.command(rich_help_panel=TRAIN)(cli_jobs.jobs)
app.command(rich_help_panel=TRAIN)(cli_jobs.show)
app.command(rich_help_panel=TRAIN)(cli_jobs.follow)
app.command(rich_help_panel=TRAIN)(cli_jobs.stop)
app.command(rich_help_panel=TRAIN)(cli_jobs.cancel)
app.command(rich_help_panel=TRAIN)(cli_verbs.pause)
app.command(rich_help_panel=TRAIN)(cli_verbs.resume)
app.command(rich_help_panel=TRAIN)(cli_verbs.extend)
app.command(rich_help_panel=TRAIN)(cli_data.snapshots)
app.command(rich_help_panel=TRAIN)(cli_data.predict)


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
