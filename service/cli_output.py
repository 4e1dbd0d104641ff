"""What the commands print: tables for people, JSON for programs, and how a command ends."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from service.client import Client
    from service.client_core import Json

FAILURE = 1
CANCELLED = 3
INTERRUPTED = 130
TERMINATED = 143

Url = Annotated[str | None, typer.Option("--url", help="Where the service is; default SNAPCYCLE_URL or http://127.0.0.1:8000.")]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]


def fail(message: str, *, status: int = FAILURE) -> NoReturn:
    """Ends the command with ``message`` on stderr."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)


@contextmanager
def connected(url: str | None) -> Iterator["Client"]:
    """A client; what it raises ends the command with its message."""
    from service.cli_refusals import refusal_text
    from service.client import ApiError, Client, ClientError

    try:
        with Client(url) as client:
            yield client
    except ApiError as error:
        fail(refusal_text(error))
    except ClientError as error:
        fail(str(error))
    except OSError as error:  # a file that cannot be read or written
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def print_json(value: Any) -> None:
    """Prints a document, indented where a person may be looking."""
    typer.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def print_table(rows: list[list[str]], *columns: str) -> None:
    """Prints a table; columns whose title begins with ``>`` are aligned to the right."""
    from rich.console import Console

    Console().print(table(rows, *columns))


def table(rows: list[list[str]], *columns: str) -> "Table":
    """A plain table; titles that begin with ``>`` stand over columns aligned to the right."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in columns:
        justify: Literal["left", "right"] = "right" if title.startswith(">") else "left"
        # Names and remarks, which stand under no title, give way where the terminal is narrow; ids never do: they are there to be copied.
        made.add_column(title.removeprefix(">"), justify=justify, no_wrap=title not in ("name", "kind and name", "shows", ""))
    for row in rows:
        made.add_row(*row)
    return made


def ago(moment: str) -> str:
    """How long ago an RFC 3339 time was, in its largest unit."""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def local_time(moment: str | None) -> str:
    """An RFC 3339 time in this machine's zone, to the second."""
    return "" if moment is None else datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def score(metrics: "Json") -> str:
    """The metric that people ask for first: accuracy, or the root mean squared error of a regression."""
    return f"{metrics['accuracy']:.2%}" if "accuracy" in metrics else f"rmse {metrics['rmse']:.4g}"


def print_snapshots(snapshots: "list[Json]") -> None:
    """A table of snapshots: what each one reaches alone, and what the ensemble up to it reaches on the test rows."""
    rows = [
        [
            snapshot["id"],
            f"{snapshot['step']:,}",
            f"{snapshot['learning_rate']:.2g}",
            score(snapshot["metrics"]["validation"]),
            score(snapshot["metrics"]["test"]),
            score(snapshot["ensemble"]["test"]),
        ]
        for snapshot in snapshots
    ]
    print_table(rows, "snapshot", ">step", ">rate", ">validation", ">test", ">ensemble")
    if text := left_out_text(snapshots[-1]["ensemble"], len(snapshots)) if snapshots else "":
        typer.echo(text)


def left_out_text(ensemble: "Json", num_snapshots: int) -> str:
    """Which of the first snapshots the latest ensemble does without, and why; nothing where it has all."""
    count = num_snapshots - ensemble["members"]
    if count <= 0:
        return ""
    which = "snapshot 1 is" if count == 1 else f"snapshots 1 to {count} are"
    reason = ensemble.get("reason")
    return f"{which} left out of the ensemble" + (f": {reason}" if reason else "")
