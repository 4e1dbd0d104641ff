"""How a study's table looks in a terminal."""

from typing import TYPE_CHECKING

import typer

from service.cli_output import print_table
from service.study_table import study_columns, study_remarks, study_rows

if TYPE_CHECKING:
    from service.client_core import Json


WIDE = 140
"""Columns of a terminal that has room for intervals beside their means."""


def print_study(result: "Json") -> None:
    """The table, and below it what its reader has to know."""
    from rich.console import Console

    is_narrow = Console().width < WIDE
    print_table(study_rows(result, is_narrow=is_narrow), *study_columns(result, is_narrow=is_narrow))
    typer.echo()
    for remark in study_remarks(result):
        if is_narrow and remark.startswith("calibrated_nll"):
            continue  # it has no column there
        typer.echo(f"- {remark}")
