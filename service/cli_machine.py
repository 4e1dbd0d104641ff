"""The command ``doctor``: what this machine has, what is missing and how to get it, and whether the artifact store is whole."""

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


LEAST_FREE_BYTES = 2**30
"""Free space below which the disk is reported as nearly full."""

Artifacts = Annotated[str | None, typer.Option("--artifacts", help="The store to verify: a directory or s3://…; default: the settings'.")]
Repair = Annotated[
    bool, typer.Option("--repair", help="Move damaged files to the store's quarantine; remove drafts, orphans and half-deleted jobs.")
]


def doctor(url: Url = None, artifacts: Artifacts = None, repair: Repair = False, as_json: AsJson = False) -> None:
    """Check this machine, and verify every file of the artifact store."""
    settings = read_settings()
    location = artifacts or settings.artifacts_url
    findings = [_package(), _torch(), _redis(settings), _artifacts(location), _disk(location)]
    findings += [_fashion_mnist(settings), _service(url)]
    store = _verified(location, repair=repair) if all(finding.is_fine for finding in findings if finding.subject == "artifacts") else None
    if store is not None:
        findings.append(_summary(store))
    troubles = store["findings"] if store is not None else []
    if as_json:
        print_json([asdict(finding) | ({"report": store} if finding.subject == "store" else {}) for finding in findings])
    else:
        for finding in findings:
            sign = (
                "ok"
                if finding.is_fine
                else "MISSING"
                if finding.subject != "store" and finding.is_needed
                else "LOST"
                if finding.is_needed
                else "-"
            )
            typer.echo(f"{sign:<8} {finding.subject:<14} {finding.detail}")
        for trouble in troubles:
            mended = f" ({trouble['mended']})" if trouble["mended"] else ""
            typer.echo(f"{trouble['trouble']:<12} {trouble['key']}: {trouble['detail']}{mended}")
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


def _disk(location: str) -> Finding:
    """Whether the disk of a local store has room left."""
    if "://" in location:
        return Finding("disk", True, "the store is remote", is_needed=False)
    place = Path(location)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    remedy = "" if free >= LEAST_FREE_BYTES else ": delete jobs or datasets, or add space"
    return Finding("disk", free >= LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB free at {place}{remedy}", is_needed=False)


def _verified(location: str, *, repair: bool) -> dict[str, Any]:
    from worker.artifacts import ArtifactStore
    from worker.store_check import check_store

    report = check_store(ArtifactStore.open(location), repair=repair)
    return {**asdict(report), "sound": report.is_sound}


def _summary(store: dict[str, Any]) -> Finding:
    size = f"{store['verified_bytes'] / 2**20:.1f} MiB"
    seen = f"{store['jobs']} jobs, {store['documents']} documents and {store['files']} files ({size}) verified"
    kinds = [finding["trouble"] for finding in store["findings"]]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "nothing wrong"
    return Finding("store", store["sound"], f"{seen}: {counted}; {store['in_quarantine']} in quarantine")


def _artifacts(location: str) -> Finding:
    """Whether the store can be written and refuses to write a key twice."""
    from worker.artifacts import ArtifactError, ArtifactStore

    try:
        ArtifactStore.open(location).probe()
    except ArtifactError as error:
        return Finding("artifacts", False, f"{location}: {error}")
    return Finding("artifacts", True, location)


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
