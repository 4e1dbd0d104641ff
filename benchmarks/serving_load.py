"""The load: connections that each send the next request when they have the last answer. One process, epoll, no parser in the way.

Its own limit is what it measures against the null server (``benchmarks.peers.null_server``): every other figure has to stay below.
"""

import gc
import select
import socket
import statistics
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.served_model import FiveMembers
from benchmarks.serving_payloads import Request, probabilities, requests

READ_BYTES = 1 << 16
DRAIN_SECONDS = 10.0
_rows: dict[str, Any] = {}


def read(directory: str) -> None:
    """Reads the test rows, and what the members say about them."""
    five = FiveMembers(Path(directory))
    images = np.load(Path(directory) / "rows.npy", allow_pickle=False)
    noisy = images + np.random.default_rng(0).random(images.shape)
    _rows.update(bytes=images, floats=noisy, probs={"floats": five(noisy), "bytes": five(images)})


def probe(server: str, payload: str, port: int, target: str, rows: int) -> float:
    """The largest difference of a probability from the loop over the members, over the first rows.

    Raises:
        ValueError: An answer with another status than 200.
    """
    expected = _rows["probs"]["floats" if payload == "json floats" else "bytes"]
    worst = 0.0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for number, request in enumerate(_requests(server, payload, target, rows)):
            status, body = _exchange(connection, request)
            if status != 200:
                raise ValueError(f"{server} answered {payload} with {status}: {body[:300]!r}")
            worst = max(worst, float(np.abs(probabilities(server, payload, body) - expected[number]).max()))
    return worst


def run(
    server: str, payload: str, port: int, target: str, *, connections: int, seconds: float, warm_seconds: float, rows: int
) -> dict[str, Any]:
    """Requests per second, and milliseconds at the median and the 99th percentile, of the answers with status 200."""
    messages = [request.message for request in _requests(server, payload, target, rows)]
    _closed_loop(port, messages, connections, warm_seconds)
    gc.collect()
    gc.disable()
    try:
        taken, refused, elapsed = _closed_loop(port, messages, connections, seconds)
    finally:
        gc.enable()
    if not taken:
        return {"requests_per_second": None, "p50": None, "p99": None, "refused": refused}
    taken.sort()
    return {
        "requests_per_second": len(taken) / elapsed,
        "p50": 1000 * statistics.median(taken),
        "p99": 1000 * taken[min(len(taken) - 1, round(0.99 * len(taken)))],
        "refused": refused,
    }


def _requests(server: str, payload: str, target: str, rows: int) -> list[Request]:
    images = _rows["floats" if payload == "json floats" else "bytes"][:rows]
    return [requests(server, payload, image, target) for image in images]


def _closed_loop(port: int, messages: list[bytes], connections: int, seconds: float) -> tuple[list[float], int, float]:
    """Seconds of each answer with status 200, the number of others, and how long it all took."""
    poll, following = select.epoll(), cycle(messages)
    sockets: dict[int, socket.socket] = {}
    began_at: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    taken: list[float] = []
    refused = 0
    clock = time.perf_counter
    try:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[connection.fileno()] = connection
            poll.register(connection.fileno(), select.EPOLLIN)
        began = now = clock()
        end, given_up = began + seconds, began + seconds + DRAIN_SECONDS
        for number, connection in sockets.items():
            began_at[number] = clock()
            connection.sendall(next(following))
        while began_at and now < given_up:
            for number, _ in poll.poll(1.0):
                connection = sockets[number]
                data = connection.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("the server closed a connection")
                if number in parts:
                    data = parts.pop(number) + data
                if not is_complete(data):
                    parts[number] = data
                    continue
                now = clock()
                sent_at = began_at.pop(number)
                if now >= end:
                    continue  # the last answers are only waited for, so that the server has nothing left to do
                if data[9:12] == b"200":
                    taken.append(now - sent_at)
                else:
                    refused += 1
                began_at[number] = now
                connection.sendall(next(following))
            now = clock()
        return taken, refused, seconds
    finally:
        poll.close()
        for connection in sockets.values():
            connection.close()


def is_complete(data: bytes) -> bool:
    """Whether an answer has arrived as a whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    start = head.find(b"content-length:")
    if start < 0:
        return data.endswith(b"\r\n0\r\n\r\n")  # chunked
    line_end = head.find(b"\r", start)
    length = int(head[start + 15 : line_end if line_end > 0 else end])
    return len(data) >= end + 4 + length


def _exchange(connection: socket.socket, request: Request) -> tuple[int, bytes]:
    connection.sendall(request.message)
    data = b""
    while not is_complete(data):
        part = connection.recv(READ_BYTES)
        if not part:
            raise ConnectionError(f"the server closed the connection after {data[:200]!r}")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined_chunks(body)
    return int(head[9:12]), body


def _joined_chunks(body: bytes) -> bytes:
    joined = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        joined, body = joined + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return joined
