"""The report of a landscape in a terminal."""

from typing import TYPE_CHECKING

import typer

from service.cli_output import print_table

if TYPE_CHECKING:
    from service.client_core import Json


def print_landscape(report: "Json") -> None:
    """Prints what to do with the snapshots, the sharpness of each, and the barriers between them; snapshots count from 1."""
    typer.echo(report["basins"]["advice"])
    typer.echo()
    sharpness = [
        [
            str(number),
            f"{one['step']:,}",
            _number(one["sharpness"]["loss"]),
            _number(one["sharpness"]["rises"]["mean"]),
            _number(one["sharpness"]["rises"]["worst"]),
            _number(one["sharpness"]["eigenvalue"]["value"]) + ("" if one["sharpness"]["eigenvalue"]["is_converged"] else "?"),
        ]
        for number, one in enumerate(report["snapshots"], start=1)
    ]
    print_table(sharpness, "snapshot", ">step", ">loss", ">mean rise", ">worst rise", ">eigenvalue")
    typer.echo(f"losses on {report['num_rows']:,} training rows")
    typer.echo("rise: how much the loss grows when the weights are disturbed a little; less is flatter")
    typer.echo("eigenvalue: the largest curvature, which depends on how weights are scaled: compare by the rises")
    if any(not one["sharpness"]["eigenvalue"]["is_converged"] for one in report["snapshots"]):
        typer.echo("?: an eigenvalue that has not converged")
    lines = report["basins"]["lines"]
    typer.echo()
    if lines:
        rows = [
            [
                f"{one['first'] + 1} - {one['second'] + 1}",
                _number(one["barrier"]),
                _number(one["threshold"]),
                "yes" if one["is_one_basin"] else "no",
            ]
            for one in lines
        ]
        print_table(rows, "line", ">barrier", ">threshold", "one basin")
        typer.echo("barrier: how far the loss rises on the way between two snapshots; below the threshold they share a basin")
    typer.echo(report["basins"]["coverage"])


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
