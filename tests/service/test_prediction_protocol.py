"""Predictions that never become a task keep every promise of HTTP: order, framing, closing, and nothing of a request lost."""

import gc
import json
import socket
import time
import weakref
from asyncio import BaseTransport
from typing import Any, cast

import httpx2
import numpy as np
import pytest

from service.batcher import Batcher
from service.prediction_protocol import PredictionHttpProtocol, _Unparsed
from service.short_way import ShortWay
from tests.service.conftest import Server, Trained, wait_until
from tests.service.raw_answers import Answers
from tests.service.test_predictions import ensemble_of


@pytest.fixture
def path(finished_job: str) -> str:
    """Where predictions are asked for."""
    return f"/v1/ensembles/{ensemble_of(finished_job)}/predict"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the bodies that took the short way."""
    sizes: list[int] = []
    answer = ShortWay.answer

    def spied(self: ShortWay, request: object, tell: object) -> None:
        sizes.append(len(request.body))  # type: ignore[attr-defined]  # a PlainRequest
        answer(self, request, tell)  # type: ignore[arg-type]  # as above

    monkeypatch.setattr(ShortWay, "answer", spied)
    return sizes


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = (f"POST {path} HTTP/{version}", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def json_request(path: str, row: np.ndarray[Any, Any], *headers: str) -> bytes:
    return post(path, json.dumps({"inputs": [row.tolist()]}).encode(), "Content-Type: application/json", *headers)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def probabilities(body: bytes) -> list[float]:
    return list(json.loads(body)["predictions"][0]["probabilities"])


def test_requests_in_one_packet_are_answered_in_order(
    server: Server, api: httpx2.Client, path: str, trained: Trained, taken: list[int]
) -> None:
    rows = trained.x[:5]
    expected = [probabilities(api.post(f"{path}?mode=full", json={"inputs": [row.tolist()]}).content) for row in rows]
    with connect(server) as connection:
        connection.sendall(b"".join(json_request(path, row) for row in rows))
        answers = Answers(connection)
        found = [answers.next() for _ in rows]
    assert [status for status, _, _ in found] == [200] * len(rows)
    np.testing.assert_allclose([probabilities(body) for _, _, body in found], expected, atol=1e-6)
    assert len(taken) == len(rows), "also those that waited for an earlier answer"


def test_plain_and_other_requests_alternate_on_one_connection(server: Server, path: str, trained: Trained, taken: list[int]) -> None:
    other = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    plain = json_request(path, trained.x[0])
    wrong = post(path, b'{"inputs": [[1]]}', "Content-Type: application/json")
    with connect(server) as connection:
        connection.sendall(other + plain + wrong + other + plain + other)
        answers = Answers(connection)
        assert [answers.next()[0] for _ in range(6)] == [200, 200, 422, 200, 200, 200]
    assert len(taken) == 3


def test_a_body_in_pieces_and_beyond_the_buffer_is_read_to_its_end(server: Server, path: str, taken: list[int]) -> None:
    rows = np.zeros((900, 4), np.float64)  # 28,800 bytes
    request = post(path, rows.tobytes(), "Content-Type: application/octet-stream", "X-Shape: 900,4", "X-Dtype: float64")
    large = post(path, bytes(4096 * 4 * 8), "Content-Type: application/octet-stream", "X-Shape: 4096,4", "X-Dtype: float64")
    with connect(server) as connection:
        answers = Answers(connection)
        for start in range(0, len(request), 5000):
            connection.sendall(request[start : start + 5000])
            time.sleep(0.002)  # so that they come one by one
        status, _, body = answers.next()
        assert status == 200, body
        assert len(json.loads(body)["predictions"]) == 900
        connection.sendall(large)
        status, _, body = answers.next()
        assert (status, json.loads(body)["code"]) == (413, "too_large"), "more rows than this service takes, but read as a whole"
    assert taken == [28_800], "what is large is read by the application"


def test_the_connection_ends_when_the_client_asks_for_it(server: Server, path: str, trained: Trained, taken: list[int]) -> None:
    body = json.dumps({"inputs": [trained.x[0].tolist()]}).encode()
    for request in (
        json_request(path, trained.x[0], "Connection: close"),
        post(path, body, "Content-Type: application/json", version="1.0"),
    ):
        with connect(server) as connection:
            connection.sendall(request)
            answers = Answers(connection)
            status, headers, _ = answers.next()
            assert (status, headers["connection"]) == (200, "close")
            assert answers.is_over()
    assert len(taken) == 2


def test_a_client_that_leaves_gives_its_place_back(server: Server, path: str, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []
    submit = Batcher.submit

    def spied(self: Batcher, *args: Any, **kwargs: Any) -> None:
        submitted.append(1)
        submit(self, *args, **kwargs)

    monkeypatch.setattr(Batcher, "submit", spied)
    with connect(server) as connection:
        connection.sendall(json_request(path, trained.x[0])[:-5])
    with connect(server) as connection:
        connection.sendall(json_request(path, trained.x[0]))
    wait_until(lambda: len(submitted) == 1 and server.services.predictor._under_way == 0)
    with connect(server) as connection:
        connection.sendall(json_request(path, trained.x[0]))
        assert Answers(connection).next()[0] == 200


def test_an_idle_connection_is_closed_after_the_keep_alive(
    server: Server, path: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._uvicorn.config, "timeout_keep_alive", 1.0)
    with connect(server) as connection:
        answers = Answers(connection)
        for _ in range(3):
            began = time.monotonic()
            connection.sendall(json_request(path, trained.x[0]))
            assert answers.next()[0] == 200
        assert answers.is_over()  # within the socket's ten seconds
        assert time.monotonic() - began > 0.9


def test_the_time_for_the_next_head_goes_on_after_an_answer(server: Server, path: str, trained: Trained) -> None:
    with Server(server.settings.model_copy(update={"head_seconds": 0.4})) as impatient, connect(impatient) as connection:
        connection.sendall(json_request(path, trained.x[0]) + b"GET /livez HT")
        answers = Answers(connection)
        assert answers.next()[0] == 200
        assert answers.next()[0] == 408


def test_an_answered_connection_keeps_nothing(server: Server, path: str, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[PredictionHttpProtocol]] = []
    connection_made = PredictionHttpProtocol.connection_made

    def noted(self: PredictionHttpProtocol, transport: BaseTransport) -> None:
        made.append(weakref.ref(self))
        connection_made(self, transport)

    monkeypatch.setattr(PredictionHttpProtocol, "connection_made", noted)
    gc.collect()
    gc.disable()
    try:
        with connect(server) as connection:
            answers = Answers(connection)
            connection.sendall(json_request(path, trained.x[0]))
            assert answers.next()[0] == 200
            protocol = made[0]()
            assert protocol is not None
            assert protocol.cycle.body == b""
            assert protocol._plain is None
            connection.sendall(json_request(path, trained.x[0]))  # its head is known
            assert answers.next()[0] == 200
            assert cast(_Unparsed, protocol.cycle).request.body == b""
            del protocol
        wait_until(lambda: made[0]() is None)  # by counting references alone
    finally:
        gc.enable()


def test_a_client_that_reads_nothing_is_not_written_to_without_end(server: Server, path: str, trained: Trained, taken: list[int]) -> None:
    requests = 20_000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it is told to the server
        connection.connect(("127.0.0.1", server.port))
        message, sent = json_request(path, trained.x[0]) * requests, 0
        connection.settimeout(1.0)
        try:
            while sent < len(message):
                sent += connection.send(message[sent : sent + 65_536])
        except TimeoutError:
            pass
        before = -1
        while before < len(taken):  # until the server waits
            before = len(taken)
            time.sleep(0.5)
        assert 50 < len(taken) < requests
        connection.settimeout(10)
        answers = Answers(connection)
        assert [answers.next()[0] for _ in range(50)] == [200] * 50
