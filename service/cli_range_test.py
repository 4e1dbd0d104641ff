"""The command ``range-test``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_data import dataset_of, refuse_both
from service.cli_follow import plan_or_answer
from service.cli_output import AsJson, Url, connected
from service.cli_requests import MaxSecondsOption, PriorityOption, number, override, parameters, read_config

if TYPE_CHECKING:
    from service.client_core import Json


def range_test(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A .npz or .csv file, a dataset's id, digits or fashion-mnist.")],
    *,
    target: Annotated[str | None, typer.Option(help="The column to predict, for a .csv.")] = None,
    architecture: Annotated[str | None, typer.Option(help="mlp, small_cnn, resnet or wide_resnet.")] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the architecture: width=16.")] = None,
    sweep: Annotated[str | None, typer.Option(help="exponential or linear.")] = None,
    start_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="The first rate.")] = None,
    end_lr: Annotated[str | None, typer.Option(metavar="NUMBER", help="The last rate.")] = None,
    num_rates: Annotated[str | None, typer.Option(metavar="INTEGER", help="Number of rates of a sweep.")] = None,
    repeats: Annotated[str | None, typer.Option(metavar="INTEGER", help="Sweeps with different seeds.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rows per optimizer step.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="Fixes everything that is random.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with any fields of the request; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    priority: PriorityOption = None,
    max_seconds: MaxSecondsOption = None,
    submit_only: Annotated[
        bool, typer.Option("--submit-only", metavar="", help="Don't wait for the answer; `snapcycle show` has it later.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would run.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Find the range of useful learning rates for a network and its data; --json prints the whole result with its curves."""
    refuse_both(dry_run=dry_run, submit_only=submit_only)
    body: Json = {} if config is None else read_config(config)
    numbers = {"start_lr": start_lr, "end_lr": end_lr, "num_rates": num_rates, "repeats": repeats, "batch_size": batch_size, "seed": seed}
    override(
        body,
        {
            "kind": "range_test",
            "sweep": sweep,
            "name": name,
            "priority": priority,
            "max_seconds": number(max_seconds),
            **{option: number(text) for option, text in numbers.items()},
        },
    )
    override(body.setdefault("model", {"architecture": "mlp"}), {"architecture": architecture, "params": parameters(param)})
    with connected(url) as client, dataset_of(client, data, target=target, keep=not dry_run) as dataset_id:
        body["dataset_id"] = dataset_id
        plan_or_answer(client, body, dry_run=dry_run, submit_only=submit_only, as_json=as_json)
