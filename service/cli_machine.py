"""The command ``doctor``: what this machine has, what is missing and how to get it."""

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import typer

from service.cli_output import FAILURE, AsJson, Url, print_json
from service.cli_processes import read_settings

if TYPE_CHECKING:
    from worker.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``is_needed`` says whether the service cannot run without it."""

    subject: str
    is_fine: bool
    detail: str
    is_needed: bool = True


def doctor(url: Url = None, as_json: AsJson = False) -> None:
    """Check this machine: what is installed, what is missing and how to get it."""
    settings = read_settings()
    findings = [_package(), _torch(), _redis(settings), _artifacts(settings), _fashion_mnist(settings), _service(url)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            sign = "ok" if finding.is_fine else "MISSING" if finding.is_needed else "-"
            typer.echo(f"{sign:<8} {finding.subject:<14} {finding.detail}")
    if any(finding.is_needed and not finding.is_fine for finding in findings):
        raise typer.Exit(FAILURE)


def _package() -> Finding:
    try:
        installed = version("snapcycle")
    except PackageNotFoundError:
        installed = "run from a checkout"
    return Finding("snapcycle", True, f"{installed}, Python {platform.python_version()}, {os.cpu_count()} cores")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, f"cannot be imported ({error}): run `pip install torch`")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("torch", True, f"{torch.__version__}, trains on {', '.join(devices) or 'the CPU (no CUDA device)'}")


def _redis(settings: "Settings") -> Finding:
    """The configured server, or the binary that the launcher would start."""
    from worker.job_store import JobStore, StoreUnavailable, connect
    from worker.valkey_server import ServerError, find_server_binary

    if settings.redis_url is None:
        try:
            return Finding("server", True, f"embedded: {find_server_binary()}")
        except ServerError as error:
            return Finding("server", False, str(error))
    try:
        warnings = JobStore(connect(settings)).check_server()
    except StoreUnavailable as error:
        return Finding("server", False, f"SNAPCYCLE_REDIS_URL: {error}")
    return Finding("server", not warnings, "; ".join(warnings) or "SNAPCYCLE_REDIS_URL answers and keeps what it is given", is_needed=False)


def _artifacts(settings: "Settings") -> Finding:
    """Whether the store can be written and refuses to write a key twice."""
    from worker.artifacts import ArtifactError, ArtifactStore

    try:
        ArtifactStore.open(settings.artifacts_url).probe()
    except ArtifactError as error:
        return Finding("artifacts", False, f"{settings.artifacts_url}: {error}")
    return Finding("artifacts", True, settings.artifacts_url)


def _fashion_mnist(settings: "Settings") -> Finding:
    from clr.builtins import FASHION_MNIST_DIR

    directory = settings.fashion_mnist_dir or FASHION_MNIST_DIR
    if any(directory.glob("train-images-idx3-ubyte*")):
        return Finding("fashion-mnist", True, str(directory), is_needed=False)
    remedy = "run `apt-get install dataset-fashion-mnist`, or set SNAPCYCLE_FASHION_MNIST_DIR"
    return Finding("fashion-mnist", False, f"not in {directory}: {remedy}", is_needed=False)


def _service(url: str | None) -> Finding:
    from service.client import Client, ClientError

    with Client(url, max_retries=0) as client:
        try:
            workers = client.queue()["workers"]
        except ClientError as error:
            return Finding("service", False, str(error), is_needed=False)
    return Finding("service", True, f"{client.url}, {len(workers)} worker{'' if len(workers) == 1 else 's'}", is_needed=False)
