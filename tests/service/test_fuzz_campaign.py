"""A short form of ``make fuzz``: the campaign against the tests' own server, and that its judge and its spoiler do their work."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx2
import pytest

from benchmarks.fuzzing.campaign import HANG_SECONDS, Target, judge, run_campaign
from benchmarks.fuzzing.client import Answer
from benchmarks.fuzzing.corpus import Corpus, Operation, png_bytes, read_corpus
from benchmarks.fuzzing.mutations import json_bytes, spoiled_bytes, spoiled_document
from benchmarks.fuzzing.requests import Draft, Generator
from service.images import read_image
from service.media import PNG
from service.problem_kinds import PROBLEMS
from tests.service.conftest import TRAINING, Server, Trained, Worker, make_settings, npz_bytes, upload
from worker.valkey_server import ValkeyServer

CODES = {code: kind.status for code, kind in PROBLEMS.items()}
NUM_REQUESTS = 3000
DRAFT = Draft("GET /x", "valid", "GET", "/x")


@pytest.fixture(scope="module")
def target(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service of its own: among what is sent are valid requests for API keys, after which others would be asked for theirs."""
    directory = tmp_path_factory.mktemp("fuzz")
    limits = {"auth": "off", "max_upload_bytes": 4 << 20, "rate_limit": 1e6, "rate_burst": 10**6}
    with ValkeyServer(directory / "valkey") as valkey, Server(make_settings(valkey, directory / "data", **limits)) as server:
        with httpx2.Client(base_url=server.url, trust_env=False) as client:
            dataset_id = upload(client, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
            job_id = client.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}).json()["id"]
        Worker(server, trained).run(job_id)
        yield server


@pytest.fixture
def corpus(target: Server) -> Corpus:
    return read_corpus(target.url)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_spoiled_request_breaks_the_service(target: Server, corpus: Corpus, tmp_path: Path, seed: int) -> None:
    service = Target("127.0.0.1", target.port, os.getpid(), CODES)
    figures = run_campaign(service, corpus, seed=seed, num_requests=NUM_REQUESTS, connections=4, failures=tmp_path)
    assert figures.violations == []
    assert figures.requests == NUM_REQUESTS
    assert sum(figures.statuses.values()) == NUM_REQUESTS
    assert figures.statuses[200] > NUM_REQUESTS / 30, "some requests were right"
    assert {400, 404, 405, 415, 422} <= figures.statuses.keys()
    assert figures.operations.keys() >= {operation.name for operation in corpus.operations}
    assert httpx2.get(f"{target.url}/readyz", trust_env=False).status_code == 200


def test_every_operation_of_the_api_is_drawn(corpus: Corpus, target: Server) -> None:
    paths = httpx2.get(f"{target.url}/openapi.json", trust_env=False).json()["paths"]
    expected = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {operation.name for operation in corpus.operations} == expected
    assert all(operation.examples != ({},) for operation in corpus.operations if operation.template == "/v1/jobs" and operation.body_types)


def test_the_same_seed_draws_the_same_requests() -> None:
    operation = Operation("POST", "/v1/jobs", ("dry_run",), (), ("application/json", "multipart/form-data"), ({"a": [1, {"b": "c"}]},))
    first, second, other = (Generator(Corpus((operation,), {}), seed) for seed in (3, 3, 4))
    drafts = [next(first) for _ in range(300)]
    assert [next(second) for _ in range(300)] == drafts
    assert [next(other) for _ in range(300)] != drafts


@pytest.mark.parametrize(
    ("status", "content_type", "body", "seconds", "why"),
    [
        (200, "application/json", b"{}", 0.1, None),
        (200, "application/json", b"{}", HANG_SECONDS + 1, "took 6.0 s"),
        (500, "application/problem+json", b'{"code":"internal"}', 0.1, "status 500, internal"),
        (503, "application/problem+json", b'{"code":"backend_unavailable"}', 0.1, "status 503"),
        (503, "application/problem+json", b'{"code":"overloaded"}', 0.1, None),
        (404, "application/problem+json", b'{"code":"not_found"}', 0.1, None),
        (404, "application/problem+json", b'{"code":"validation_error"}', 0.1, "status 404 with the code validation_error"),
        (404, "text/html", b"<html>", 0.1, "status 404 as text/html"),
        (400, "text/plain; charset=utf-8", b"Invalid HTTP request received.", 0.1, None),
        (0, "", b"", 0.1, "without an answer"),
    ],
)
def test_answers_are_judged(status: int, content_type: str, body: bytes, seconds: float, why: str | None) -> None:
    found = judge(DRAFT, Answer(status, {"content-type": content_type}, body, seconds), CODES)
    assert (found is None) == (why is None)
    assert why is None or why in str(found)


def test_spoiling_changes_nearly_every_document_and_every_byte_string() -> None:
    random, document = Random(0), {"a": [1, 2, {"b": "c"}], "d": {"e": None}}
    spoiled = [json_bytes(spoiled_document(document, random)) for _ in range(200)]
    assert sum(text != json_bytes(document) for text in spoiled) > 170
    assert document == {"a": [1, 2, {"b": "c"}], "d": {"e": None}}, "the original stays"
    assert len({spoiled_bytes(b"0123456789" * 5, random) for _ in range(200)}) > 150


def test_pictures_of_the_corpus_are_readable() -> None:
    assert read_image(png_bytes(5, 6), PNG, (6, 5)).shape == (1, 6, 5)
    assert read_image(png_bytes(5, 6, grey=False), PNG, (6, 5, 3)).shape == (1, 6, 5, 3)
