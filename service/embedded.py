"""Everything on one machine: the server, the workers and the API as processes that start, live and end together."""

import logging
import time
from functools import partial
from types import TracebackType
from typing import IO, Self

from service.api_processes import ApiProcesses
from service.children import Child, LaunchError, child_environment, end_all, keep_running, spawn, wait_until
from worker.ids import new_word
from worker.settings import Settings
from worker.valkey_server import ServerError, ValkeyServer

logger = logging.getLogger(__name__)


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
        self.api = ApiProcesses(self.settings, num_workers=num_workers, log=log)
        environment = child_environment(self.settings, num_workers=num_workers)
        self.workers = []
        for number in range(1, num_workers + 1):
            word = new_word()
            start = partial(spawn, "worker", "--word", word, environment=environment, log=log)
            self.workers.append(Child(f"worker {number}", start, word=word))
        self._server_retry_at = 0.0

    @property
    def url(self) -> str:
        """Where the API answers."""
        return self.api.url

    def __enter__(self) -> Self:
        try:
            if self.server is not None:
                self.server.start()
            self.api.launch()
            for worker in self.workers:
                worker.launch()
            wait_until(lambda: self.api.are_up() and self.answers_ready(), (*self.api.children, *self.workers))
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
        self.api.watch()
        keep_running(self.workers, self.settings)

    def stop(self) -> None:
        """Ends everything in order: workers give their jobs back, then the API, then the server."""
        try:
            end_all(self.workers, seconds=self.settings.drain_seconds + 5)
            self.api.stop()
        finally:  # also where a second Ctrl-C interrupts the wait
            end_all((*self.workers, *self.api.children), seconds=0)
            self.api.stop()
            if self.server is not None:
                self.server.stop()

    def answers_ready(self) -> bool:
        """Whether ``/readyz`` says 200."""
        return self.api.answers_ready()

    def _watch_server(self) -> None:
        if self.server is None or time.monotonic() < self._server_retry_at:
            return
        try:
            if self.server.ensure_running():
                logger.warning("the embedded server had ended and runs again")
        except ServerError as error:
            logger.error("%s", error)  # noqa: TRY400  (it says why; a trace would hide it)
            self._server_retry_at = time.monotonic() + 5
