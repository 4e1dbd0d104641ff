"""The command ``study``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_data import dataset_of, refuse_options
from service.cli_follow import plan_or_answer
from service.cli_output import AsJson, Url, connected
from service.cli_requests import number, numbers_of, override, parameters, read_config

if TYPE_CHECKING:
    from service.client_core import Json


def study(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A .npz or .csv file, a dataset's id, digits or fashion-mnist.")],
    *,
    seeds: Annotated[str | None, typer.Option(metavar="INTEGERS", help="Each arm is trained once for each: 0,1,2.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="NUMBER", help="The budget of one run in epochs.")] = None,
    cycles: Annotated[str | None, typer.Option(metavar="INTEGER", help="Cycles, snapshots and networks of an ensemble.")] = None,
    arms: Annotated[
        str | None, typer.Option(metavar="NAMES", help="What to compare: cosine,snapshot_ensemble; default everything.")
    ] = None,
    max_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="The highest rate of every arm.")] = None,
    restart_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="The highest rate of the arms that restart.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict, for a .csv.")] = None,
    architecture: Annotated[str | None, typer.Option(help="mlp, small_cnn, resnet or wide_resnet.")] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the architecture: width=16.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rows per optimizer step.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with any fields of the request; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    submit_only: Annotated[bool, typer.Option("--submit-only", help="Don't wait for the table; `snapcycle show` has it later.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Compare the snapshot ensemble with its controls at one budget, over several seeds; --json prints the whole result."""
    if dry_run:
        refuse_options("has nothing to submit beside --dry-run", {"--submit-only": submit_only})
    body: Json = {} if config is None else read_config(config)
    options = {"epochs": epochs, "cycles": cycles, "max_lr": max_lr, "restart_lr": restart_lr, "batch_size": batch_size}
    override(body, {"kind": "study", "name": name, "seeds": numbers_of(seeds), "arms": None if arms is None else arms.split(",")})
    override(body, {option: number(text) for option, text in options.items()})
    override(body.setdefault("model", {"architecture": "mlp"}), {"architecture": architecture, "params": parameters(param)})
    with connected(url) as client, dataset_of(client, data, target=target, keep=not dry_run) as dataset_id:
        body["dataset_id"] = dataset_id
        plan_or_answer(client, body, dry_run=dry_run, submit_only=submit_only, as_json=as_json)
