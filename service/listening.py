"""The API's address: a listening socket for each of its processes, and which of them get new connections.

The kernel queues a connection at one socket, for good. Several sockets of one address (SO_REUSEPORT) spread connections evenly, where
processes that share a socket race for each: docs/decisions/api-processes.md has the figures.
"""

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from service.children import LaunchError

MAX_BACKLOG = 1024
SO_ATTACH_REUSEPORT_CBPF = 51
"""From Linux' asm-generic/socket.h; Python has no name for it."""

LOAD_RANDOM = (0x20, 0, 0, 0xFFFFF000 + 56)
"""BPF_LD | BPF_W | BPF_ABS of SKF_AD_OFF + SKF_AD_RANDOM (linux/filter.h)."""
MODULO, JUMP_IF_EQUAL, RETURN = 0x94, 0x15, 0x06
"""BPF_ALU | BPF_MOD | BPF_K, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K."""


def listen(host: str, port: int, *, number: int) -> list[socket.socket]:
    """Listening sockets of one address, one for each of ``number`` processes. Elsewhere than on Linux it is one socket, again and again:
    other kernels give all connections to one of several sockets.

    Raises:
        LaunchError: The port is taken, or the address isn't this machine's.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        alone = socket.create_server(found[:2], family=family, backlog=MAX_BACKLOG)
        if number == 1 or sys.platform != "linux":
            return [alone] * number
        address = alone.getsockname()[:2]
        alone.close()  # it has shown that nobody else listens there, whom sockets that share would join
        with ExitStack() as opened:
            sockets = [
                opened.enter_context(socket.create_server(address, family=family, backlog=MAX_BACKLOG, reuse_port=True))
                for _ in range(number)
            ]
            opened.pop_all()
            return sockets
    except OSError as error:
        # The error of create_server says the address again, so its number is told; that of a failed look-up isn't the system's.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        remedy = "stop what uses it, or choose others with --host and --port"
        raise LaunchError(f"cannot listen on {host} port {port} ({reason}): {remedy}") from error


def steer(sockets: Sequence[socket.socket], living: Sequence[int]) -> None:
    """Gives new connections to these sockets alone, by their index in the order of ``listen``, and at random.

    A classic BPF program, which needs no privilege: a random number modulo how many they are, looked up. Elsewhere than on Linux nothing
    changes.

    Raises:
        OSError: The kernel has no such thing.
    """
    if sys.platform != "linux":
        return
    lookup = [step for number, index in enumerate(living) for step in ((JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, index))]
    program = [LOAD_RANDOM, (MODULO, 0, 0, len(living)), *lookup, (RETURN, 0, 0, living[0])]
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    sockets[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(program), ctypes.addressof(steps)))


def url_of(listening: socket.socket) -> str:
    """Where this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (compared, not bound)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
