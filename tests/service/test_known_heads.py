"""A head that has come before means what it meant then, and only what it meant."""

import asyncio
import json

import pytest
from starlette.datastructures import Headers

from service.known_heads import MAX_HEADS, KnownHeads
from service.short_answers import PlainHead, PlainRequest
from service.short_way import SHORT_WAY, ShortWay
from tests.service.conftest import Server, Trained
from tests.service.raw_answers import Answers
from tests.service.test_prediction_protocol import connect, json_request, post, probabilities
from tests.service.test_predictions import ensemble_of


@pytest.fixture
def path(finished_job: str) -> str:
    """Where predictions are asked for."""
    return f"/v1/ensembles/{ensemble_of(finished_job)}/predict"


@pytest.fixture
def heads(server: Server, monkeypatch: pytest.MonkeyPatch) -> KnownHeads:
    """The service's, empty."""
    found = KnownHeads()
    protocol_state: ShortWay = server._uvicorn.lifespan.state[SHORT_WAY]
    monkeypatch.setattr(protocol_state, "heads", found)
    return found


@pytest.fixture
def unparsed(heads: KnownHeads, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of requests that went around the parser."""
    bodies: list[bytes] = []
    request_of = heads.request_of

    def spied(data: bytes, loop: asyncio.AbstractEventLoop) -> PlainRequest | None:
        request = request_of(data, loop)
        if request is not None:
            bodies.append(request.body)
        return request

    monkeypatch.setattr(heads, "request_of", spied)
    return bodies


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def test_the_second_request_with_a_head_needs_no_parser(server: Server, path: str, trained: Trained, unparsed: list[bytes]) -> None:
    first, second = (
        post(path, json.dumps({"inputs": [row]}).encode(), "Content-Type: application/json") for row in ([1, 2, 3, 4], [9, 2, 3, 4])
    )
    with connect(server) as connection, connect(server) as other:
        answers, of_other = Answers(connection), Answers(other)
        connection.sendall(first)
        status, headers, body = answers.next()
        assert (status, unparsed) == (200, [])
        connection.sendall(second)
        again = answers.next()
        assert unparsed == [body_of(second)]
        assert again[0] == 200
        assert again[1].keys() == headers.keys()
        assert probabilities(again[2]) != probabilities(body)
        other.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert of_other.next()[0] == 200
        other.sendall(first)
        assert probabilities(of_other.next()[2]) == probabilities(body)
        assert unparsed == [body_of(second), body_of(first)], "on any connection"


def test_what_turns_out_wrong_is_told_by_the_application_and_counted_once(server: Server, path: str, unparsed: list[bytes]) -> None:
    good, wrong = (
        post(path, body, "Content-Type: application/json") for body in (b'{"inputs": [[1, 2, 3, 4]]}', b'{"inputs": [[1, 2, 3,  ]]}')
    )
    assert len(good) == len(wrong)
    with connect(server) as connection:
        answers = Answers(connection)
        for request, status in ((good, 200), (wrong, 400), (good, 200), (wrong, 400)):
            connection.sendall(request)
            assert answers.next()[0] == status
    assert unparsed == [body_of(wrong), body_of(good), body_of(wrong)]


def test_what_comes_while_an_answer_is_computed_is_answered_after_it(
    server: Server, path: str, trained: Trained, unparsed: list[bytes]
) -> None:
    request = json_request(path, trained.x[0])
    livez = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with connect(server) as connection:
        answers = Answers(connection)
        connection.sendall(request)
        expected = probabilities(answers.next()[2])
        for _ in range(3):
            connection.sendall(request)
            connection.sendall(livez)
            connection.sendall(request[:50])
            assert probabilities(answers.next()[2]) == expected
            assert json.loads(answers.next()[2]) == {"status": "alive"}
            connection.sendall(request[50:])
            assert probabilities(answers.next()[2]) == expected
    assert len(unparsed) >= 1


def test_bytes_that_only_look_like_a_request_are_not_taken_for_one(
    server: Server, path: str, heads: KnownHeads, unparsed: list[bytes]
) -> None:
    body = b'{"inputs": [[1, 2, 3, 4]]}'
    inner = post("/v1/ensembles/other/predict", body, "Content-Type: application/json")
    length = len(inner) + len(body)
    with connect(server) as connection:  # a header's value that looks like a request line
        connection.sendall(f"POST {path} HTTP/1.1\r\nX-A: ".encode())
        connection.sendall(inner)
        assert Answers(connection).next()[0] == 200
    with connect(server) as connection:  # a body that looks like a request
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nContent-Type: application/json\r\n\r\n".encode()
        )
        connection.sendall(inner)
        connection.sendall(body)
        assert Answers(connection).next()[0] == 400
    with connect(server) as connection:  # the end of one request and a part of the next in one packet
        last = post(path, bytes(len(inner)), "Content-Type: application/octet-stream", "X-Shape: 1,4", "X-Dtype: uint8")
        connection.sendall(f"POST {path} HTTP/1.1\r\nX-A: ".encode())
        connection.sendall(inner + last[: -len(inner)])
        assert Answers(connection).next()[0] == 200
    assert unparsed == []
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(inner)
            assert Answers(connection).next()[0] == 404
    assert unparsed == [body], "it is what it looks like"
    assert all(known.ensemble_id == head.split(b"/")[3].decode() for head, known in heads._heads.items())


@pytest.mark.parametrize("header", ["Authorization: Bearer sk_x", "X-API-Key: sk_x", "Cookie: a=b", "X-Request-ID: seven"])
def test_heads_with_secrets_or_ids_are_not_kept(server: Server, path: str, trained: Trained, heads: KnownHeads, header: str) -> None:
    with connect(server) as connection:
        connection.sendall(json_request(path, trained.x[0], header))
        assert Answers(connection).next()[0] == 200
    assert heads._heads == {}


def test_no_more_heads_are_kept_than_there_is_room_for() -> None:
    heads = KnownHeads()
    kept: list[int] = []
    head = PlainHead("", "", Headers(), 1, None, begin=lambda *_: pytest.fail("nothing is answered"))
    for number in range(2 * MAX_HEADS + 1):
        heads.note(b"POST /%d\r\n\r\n1" % number, head)
        kept.append(len(heads._heads))
    assert max(kept) == MAX_HEADS
    loop = asyncio.new_event_loop()
    assert heads.request_of(b"POST /%d\r\n\r\n2" % (2 * MAX_HEADS), loop) is not None
    assert heads.request_of(b"POST /%d\r\n\r\n22" % (2 * MAX_HEADS), loop) is None
    assert heads.request_of(b"POST /0\r\n\r\n2", loop) is None
    loop.close()
