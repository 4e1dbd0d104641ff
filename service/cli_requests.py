"""From a command's options to the body of a request. What is wrong with it the service says."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli_output import fail

if TYPE_CHECKING:
    from service.client_core import Json


PriorityOption = Annotated[str | None, typer.Option("--priority", help="low, normal or high: jobs of a higher priority are taken first.")]


MaxSecondsOption = Annotated[
    str | None,
    typer.Option("--max-seconds", metavar="NUMBER", help="Longest running time; then the job fails, and its snapshots stay usable."),
]


def override(document: "Json", fields: "Json") -> None:
    """Lets options win; a part of the config that is no object goes as it is to the service, which says what it should be."""
    if isinstance(document, dict):
        document |= {name: value for name, value in fields.items() if value is not None}


def number(text: str | None) -> int | float | str | None:
    """An option's number. Anything else goes as text to the service, which says why it cannot be, also of ``auto``."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def rate(text: str | None) -> "int | float | str | Json | None":
    """An option's learning rate: a number, ``auto``, or a range test's id."""
    return {"from_job": text} if text is not None and text.startswith("job_") else number(text)


def numbers_of(text: str | None) -> list[int | float | str | None] | None:
    """``0,1,2`` as a list of numbers; what is none of them goes as text to the service."""
    return None if text is None else [number(part.strip()) for part in text.split(",")]


def parameters(pairs: list[str] | None) -> "Json | None":
    """``width=16`` as ``{"width": 16}``: values are JSON where they read as such, else text."""
    if not pairs:
        return None
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"must be NAME=VALUE, got {pair!r}", param_hint="--param")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def read_config(path: Path) -> "Json":
    """The fields of a request from a file; ends the command where it holds none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    except ValueError as error:
        fail(f"{path} cannot be read as JSON: {error}")
    if not isinstance(document, dict):
        fail(f"{path} must hold a JSON object, got {type(document).__name__}")
    return document
