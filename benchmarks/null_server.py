"""A server that answers at once, in a process of its own: what remains of a request's time there is the cost of measuring it."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

KINDS = ("submit", "list", "poll")


class NullProtocol(asyncio.Protocol):
    """Answers each request with as many bytes as the real server would.

    Args:
        answers: The whole answer to each kind of request.
    """

    def __init__(self, answers: dict[str, bytes]) -> None:
        self._answers = answers
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notes where answers go."""
        assert isinstance(transport, asyncio.Transport), "a TCP server has no others"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers where a request is complete; clients send the next one after its answer."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return
        kind = "submit" if head.startswith(b"POST") else "list" if head.startswith(b"GET /v1/jobs?") else "poll"
        self._received = b""
        assert self._transport is not None
        self._transport.write(self._answers[kind])


@contextmanager
def null_server(answer_bytes: dict[str, int]) -> Iterator[str]:
    """The URL of a server whose answers have these sizes."""
    command = [sys.executable, "-m", "benchmarks.null_server", *(str(answer_bytes[kind]) for kind in KINDS)]
    with Popen(command, stdout=PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


async def serve(answer_bytes: dict[str, int]) -> None:
    """Prints the port, and answers until the process is ended."""
    answers = {kind: b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b" " * size for kind, size in answer_bytes.items()}
    server = await asyncio.get_running_loop().create_server(lambda: NullProtocol(answers), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for each in KINDS:
        parser.add_argument(each, type=int, help="bytes of its answer")
    asyncio.run(serve(vars(parser.parse_args())))
