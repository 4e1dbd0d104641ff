"""How a study's table looks in a terminal."""

from typing import TYPE_CHECKING

import typer

from service.cli_output import print_table
from service.study_table import study_columns, study_remarks, study_rows

if TYPE_CHECKING:
    from service.client_core import Json


def print_study(result: "Json") -> None:
    """The table, and below it what its reader has to know."""
    print_table(study_rows(result, is_narrow=True), *study_columns(result, is_narrow=True))
    typer.echo()
    for remark in study_remarks(result):
        typer.echo(f"- {remark}")
