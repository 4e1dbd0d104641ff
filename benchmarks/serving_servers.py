"""The servers of the comparison, each with its settings, started on one core and stopped again."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import OK, HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

from benchmarks.compare_process import ROOT, thread_environment
from benchmarks.peers.served_model import MEMBERS_VARIABLE

START_SECONDS = 45.0
STOP_SECONDS = 10.0

Json = dict[str, Any]


class StartError(RuntimeError):
    """A server did not start."""


@dataclass(frozen=True)
class Settings:
    """How a peer is started.

    Attributes:
        target: The path of its requests where they may go to several.
    """

    server: str
    label: str
    options: Json = field(default_factory=dict)
    target: str = "/predict"


CANDIDATES: dict[str, tuple[Settings, ...]] = {
    "LitServe": (
        *(
            Settings("LitServe", f"max batch 64, {1000 * wait:g} ms{', fast queue' * fast}", {"timeout": wait, "size": 64, "fast": fast})
            for fast in (False, True)
            for wait in (0.0, 0.002, 0.01)
        ),
        Settings("LitServe", "no batching", {"timeout": 0.0, "size": 1, "fast": False}),
    ),
    "BentoML": (
        Settings("BentoML", "max batch 64, 100 ms", target="/predict"),
        Settings("BentoML", "no batching", target="/predict_one"),
    ),
    "MLServer": tuple(
        Settings(
            "MLServer", f"{'max batch 64, 2 ms' if size else 'no batching'}, {workers} parallel workers", {"workers": workers, "size": size}
        )
        for workers in (0, 1)
        for size in (64, 0)
    ),
    "FastAPI": (Settings("FastAPI", "def", target="/predict"), Settings("FastAPI", "async def", target="/predict_async")),
    "null server": (Settings("null server", "uvicorn, uvloop, httptools"),),
}
"""What each peer's documentation offers to make it fast; the best at 32 connections takes part."""

ENVIRONMENTS = {"LitServe": "litserve", "BentoML": "bentoml", "MLServer": "mlserver", "FastAPI": "litserve", "null server": "litserve"}
"""The virtual environments below .bench; FastAPI and uvicorn come with LitServe."""


def python_of(server: str) -> Path:
    """The peer's interpreter."""
    return ROOT / ".bench" / ENVIRONMENTS[server] / "bin/python"


def version_of(server: str) -> str:
    """The peer's version, as its own environment has it."""
    name = {"null server": "uvicorn"}.get(server, server).lower()
    program = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([python_of(server), "-c", program], check=True, capture_output=True, text=True).stdout.strip()


class Server:
    """A peer's processes on one core. Stopped processes take no core from the others while they wait for their turn."""

    def __init__(self, settings: Settings, *, members: Path, core: int, directory: Path) -> None:
        self.settings = settings
        self.port = free_port()
        self._log = (directory / f"{settings.server}-{self.port}.log").open("w+b")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SNAPCYCLE_", "PYTHON"))}
        environment |= {**thread_environment(1), "PYTHONPATH": str(ROOT), MEMBERS_VARIABLE: str(members)}
        environment |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(directory / "bentoml"), "TMPDIR": str(directory)}
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), *_command(settings, self.port, directory)],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=environment, cwd=ROOT, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def wait_until_listening(self) -> None:
        """Returns when the port accepts connections, and where a model is loaded behind it, when it is.

        Raises:
            StartError: It ended, or took too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with suppress(OSError, HTTPException):
                if self._is_ready():
                    return
            time.sleep(0.1)
        raise StartError(f"{self.settings.server} did not start within {START_SECONDS:.0f} s: {self.log_tail()}")

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.connect()
            if self.settings.server != "MLServer":  # the others listen when they are ready
                return True
            connection.request("GET", "/v2/models/five/ready")
            return connection.getresponse().status == OK
        finally:
            connection.close()

    def log_tail(self) -> str:
        """The last of what it wrote."""
        self._log.seek(0)
        return self._log.read()[-1500:].decode(errors="replace")

    def pause(self) -> None:
        """Stops all its processes where they are."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets them run."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends all its processes."""
        with suppress(ProcessLookupError):
            self.go_on()
            os.killpg(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _command(settings: Settings, port: int, directory: Path) -> Sequence[str | Path]:
    python, options = python_of(settings.server), settings.options
    match settings.server:
        case "LitServe":
            command: list[str | Path] = [python, "-m", "benchmarks.peers.litserve_server", "--port", str(port)]
            command += ["--batch-timeout", str(options["timeout"]), "--max-batch-size", str(options["size"])]
            return [*command, "--fast-queue"] if options["fast"] else command
        case "BentoML":
            return [python, "-m", "bentoml", "serve", "benchmarks.peers.bentoml_server:Five", "--port", str(port), "--host", "127.0.0.1"]
        case "MLServer":
            return [python.with_name("mlserver"), "start", _mlserver_folder(directory, port, options)]
        case "FastAPI":
            return [python, "-m", "benchmarks.peers.fastapi_server", "--port", str(port)]
        case "null server":
            return [python, "-m", "benchmarks.peers.null_server", "--port", str(port)]
        case other:
            raise ValueError(f"there is no server {other!r}")


def _mlserver_folder(directory: Path, port: int, options: Json) -> Path:
    """The folder with the two settings files that MLServer starts from."""
    folder = directory / f"mlserver-{port}"
    folder.mkdir()
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "debug": False}
    server |= {"parallel_workers": options["workers"], "environments_dir": str(folder / "envs"), "metrics_dir": str(folder / "metrics")}
    model: Json = {"name": "five", "implementation": "benchmarks.peers.mlserver_model.Five"}
    if options["size"]:
        model |= {"max_batch_size": options["size"], "max_batch_time": 0.002}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return folder
