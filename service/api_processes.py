"""The API's processes behind one address, each watched and started again by itself.

The launcher holds their listening sockets, so a restart loses no connection: what has come to a socket waits there for the next process.
Where there are several, those that are up get what comes meanwhile, and /metrics has the sums of all, also of the dead.
"""

import fcntl
import http.client
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import IO, Self

from service.children import Child, child_environment, end_all, keep_running, spawn, wait_until
from service.listening import listen, steer, url_of
from worker.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own variable, which it reads when it is imported: the directory where processes count together, empty at first. Files
of a process that has died stay there, so no count goes back."""


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (its directory there is private)


class ApiProcesses:
    """``settings.api_processes`` processes; use it as a context manager, and call ``watch`` now and then.

    Args:
        settings: With a server.
        num_workers: Workers that the same launcher starts.
        log: Where the processes write; None: this process's stderr.

    Raises:
        LaunchError: The address cannot be used, or a process doesn't start.
    """

    def __init__(self, settings: Settings, *, num_workers: int = 0, log: IO[bytes] | None = None) -> None:
        number = settings.api_processes
        self._settings = settings
        self._log = log
        self._sockets = listen(settings.host, settings.port, number=number)
        self._exits = ExitStack()
        for each in self._sockets:
            self._exits.callback(each.close)
        self._directory = _private_directory(self._exits)
        pepper = settings.key_pepper
        secrets = {f"{PREFIX}KEY_PEPPER": pepper.get_secret_value()} if pepper else {}
        self._environment: Mapping[str, str] = child_environment(settings, num_workers=num_workers) | secrets
        if number > 1:
            self._environment = {SHARED_COUNTS: str(self._directory), **self._environment}
        self.children = [Child("api" if number == 1 else f"api {index + 1}", partial(self._spawn, index)) for index in range(number)]
        self._steered = list(range(number))

    @property
    def url(self) -> str:
        """Where the API answers."""
        return url_of(self._sockets[0])

    def __enter__(self) -> Self:
        try:
            self.launch()
            wait_until(self.are_up, self.children)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def launch(self) -> None:
        """Starts all processes."""
        for child in self.children:
            child.launch()

    def watch(self) -> None:
        """Starts again what has died, and gives new connections to those that are up."""
        living = [index for index in range(len(self.children)) if self._is_up(index)]
        if living and living != self._steered:  # with none up, those that come wait for one
            with suppress(OSError):  # without it, who comes to a process that starts waits for it
                steer(self._sockets, living)
            self._steered = living
        keep_running(self.children, self._settings)

    def stop(self) -> None:
        """Ends them: what is being answered is finished."""
        try:
            end_all(self.children, seconds=STOP_SECONDS)
        finally:
            end_all(self.children, seconds=0)
            self._exits.close()

    def are_up(self) -> bool:
        """Whether every process takes connections."""
        return all(map(self._is_up, range(len(self.children))))

    def answers_ready(self) -> bool:
        """Whether ``/readyz`` says 200, asked of one that is up, whichever; a connection made too early waits in a socket's queue."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=1)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _is_up(self, index: int) -> bool:
        process = self.children[index].process
        return process is not None and process.poll() is None and self._sign(index).exists()

    def _sign(self, index: int) -> Path:
        """The file that a process makes when it takes connections."""
        return self._directory / f"up-{index}"

    def _spawn(self, index: int) -> Popen[bytes]:
        self._sign(index).unlink(missing_ok=True)
        fd = self._sockets[index].fileno()
        arguments = ("api", "--socket-fd", str(fd), "--sign", str(self._sign(index)))
        return spawn(*arguments, environment=self._environment, log=self._log, pass_fds=(fd,))


def _private_directory(exits: ExitStack) -> Path:
    """An empty directory until ``exits`` closes. Its lock tells who tidies up /tmp (systemd-tmpfiles) that even old files are in use.

    In memory where there is such a place: a process dies of SIGBUS where it counts into a mapped file that a full disk has no room for.
    """
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="snapcycle-api-", dir=place)))
    descriptor = os.open(directory, os.O_RDONLY)
    exits.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return directory
