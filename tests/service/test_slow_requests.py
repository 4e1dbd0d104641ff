"""Requests that never end: their connections are closed, and others don't notice them."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest

from tests.service.conftest import Server, make_settings
from tests.service.raw_answers import Answers
from worker.valkey_server import ValkeyServer

HEAD_SECONDS, STALL_SECONDS = 1.0, 1.0


@pytest.fixture(scope="module")
def bounded(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that has little patience."""
    limits = {"head_seconds": HEAD_SECONDS, "body_stall_seconds": STALL_SECONDS, "min_body_bytes": 100, "max_connections": 60}
    with Server(make_settings(valkey, tmp_path_factory.mktemp("bounded"), **limits)) as running:
        yield running


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("begun", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_a_head_that_does_not_end_is_answered_and_closed(bounded: Server, begun: bytes) -> None:
    began = time.monotonic()
    with connect(bounded) as connection:
        connection.sendall(begun)
        received = read_all(connection)
    assert HEAD_SECONDS <= time.monotonic() - began < HEAD_SECONDS + 2
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in received
    assert b"x-content-type-options: nosniff" in received.lower()


def test_a_head_byte_by_byte_is_cut_off(bounded: Server) -> None:
    with connect(bounded) as connection:
        connection.settimeout(HEAD_SECONDS / 8)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        began = time.monotonic()
        received = b""
        while not received and time.monotonic() - began < 5:
            connection.sendall(b"G")
            try:
                received = connection.recv(65_536)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < HEAD_SECONDS + 2


def test_the_second_request_of_a_connection_has_its_own_time(bounded: Server) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(bounded) as connection:
        answers = Answers(connection)
        began = time.monotonic()
        while time.monotonic() - began < 2 * HEAD_SECONDS:  # a busy connection may be old
            connection.sendall(request)
            assert answers.next()[0] == 200
        connection.sendall(b"GET")
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"


def test_a_body_that_stalls_is_cut_off(bounded: Server) -> None:
    began = time.monotonic()
    with connect(bounded) as connection:
        connection.sendall(HEAD + b"{" + b" " * 500)
        read_all(connection)
    assert time.monotonic() - began < 2 * STALL_SECONDS + 2


def test_a_body_that_goes_on_slowly_is_awaited(bounded: Server) -> None:
    body = b" " * 20_000 + b"{}"
    with connect(bounded) as connection:
        connection.sendall(HEAD.replace(b"100000", str(len(body)).encode()))
        began = time.monotonic()
        for index in range(0, len(body), 2000):
            connection.sendall(body[index : index + 2000])
            connection.settimeout(STALL_SECONDS / 4)
            try:
                received = connection.recv(65_536)
            except TimeoutError:
                received = b""
        connection.settimeout(5)
        status, _, answer = Answers(connection, received).next()
        assert time.monotonic() - began > 2 * STALL_SECONDS
    assert status == 422, answer


def test_many_slow_connections_leave_the_others_theirs(bounded: Server) -> None:
    with ExitStack() as stack, httpx2.Client(base_url=bounded.url, trust_env=False) as api:
        assert api.get("/livez").status_code == 200
        slow = [stack.enter_context(connect(bounded)) for _ in range(50)]
        for connection in slow:
            connection.sendall(b"GET /")
        assert [api.get("/livez").status_code for _ in range(20)] == [200] * 20
        assert {read_all(connection)[:12] for connection in slow} == {b"HTTP/1.1 408"}


def test_one_connection_too_many_is_told_so(bounded: Server) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(bounded)) for _ in range(70)]
        answers = [read_all(connection) for connection in opened]
        assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) >= 10
        refused = next(answer for answer in answers if answer.startswith(b"HTTP/1.1 503"))
        assert b'"code":"overloaded"' in refused
        assert b"retry-after: 1" in refused.lower()
    assert httpx2.get(f"{bounded.url}/livez", trust_env=False).status_code == 200
