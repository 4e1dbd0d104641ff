"""The command ``study``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_data import dataset_of, refuse_both
from service.cli_follow import plan_or_answer
from service.cli_output import AsJson, Url, connected
from service.cli_requests import MaxSecondsOption, PriorityOption, number, numbers_of, override, parameters, rate, read_config

if TYPE_CHECKING:
    from service.client_core import Json


ARMS = "snapshot_ensemble, auto, fixed, step, exponential, cosine, no_cycle, no_cycle_cosine, single_cycle, independent."


def study(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A .npz or .csv file, a dataset's id, digits or fashion-mnist.")],
    *,
    seeds: Annotated[str | None, typer.Option(metavar="INTEGERS", help="Each arm is trained once for each; default 0,1,2.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="NUMBER", help="The budget of one run in epochs.")] = None,
    cycles: Annotated[str | None, typer.Option(metavar="INTEGER", help="Cycles, snapshots and networks of an ensemble.")] = None,
    arms: Annotated[str | None, typer.Option(metavar="NAMES", help="What to compare, separated by commas; default all: " + ARMS)] = None,
    max_lr: Annotated[
        str | None, typer.Option(metavar="RATE", help="The highest rate of every arm: a number, auto, or a range test's id; default 0.1.")
    ] = None,
    restart_lr: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="The highest rate of the arms that restart; default --max-lr.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict, for a .csv.")] = None,
    architecture: Annotated[str | None, typer.Option(help="mlp, small_cnn, resnet or wide_resnet.")] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the architecture: width=16.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rows per optimizer step.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with any fields of the request; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    priority: PriorityOption = None,
    max_seconds: MaxSecondsOption = None,
    submit_only: Annotated[
        bool, typer.Option("--submit-only", metavar="", help="Don't wait for the table; `snapcycle show` has it later.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would run.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Compare the snapshot ensemble with its controls at one budget, over several seeds; --json prints the whole result."""
    refuse_both(dry_run=dry_run, submit_only=submit_only)
    body: Json = {} if config is None else read_config(config)
    body.setdefault("seeds", [0, 1, 2])
    options = {"epochs": epochs, "cycles": cycles, "restart_lr": restart_lr, "batch_size": batch_size}
    override(
        body,
        {
            "kind": "study",
            "name": name,
            "priority": priority,
            "max_seconds": number(max_seconds),
            "seeds": numbers_of(seeds),
            "arms": None if arms is None else arms.split(","),
        },
    )
    override(body, {option: number(text) for option, text in options.items()} | {"max_lr": rate(max_lr)})
    override(body.setdefault("model", {"architecture": "mlp"}), {"architecture": architecture, "params": parameters(param)})
    with connected(url) as client, dataset_of(client, data, target=target, keep=not dry_run) as dataset_id:
        body["dataset_id"] = dataset_id
        plan_or_answer(client, body, dry_run=dry_run, submit_only=submit_only, as_json=as_json)
