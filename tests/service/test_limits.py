"""Limits on bodies, headers and URLs, before anything is read; request ids."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from service.http_protocol import MAX_HEAD_BYTES
from service.limits import LINGER_SECONDS, MAX_HEADER_BYTES, MAX_URL_BYTES
from tests.service.conftest import Server, problem
from tests.service.raw_answers import Answers

GIB = 1 << 30


def resident_bytes() -> int:
    """Memory of this process, in which the server runs."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def head(path: str, length: int, content_type: str = "application/json") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n".encode()


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/v1/jobs", "application/json"),
        ("/v1/datasets", "multipart/form-data; boundary=x"),
        ("/v1/datasets", "application/json"),
        ("/v1/ensembles/ens_x/predict", "application/octet-stream"),
        ("/nowhere", "text/plain"),
    ],
)
def test_two_gigabyte_body_is_refused_by_its_declared_length(server: Server, path: str, content_type: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(head(path, 2 * GIB, content_type))
        status, headers, body = Answers(connection).next()  # within the socket's five seconds: it doesn't wait for the body
    assert status == 413
    assert headers["connection"] == "close"
    assert b'"code":"too_large"' in body
    assert str(2 * GIB).encode() in body


def test_client_that_sends_two_gigabytes_gets_the_answer_and_costs_no_memory(server: Server) -> None:
    before = resident_bytes()
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        block = b"x" * 65_536
        while sent < 2 * GIB:
            sent += len(block)
            yield block

    begun = time.monotonic()
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        response = client.post(
            "/v1/datasets", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(2 * GIB)}
        )
    document = problem(response, 413, "too_large")
    assert str(2 * GIB) in document["detail"]
    assert document["limit_bytes"] == server.settings.max_upload_bytes + 64 * 1024
    assert time.monotonic() - begun < LINGER_SECONDS + 3
    assert sent < 64 << 20, "most of the body was never taken"
    assert resident_bytes() - before < 50 << 20


def test_chunked_body_is_refused_when_it_passes_the_limit(server: Server) -> None:
    before = resident_bytes()
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        while sent < 256 << 20:
            sent += 65_536
            yield b" " * 65_536

    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        response = client.post("/v1/jobs", content=body(), headers={"Content-Type": "application/json"})
    assert problem(response, 413, "too_large")["limit_bytes"] == server.settings.max_json_bytes
    assert sent < 64 << 20
    assert resident_bytes() - before < 50 << 20


def test_body_at_the_limit_is_read(server: Server, api: httpx2.Client) -> None:
    body = b"{}".ljust(server.settings.max_json_bytes)
    problem(api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 422, "validation_error")
    problem(api.post("/v1/jobs", content=body + b" ", headers={"Content-Type": "application/json"}), 413, "too_large")


def test_expect_100_continue_is_answered_by_the_refusal(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(head("/v1/jobs", 2 * GIB).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert Answers(connection).next()[0] == 413


def test_small_unread_body_leaves_the_connection_open(api: httpx2.Client, server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        answers = Answers(connection)
        for _ in range(2):
            connection.sendall(head("/nowhere", 5) + b"hello")
            assert answers.next()[0] == 404


def test_compressed_body_is_refused(api: httpx2.Client) -> None:
    response = api.post("/v1/jobs", content=b"\x1f\x8b", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
    assert "gzip" in problem(response, 415, "unsupported_media_type")["detail"]


def test_long_url_is_refused(api: httpx2.Client) -> None:
    problem(api.get("/v1/jobs?after=" + "x" * MAX_URL_BYTES), 414, "uri_too_long")


def test_large_headers_are_refused(api: httpx2.Client) -> None:
    problem(api.get("/livez", headers={"X-Filler": "x" * MAX_HEADER_BYTES}), 431, "headers_too_large")


def test_endless_headers_are_cut_off(server: Server) -> None:
    before = resident_bytes()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Filler: ")
        sent = 0
        with suppress(ConnectionError):
            while sent < 256 << 20:
                sent += connection.send(b"x" * 65_536)
    assert sent < MAX_HEAD_BYTES + (16 << 20)  # the rest of it filled the sockets' buffers
    assert resident_bytes() - before < 50 << 20


def test_second_request_of_a_connection_has_its_own_count_of_headers(server: Server) -> None:
    filler = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Filler: " + b"x" * (MAX_HEADER_BYTES - 100) + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        answers = Answers(connection)
        for _ in range(2 * MAX_HEAD_BYTES // MAX_HEADER_BYTES + 1):
            connection.sendall(filler)
            assert answers.next()[0] == 200


def test_request_id_is_echoed(api: httpx2.Client) -> None:
    assert api.get("/livez", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("given", [None, "", "has space", "x" * 129])
def test_request_without_a_usable_id_gets_one(api: httpx2.Client, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    found = api.get("/livez", headers=headers).headers["x-request-id"]
    assert found.startswith("req_")
    assert len(found) == 30


def test_answers_carry_protective_headers(api: httpx2.Client) -> None:
    for path in ("/livez", "/nowhere"):
        headers = api.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]


def test_slow_refused_senders_do_not_hold_up_others(server: Server, api: httpx2.Client) -> None:
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(20)]
    try:
        for connection in connections:
            connection.sendall(head("/v1/jobs", 2 * GIB))
        assert api.get("/livez", timeout=LINGER_SECONDS).status_code == 200
    finally:
        for connection in connections:
            connection.close()
    assert threading.active_count() < 100
