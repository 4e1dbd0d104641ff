"""``docker-compose.yml`` without Docker: every service's very command runs as a local process, and a job goes through them.

What Docker would do is done here: names of services become local addresses, /data a temporary directory, images the installed programs.
"""

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from service.client import ApiError, Client
from tests.end_to_end.processes import ROOT, command_environment, run_command, wait_for
from worker.valkey_server import find_server_binary

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SNAPCYCLE = [sys.executable, "-m", "service.cli"]
HAS_GPU = shutil.which("nvidia-smi") is not None


@dataclass(frozen=True)
class Translation:
    """Stands for Docker's network and volumes."""

    redis_port: int
    api_port: int
    data: Path

    def text(self, value: str) -> str:
        """One word of a command or of the environment."""
        value = value.replace("valkey:6379", f"127.0.0.1:{self.redis_port}").replace("/data", str(self.data))
        if value == "cuda:0" and not HAS_GPU:
            return "cpu"
        return {"6379": str(self.redis_port), "8000": str(self.api_port)}.get(
            value, value.replace("127.0.0.1:8000", f"127.0.0.1:{self.api_port}")
        )

    def command(self, name: str) -> list[str]:
        """A service's command with its image's entry point."""
        command = SERVICES[name]["command"]
        words = [self.text(word) for word in (shlex.split(command) if isinstance(command, str) else command)]
        return [str(find_server_binary()), *words[1:]] if words[0] == "valkey-server" else [*SNAPCYCLE, *words]

    def environment(self, name: str) -> Mapping[str, str]:
        """A service's environment."""
        return {key: self.text(value) for key, value in SERVICES[name].get("environment", {}).items()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def translation(tmp_path_factory: pytest.TempPathFactory) -> Translation:
    return Translation(free_port(), free_port(), tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="module")
def api_key(translation: Translation) -> str:
    """A key, made by the command that the file tells its reader to run first."""
    told = (ROOT / "docker-compose.yml").read_text()
    (command,) = re.findall(r"docker compose run .* api (keys create .*)", told)
    made = run_command(*shlex.split(command), environment=translation.environment("api"))
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_without_a_key_the_api_refuses_to_listen(tmp_path: Path) -> None:
    translation = Translation(free_port(), free_port(), tmp_path)
    words = translation.command("api")[len(SNAPCYCLE) :]
    refused = run_command(*words, environment=translation.environment("api"))
    assert refused.returncode == 1
    assert "0.0.0.0 can be reached from other machines, and there is no API key" in refused.stderr


@pytest.fixture(scope="module")
def processes(translation: Translation, api_key: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """All services, once there is ``api_key``; valkey first as ``depends_on`` says; ended in reverse order."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in sorted(SERVICES, key=lambda name: "depends_on" in SERVICES[name]):
            with (translation.data / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    translation.command(name), env=command_environment(translation.environment(name)), stdout=log, stderr=log
                )
            if name == "valkey":
                wait_for("answer of valkey", lambda: answers_ping(translation.redis_port), seconds=10)
        yield running
    finally:
        for process in reversed(running.values()):
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def answers_ping(port: int) -> bool:
    with redis.Redis(port=port) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def test_a_job_goes_through_every_service(processes: dict[str, subprocess.Popen[bytes]], translation: Translation, api_key: str) -> None:
    with Client(f"http://127.0.0.1:{translation.api_port}", api_key=api_key, max_retries=0) as client:
        wait_for("two workers", lambda: is_healthy("api", translation) and len(client.queue()["workers"]) == 2)
        dataset = client.datasets.builtin("digits")
        jobs = [client.jobs.train(dataset, cycles=2, epochs_per_cycle=2, seed=seed) for seed in range(2)]
        finished = [job.wait() for job in jobs]
    assert [job.status for job in finished] == ["succeeded", "succeeded"]
    assert {name: process.poll() for name, process in processes.items()} == dict.fromkeys(SERVICES)
    weights = sorted((translation.data / "artifacts").rglob("weights.safetensors"))
    assert len(weights) == 4, "the snapshots lie in the shared volume"


def is_healthy(name: str, translation: Translation) -> bool:
    """Runs the service's own health check."""
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    assert command[0] == "python"
    check = [sys.executable, *(translation.text(word) for word in command[1:])]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_nobody_gets_in_without_the_key(processes: dict[str, subprocess.Popen[bytes]], translation: Translation, api_key: str) -> None:
    wait_for("the API", lambda: is_healthy("api", translation))
    with Client(f"http://127.0.0.1:{translation.api_port}") as client, pytest.raises(ApiError) as refused:
        client.queue()
    assert refused.value.code == "unauthenticated"
    logs = "".join(path.read_text() for path in translation.data.glob("*.log"))
    assert api_key[12:] not in logs


def test_the_server_keeps_what_it_acknowledged(processes: dict[str, subprocess.Popen[bytes]], translation: Translation) -> None:
    with redis.Redis(port=translation.redis_port, decode_responses=True) as client:
        settings = {name: client.config_get(name)[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "save")}
    assert settings == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


def test_the_api_is_published_for_this_machine_alone() -> None:
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert "ports" not in SERVICES["valkey"]


def test_only_one_kind_of_worker_starts_and_without_a_profile_it_is_the_cpu_kind() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"worker": ["cpu"], "worker-gpu": ["gpu"]}
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()


def test_all_snapcycle_services_share_one_image_and_one_volume() -> None:
    own = {name: service for name, service in SERVICES.items() if name != "valkey"}
    assert {service["image"] for service in own.values()} == {"snapcycle"}
    assert {tuple(service["volumes"]) for service in own.values()} == {("data:/data",)}
    assert set(COMPOSE["volumes"]) == {"data", "valkey"}


def test_the_image_runs_as_its_own_user_and_starts_the_command() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "USER snapcycle" in lines
    assert 'ENTRYPOINT ["snapcycle"]' in lines
    assert all((ROOT / name).exists() for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1])
