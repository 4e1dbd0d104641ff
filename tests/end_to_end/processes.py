"""Real processes for the tests: ``snapcycle`` commands, and who descends from whom."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def command_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without the user's own settings, with the checkout importable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SNAPCYCLE_")}
    # One thread for each trainer: its small matrices gain nothing from more, and the tests share the machine.
    return {**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1", **(extra or {})}


def run_command(*arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs ``snapcycle`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=command_environment(environment),
    )


def wait_for(what: str, condition: Callable[[], T | None], *, seconds: float = 60) -> T:
    """The first value of ``condition`` that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"no {what} within {seconds:.0f} s")


class Up:
    """``snapcycle up`` on a free port."""

    def __init__(self, data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "up", "--port", "0", "--data-dir", str(data_dir), *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=command_environment(environment),
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "ready at" in line, f"{line}{self.log.read_text()}"
        self.url = line.split()[-1]

    def pids_of(self, part: str) -> list[int]:
        """The processes below that run ``part``: valkey-server, worker, trainer or api."""
        marks = {"valkey-server": "valkey-server", "worker": "service.cli worker", "trainer": "worker.trainer", "api": "service.cli api"}
        return [pid for pid, command in descendants(self.process.pid).items() if marks[part] in command]

    def pid_of(self, part: str) -> int:
        """The oldest of them; of the trainers the one that trains, since the others wait for their turn."""
        return min(self.pids_of(part), key=started_at)

    def interrupt(self) -> int:
        """Presses Ctrl-C and waits; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.interrupt()
        assert self.process.stdout is not None
        self.process.stdout.close()


def descendants(root: int) -> dict[int, str]:
    """The living processes below ``root``, with their command lines."""
    parents, commands = {}, {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
            commands[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if state != "Z":
            parents[int(directory.name)] = int(parent)
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: commands[pid] for pid in below - {root}}


def started_at(pid: int) -> int:
    """When a process started, in clock ticks since the machine did."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie doesn't)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
