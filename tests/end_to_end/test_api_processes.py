"""Several API processes behind one port: who answers, what a kill costs, what is counted, what is left behind."""

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.processes import Up, command_environment, descendants, is_alive, wait_for
from worker.valkey_server import ValkeyServer

CONNECTIONS = 32
"""All with one of two processes: once in 2 x 10^9."""


@dataclass
class Apis:
    """``snapcycle api --api-processes 2``.

    Attributes:
        launcher: The process that keeps the two.
        directory: For its temporary files.
    """

    launcher: subprocess.Popen[bytes]
    directory: Path
    port: int

    def pids(self) -> list[int]:
        return sorted(descendants(self.launcher.pid))

    def get(self, path: str) -> str:
        """The answer over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()
        finally:
            connection.close()

    def num_alive(self) -> float:
        """How often /livez was answered, as /metrics says."""
        samples = [sample for family in text_string_to_metric_families(self.get("/metrics")) for sample in family.samples]
        return sum(each.value for each in samples if each.name == "snapcycle_requests_total" and each.labels["route"] == "/livez")

    def spread(self) -> dict[int, int]:
        """How many of CONNECTIONS connections, on which /livez is asked once, each process has; without one that ended meanwhile."""
        before = {pid: num_sockets(pid) for pid in self.pids()}
        opened = [http.client.HTTPConnection("127.0.0.1", self.port, timeout=30) for _ in range(CONNECTIONS)]
        try:
            for connection in opened:
                connection.request("GET", "/livez")
                connection.getresponse().read()
            after = {pid: num_sockets(pid) for pid in self.pids()}
            return {pid: count - before[pid] for pid, count in after.items() if pid in before}
        finally:
            for connection in opened:
                connection.close()


def num_sockets(pid: int) -> int:
    """None for a process that has ended."""
    count = 0
    with suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                count += str(descriptor.readlink()).startswith("socket:")
    return count


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apis]:
    directory = tmp_path_factory.mktemp("apis")
    with ValkeyServer(directory) as server, (directory / "log").open("wb") as log:
        extra = {"SNAPCYCLE_REDIS_URL": server.url, "SNAPCYCLE_DATA_DIR": str(directory), "TMPDIR": str(directory)}
        command = [sys.executable, "-m", "service.cli", "api", "--port", "0", "--api-processes", "2"]
        launcher = subprocess.Popen(command, stderr=log, env=command_environment(extra))
        try:
            pattern = re.compile(r"2 API processes answer at http://127\.0\.0\.1:(\d+)")
            said = wait_for("address", lambda: pattern.search((directory / "log").read_text()))
            yield Apis(launcher, directory, int(said.group(1)))
        finally:
            launcher.terminate()
            launcher.wait(30)


def test_both_answer_and_metrics_are_their_sum(apis: Apis) -> None:
    before = apis.num_alive()
    counts = apis.spread()
    assert len(counts) == 2
    assert min(counts.values()) > 0
    wait_for("all counts", lambda: apis.num_alive() == before + CONNECTIONS, seconds=5)


def test_requests_go_on_while_one_that_was_killed_starts_again_and_no_count_goes_back(apis: Apis) -> None:
    counted = apis.num_alive()
    killed, other = apis.pids()
    os.kill(killed, signal.SIGKILL)
    answered = 0
    # Who comes to the dead one waits for the next, and has an answer too.
    while len(counts := apis.spread()) < 2 or min(counts.values()) <= 0:
        answered += CONNECTIONS
        now = apis.num_alive()
        assert now >= counted
        counted = now
    assert other in counts
    assert killed not in counts
    assert answered > 0, "the other one has answered meanwhile"


def counts_directory(pid: int) -> Path:
    """Where a process counts its requests."""
    environment = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)
    return Path(environment["PROMETHEUS_MULTIPROC_DIR"])


@pytest.mark.slow
def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--api-processes", "2") as up:
        processes = descendants(up.process.pid)
        assert len(up.pids_of("api")) == 2
        counts = counts_directory(up.pid_of("api"))
        assert len(list(counts.glob("histogram_*.db"))) == 2
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(30) == 0
        assert not any(map(is_alive, processes))
        assert not counts.exists()
        assert "Traceback" not in up.log.read_text()


def test_a_process_that_cannot_start_ends_all_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "key_pepper").write_bytes(b"short")
    environment = command_environment({"SNAPCYCLE_REDIS_URL": "redis://127.0.0.1:1", "SNAPCYCLE_DATA_DIR": str(tmp_path)})
    command = [sys.executable, "-m", "service.cli", "api", "--port", "0", "--api-processes", "2"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "did not start: its messages say why" in refused.stderr
    assert "key_pepper must have 32 bytes, got 5" in refused.stderr
