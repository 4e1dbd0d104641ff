"""One API process."""

import os
import socket
from pathlib import Path

import uvicorn

from worker.settings import Settings


class _Server(uvicorn.Server):
    """Makes a file when it takes connections."""

    def __init__(self, config: uvicorn.Config, sign: Path | None) -> None:
        super().__init__(config)
        self._sign = sign

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._sign is not None:
            self._sign.touch()


def serve(settings: Settings, *, socket_fd: int | None, sign: Path | None) -> None:
    """Answers until it is told to stop.

    Args:
        settings: With a server.
        socket_fd: A listening socket; None: it opens its own.
        sign: The file to make when connections are taken.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded; the reason is in worker.trainer_process
    from service.allocator import bound_freed_memory
    from service.app import create_app
    from service.http_protocol import IDLE_SECONDS
    from service.prediction_protocol import http_protocol

    bound_freed_memory()
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=http_protocol(settings),
        log_config=None,
        access_log=settings.log_level == "DEBUG",
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=3,  # open event streams are cut; their readers resume by id
    )
    _Server(config, sign).run(sockets=None if socket_fd is None else [socket.socket(fileno=socket_fd)])
