"""Everything on one machine: the server, the workers and the API as processes that start, live and end together.

The launcher holds the API's listening socket, so a restarted API loses no connection: they wait in the socket's queue. Its children read
their standard input and exit at its end, so none outlives a launcher that was killed.
"""

import http.client
import logging
import os
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

from worker.job_store import JobStore, StoreUnavailable, connect
from worker.settings import PREFIX, Settings
from worker.valkey_server import ServerError, ValkeyServer

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Importing torch from a cold disk takes tens of seconds."""
STEADY_SECONDS = 30.0
"""A process that lived this long begins anew with quick restarts."""
API_STOP_SECONDS = 10.0
MAX_BACKLOG = 1024
SECRETS = {"key_pepper"}
"""Settings that only the API gets."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]


class LaunchError(RuntimeError):
    """Something cannot be started; the message says why and what to do. The only exception of this module."""


@dataclass
class Child:
    """A process that is kept running.

    Attributes:
        start: Spawns it.
        failures: Deaths in a row, each before it had lived long enough to count as steady.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0

    def launch(self) -> None:
        """Starts the process."""
        self.process, self.started_at = self.start(), time.monotonic()

    def has_died(self) -> bool:
        """Whether it ended since it was started; plans the next start, later each time."""
        if self.process is None or self.process.poll() is None:
            return False
        lived = time.monotonic() - self.started_at
        self.failures = 1 if lived > STEADY_SECONDS else self.failures + 1
        delay = min(30.0, 0.1 * 2 ** (self.failures - 1))
        self.restart_at = time.monotonic() + delay
        logger.warning("%s (pid %d) ended with status %d; starts again in %.1f s", self.name, self.process.pid, self.process.poll(), delay)
        self.process.stdin.close()  # type: ignore[union-attr]  # every child is given a pipe
        self.process = None
        return True

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        if self.process is not None:
            self.process.terminate()

    def end(self, *, seconds: float) -> None:
        """Waits for the end of the process and kills it after ``seconds``."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            logger.warning("%s (pid %d) did not stop within %.0f s and was killed", self.name, self.process.pid, seconds)
        finally:  # also where a second Ctrl-C interrupts the wait
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()  # type: ignore[union-attr]  # every child is given a pipe
            self.process = None


class Stack:
    """A running service; use it as a context manager, and call ``watch`` now and then.

    Args:
        settings: With ``redis_url`` None an own server is started.
        num_workers: Jobs that can run at the same time.
        log: Where the processes write; None: this process's stderr.

    Raises:
        LaunchError: The address cannot be used, or a part doesn't start.
    """

    def __init__(self, settings: Settings, *, num_workers: int, log: IO[bytes] | None = None) -> None:
        self.server = None if settings.redis_url else ValkeyServer(settings.data_dir)
        redis_url = settings.redis_url or (self.server.url if self.server else None)
        self.settings = settings.model_copy(update={"redis_url": redis_url, "data_dir": settings.data_dir.absolute()})
        self._log = log
        self._socket = _listen(settings.host, settings.port)
        self._environment = child_environment(self.settings, num_workers=num_workers)
        self.api = Child("api", self._spawn_api)
        self.workers = [Child(f"worker {i + 1}", lambda: self._spawn("worker")) for i in range(num_workers)]
        self._server_retry_at = 0.0

    @property
    def url(self) -> str:
        """Where the API answers."""
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (compared, not bound)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> Self:
        try:
            if self.server is not None:
                self.server.start()
            for child in (self.api, *self.workers):
                child.launch()
            self._wait_until_ready()
        except ServerError as error:
            self.stop()
            raise LaunchError(str(error)) from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def watch(self) -> None:
        """Starts again what has died; a dead worker's job goes to the next one at once, and so does the reconcilers' leadership."""
        self._watch_server()
        for child in (self.api, *self.workers):
            pid = child.process.pid if child.process else 0
            if child.has_died():
                self._give_on(pid)
            if child.process is None and time.monotonic() >= child.restart_at:
                child.launch()

    def stop(self) -> None:
        """Ends everything in order: workers give their jobs back, then the API, then the server."""
        try:
            for worker in self.workers:
                worker.ask_to_stop()
            for worker in self.workers:
                worker.end(seconds=self.settings.drain_seconds + 5)
            self.api.ask_to_stop()
            self.api.end(seconds=API_STOP_SECONDS)
        finally:
            for child in (*self.workers, self.api):
                child.end(seconds=0)
            self._socket.close()
            if self.server is not None:
                self.server.stop()

    def _watch_server(self) -> None:
        if self.server is None or time.monotonic() < self._server_retry_at:
            return
        try:
            if self.server.ensure_running():
                logger.warning("the embedded server had ended and runs again")
        except ServerError as error:
            logger.error("%s", error)  # noqa: TRY400  (it says why; a trace would hide it)
            self._server_retry_at = time.monotonic() + 5

    def _give_on(self, pid: int) -> None:
        """Takes its job and the leadership from the process that had this id, rather than wait until their leases have run out."""
        from worker.celery_app import create_celery, publish  # Celery, which the launcher rarely needs
        from worker.tasks import worker_id_of

        with suppress(StoreUnavailable):  # then the lease does run out
            store = JobStore(connect(self.settings))
            for job_id in store.expire_owner(worker_id_of(pid)):
                if store.requeue_expired(job_id, self.settings.max_crashes) == "requeued":
                    publish(create_celery(self.settings), job_id)
            store.forget_worker(worker_id_of(pid))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for child in (self.api, *self.workers):
                if child.has_died():
                    raise LaunchError(f"{child.name} did not start: its messages say why")
            if self.answers_ready():
                return
            time.sleep(0.02)
        raise LaunchError(f"the API did not get ready within {START_SECONDS:.0f} s: its messages say why")

    def answers_ready(self) -> bool:
        """Whether ``/readyz`` says 200; a connection made too early waits in the socket's queue."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=1)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _spawn_api(self) -> subprocess.Popen[bytes]:
        pepper = self.settings.key_pepper
        secrets = {f"{PREFIX}KEY_PEPPER": pepper.get_secret_value()} if pepper else {}
        return self._spawn("api", "--socket-fd", str(self._socket.fileno()), secrets=secrets)

    def _spawn(self, *arguments: str, secrets: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "service.cli", *arguments, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**self._environment, **secrets},
            pass_fds=(self._socket.fileno(),) if arguments[0] == "api" else (),
            start_new_session=True,  # a Ctrl-C in the terminal comes to the launcher alone
        )


def child_environment(settings: Settings, *, num_workers: int) -> dict[str, str]:
    """This process's environment with ``settings`` for its own but for SECRETS, and the cores shared among the workers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {PREFIX + name.upper(): str(value) for name, value in settings.model_dump(exclude_none=True, exclude=SECRETS).items()}
    if num_workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_workers)))
    if str(_PACKAGE_ROOT) not in site.getsitepackages():  # run from a checkout
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), environment.get("PYTHONPATH"))))
    return environment


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket for the API.

    Raises:
        LaunchError: The port is taken, or the address isn't this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=MAX_BACKLOG)
    except OSError as error:
        # The error of create_server says the address again, so its number is told; that of a failed look-up isn't the system's.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        remedy = "stop what uses it, or choose others with --host and --port"
        raise LaunchError(f"cannot listen on {host} port {port} ({reason}): {remedy}") from error


def exit_with_parent() -> None:
    """Ends this process at once when its standard input ends, that is, when the launcher is gone."""
    while os.read(sys.stdin.fileno(), 1024):  # unbuffered: a thread inside a buffered read spoils the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # nothing is lost: every state that counts is on the disk
