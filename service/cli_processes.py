"""Commands that start processes: ``up``, ``demo``, ``api``, ``worker``."""

import logging
import os
import re
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli_output import TERMINATED, fail

if TYPE_CHECKING:
    from worker.settings import Settings

logger = logging.getLogger(__name__)

Host = Annotated[str | None, typer.Option(help="Address to listen on; default SNAPCYCLE_HOST or this machine alone.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one; default SNAPCYCLE_PORT or 8000.")]
Insecure = Annotated[bool, typer.Option("--insecure", metavar="", help="Listen beyond this machine although nobody needs an API key.")]
ApiProcessesOption = Annotated[
    int | None,
    typer.Option("--api-processes", min=1, max=64, help="Processes that answer on the port; default SNAPCYCLE_API_PROCESSES or 1."),
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", metavar="", hidden=True)]
CLIENT_VARIABLES = ("SNAPCYCLE_URL", "SNAPCYCLE_API_KEY")
WATCH_SECONDS = 0.2
"""How often a launcher looks whether a process has died."""


class DemoDataset(StrEnum):
    """The built-in datasets."""

    DIGITS = "digits"
    FASHION_MNIST = "fashion-mnist"


def up(
    *,
    host: Host = None,
    port: Port = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Jobs that can run at the same time.")] = 1,
    api_processes: ApiProcessesOption = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; default SNAPCYCLE_DATA_DIR.")] = None,
    insecure: Insecure = False,
) -> None:
    """Start everything on this machine: server, workers and API. Ctrl-C stops it; running jobs go on at the next start."""
    settings = guarded(read_settings(host=host, port=port, api_processes=api_processes, data_dir=data_dir), is_insecure=insecure)
    from service.children import LaunchError
    from service.embedded import Stack

    stop = threading.Event()
    _on_signals(stop)
    try:
        with Stack(settings, num_workers=workers) as stack:
            typer.echo(f"snapcycle is ready at {stack.url}")
            typer.echo(f"  documentation  {stack.url}/docs")
            typer.echo(f"  data           {stack.settings.data_dir}")
            typer.echo(f"  workers        {workers}")
            if settings.api_processes > 1:
                typer.echo(f"  API processes  {settings.api_processes}")
            typer.echo("Ctrl-C stops it; running jobs are saved and go on at the next start.")
            while not stop.wait(WATCH_SECONDS):
                stack.watch()
            typer.echo("Stopping ...")
        typer.echo("Stopped.")
    except LaunchError as error:
        fail(str(error))


def demo(
    dataset: Annotated[DemoDataset, typer.Option(help="The data to train on.")] = DemoDataset.DIGITS,
) -> None:
    """Show everything on real data: start a private service, train an ensemble, predict over HTTP, clean up."""
    from service.demo import run_demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # as Ctrl-C does, it unwinds what was begun
    raise typer.Exit(run_demo(dataset.value))


def api(
    *,
    host: Host = None,
    port: Port = None,
    insecure: Insecure = False,
    api_processes: ApiProcessesOption = None,
    socket_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    sign: Annotated[Path | None, typer.Option(hidden=True)] = None,
    exit_with_parent: ExitWithParent = False,
) -> None:
    """Run the HTTP API against SNAPCYCLE_REDIS_URL and SNAPCYCLE_ARTIFACTS."""
    settings = read_settings(host=host, port=port, api_processes=api_processes)
    is_launched = socket_fd is not None
    if not is_launched:  # else the launcher has looked at it
        settings = guarded(settings, is_insecure=insecure)
    need_redis(settings)
    _bind_to_parent(exit_with_parent)
    if settings.api_processes > 1 and not is_launched:
        _keep_api_processes(settings)
        return
    from service.api_server import serve

    serve(settings, socket_fd=socket_fd, sign=sign)


def _keep_api_processes(settings: "Settings") -> None:
    """Runs several API processes until a signal comes."""
    from service.api_processes import ApiProcesses
    from service.children import LaunchError

    stop = threading.Event()
    _on_signals(stop)
    try:
        with ApiProcesses(settings) as processes:
            logger.info("%d API processes answer at %s", settings.api_processes, processes.url)
            while not stop.wait(WATCH_SECONDS):
                processes.watch()
    except LaunchError as error:
        fail(str(error))


def worker(
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:0; default SNAPCYCLE_DEVICE or auto.")] = None,
    word: Annotated[str | None, typer.Option(hidden=True)] = None,
    exit_with_parent: ExitWithParent = False,
) -> None:
    """Run one worker, which trains one job at a time, against SNAPCYCLE_REDIS_URL and SNAPCYCLE_ARTIFACTS."""
    settings = read_settings(device=device)
    need_redis(settings)
    _bind_to_parent(exit_with_parent)
    from worker.tasks import run_worker

    raise typer.Exit(run_worker(settings, word=word))


def read_settings(**options: Any) -> "Settings":
    """Settings from the environment, where no option of the command line stands above them; sets up logging.

    Ends the command with a message where a setting is wrong.
    """
    from pydantic import ValidationError

    from worker.settings import Settings, unknown_settings

    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fail("\n".join(_wrong_setting(dict(item), options) for item in error.errors()))
    _log_to_stderr(settings.log_level)
    for sentence in unknown_settings({name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}):
        typer.echo(f"warning: {sentence}", err=True)
    return settings


def _wrong_setting(error: dict[str, Any], options: dict[str, Any]) -> str:
    """One of pydantic's findings in the words of the option or variable that it came from."""
    from worker.settings import MAY_HOLD_SECRETS, PREFIX

    if not error["loc"]:  # about several settings together
        return str(error["msg"])
    name = str(error["loc"][0])
    source = f"{PREFIX}{name.upper()}" if options.get(name) is None else f"--{name.replace('_', '-')}"
    given = _without_secrets(str(error["input"])) if name in MAY_HOLD_SECRETS else repr(error["input"])
    return f"{source}: {error['msg']}, got {given}"


def _without_secrets(text: str) -> str:
    """The scheme of a URL, and nothing else: where a password ends can't be told in one that is wrong."""
    scheme = re.match(r"[a-z][a-z0-9+.-]*(?=://)", text, re.IGNORECASE)
    return f"{scheme[0]}://… (the rest is not shown)" if scheme else "a value without a scheme (it is not shown)"


def _log_to_stderr(level: str) -> None:
    """Libraries speak only where something is wrong, unless everything was asked for."""
    from service.log_secrets import WithoutKeys

    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(WithoutKeys(handler.formatter))
    if level != "DEBUG":
        for library in ("uvicorn", "celery", "kombu", "httpx2"):
            logging.getLogger(library).setLevel(logging.WARNING)


def need_redis(settings: "Settings") -> None:
    """Ends the command where no server is configured."""
    if settings.redis_url is None:
        from worker.settings import NO_REDIS

        fail(NO_REDIS)


def guarded(settings: "Settings", *, is_insecure: bool) -> "Settings":
    """The settings with which the API may listen: beyond this machine it asks for keys, whatever becomes of the store.

    Ends the command rather than listen there without keys: whoever reaches the port could do everything.
    """
    from service.api_keys import KeyStore, PepperError
    from service.origins import is_loopback
    from worker.artifacts import ArtifactError, ArtifactStore

    if is_insecure or is_loopback(settings.host):
        return settings
    reached = f"{settings.host} can be reached from other machines"
    if settings.auth == "off":
        fail(f"{reached}, and SNAPCYCLE_AUTH is off: listen on 127.0.0.1, set it to auto, or add --insecure")
    try:
        store = KeyStore.open(settings, ArtifactStore.open(settings.artifacts_url))
        is_any_valid = any(key.why_unusable_now() is None and store.is_of_this_pepper(key) for key in store.read_all().values())
    except (ArtifactError, PepperError) as error:
        fail(str(error))
    if not is_any_valid:
        fail(
            f"{reached}, and there is no API key: make one with `snapcycle keys create --scope read,predict,train,admin`, "
            "listen on 127.0.0.1, or add --insecure"
        )
    return settings.model_copy(update={"auth": "on"})


def _bind_to_parent(exit_with_parent: bool) -> None:
    if exit_with_parent:
        from service.children import exit_with_parent as wait_and_exit

        threading.Thread(target=wait_and_exit, name="parent", daemon=True).start()


def _on_signals(stop: threading.Event) -> None:
    """The first Ctrl-C or SIGTERM sets ``stop``; the next one ends the process the hard way."""

    def handle(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
