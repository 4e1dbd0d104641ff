"""The report of a landscape in a terminal."""

from typing import TYPE_CHECKING

import typer

from service.cli_output import print_table

if TYPE_CHECKING:
    from service.client_core import Json


def print_landscape(report: "Json") -> None:
    """Prints the sharpness of each snapshot, the barriers between them, and what follows in words."""
    sharpness = [
        [
            str(index),
            f"{one['step']:,}",
            _number(one["sharpness"]["loss"]),
            _number(one["sharpness"]["rises"]["mean"]),
            _number(one["sharpness"]["rises"]["worst"]),
            _number(one["sharpness"]["eigenvalue"]["value"]) + ("" if one["sharpness"]["eigenvalue"]["is_converged"] else "?"),
        ]
        for index, one in enumerate(report["snapshots"])
    ]
    print_table(sharpness, "snapshot", ">step", ">loss", ">mean rise", ">worst rise", ">eigenvalue")
    typer.echo(f"\nlosses on {report['num_rows']:,} training rows; ? marks an eigenvalue that has not converged")
    typer.echo(report["rescaling_note"])
    lines = report["basins"]["lines"]
    if lines:
        typer.echo()
        rows = [
            [
                f"{one['first']} - {one['second']}",
                _number(one["barrier"]),
                _number(one["threshold"]),
                "yes" if one["is_one_basin"] else "no",
            ]
            for one in lines
        ]
        print_table(rows, "line", ">barrier", ">threshold", "one basin")
        typer.echo()
    typer.echo(report["basins"]["coverage"])
    typer.echo(report["basins"]["advice"])


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
