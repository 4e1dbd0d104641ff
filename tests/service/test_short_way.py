"""The short way and the long way give the same answer, and who is refused is counted once."""

import json
from typing import Any

import httpx2
import pytest
from starlette.datastructures import Headers

from service import prediction_bodies, short_answers, short_way
from service.batcher import Timed
from tests.service.conftest import Server, Trained, problem
from tests.service.test_predictions import ensemble_of, npy

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that took it."""
    found: list[bytes] = []
    decode = prediction_bodies.decode_inputs

    def spied(body: bytes, *args: Any, **kwargs: Any) -> Any:
        found.append(body)
        return decode(body, *args, **kwargs)

    monkeypatch.setattr(short_answers, "decode_inputs", spied)
    return found


def bodies(trained: Trained) -> list[tuple[bytes, dict[str, str]]]:
    rows = trained.x[:3]
    octets = {"Content-Type": "application/octet-stream", "X-Shape": "3,4", "X-Dtype": "float32"}
    return [
        (json.dumps({"inputs": rows.tolist()}).encode(), JSON),
        (rows.tobytes(), octets),
        (npy(rows), {"Content-Type": "application/x-npy"}),
        (npy(rows), {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}),
    ]


@pytest.mark.parametrize("form", range(4), ids=["json", "octets", "npy", "npy to npy"])
def test_both_ways_answer_the_same(api: httpx2.Client, finished_job: str, trained: Trained, taken: list[bytes], form: int) -> None:
    url = f"/v1/ensembles/{ensemble_of(finished_job)}/predict"
    body, headers = bodies(trained)[form]
    short = api.post(url, content=body, headers={**headers, "X-Request-ID": "one"})
    assert taken == [body]
    long = api.post(f"{url}?mode=full", content=body, headers={**headers, "X-Request-ID": "one"})
    assert taken == [body], "with a parameter it is the long way"
    assert short.status_code == long.status_code == 200
    changing = {"date", "content-length"}
    assert {k: v for k, v in short.headers.items() if k not in changing} == {k: v for k, v in long.headers.items() if k not in changing}
    if short.headers["content-type"] == "application/json":
        answers = [{name: value for name, value in each.json().items() if name != "timing_ms"} for each in (short, long)]
        assert answers[0] == answers[1]
        assert short.json()["timing_ms"].keys() == long.json()["timing_ms"].keys()
    else:
        assert short.content == long.content


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"inputs": [[1, 2, 3]]}', JSON, 422, "shape_mismatch"),
        (b'{"inputs": [[1, 2, 3, 4]]', JSON, 400, "malformed_json"),
        (b"\0" * 15, {"Content-Type": "application/octet-stream", "X-Shape": "1,4", "X-Dtype": "float32"}, 422, "validation_error"),
        (b'{"inputs": [[1, 2, 3, 4]]}', {**JSON, "Origin": "http://evil.example"}, 403, "forbidden"),
        (b'{"inputs": [[1, 2, 3, 4]]}', {**JSON, "Host": "evil.example"}, 421, "misdirected"),
    ],
)
def test_what_is_wrong_is_told_by_the_long_way(
    api: httpx2.Client, finished_job: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    problem(api.post(f"/v1/ensembles/{ensemble_of(finished_job)}/predict", content=body, headers=headers), status, code)


def test_predictions_of_the_short_way_are_counted_once(api: httpx2.Client, server: Server, finished_job: str, taken: list[bytes]) -> None:
    def counted() -> dict[str, float]:
        lines = [
            line for line in api.get("/metrics").text.splitlines() if "/predict" in line and line.startswith("snapcycle_requests_total")
        ]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    url = f"/v1/ensembles/{ensemble_of(finished_job)}/predict"
    before = counted()
    assert api.post(url, json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    assert api.post(url, json={"inputs": [[1, 2]]}).status_code == 422
    assert len(taken) == 2
    after = counted()
    name = 'snapcycle_requests_total{method="POST",route="/v1/ensembles/{ensemble_id}/predict",status="%d"}'
    assert [after[name % status] - before.get(name % status, 0.0) for status in (200, 422)] == [1.0, 1.0]


def test_both_ways_infer_the_same(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    rows = trained.x[:3]
    head = json.dumps(
        {
            "id": "seven",
            "inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}],
        }
    ).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head)), "X-Request-ID": "one"}
    url, body = f"/v2/models/{ensemble_of(finished_job)}/infer", head + rows.tobytes()
    answers: list[short_answers.Answered] = []

    def spied(given: Headers) -> short_answers.Begin:
        begin = short_answers.infer(given)

        def begun(*args: Any) -> short_answers.Answering:
            answering = begin(*args)

            def answered(timed: Timed) -> short_answers.Answered:
                answers.append(answering.answered(timed))
                return answers[-1]

            return answering._replace(answered=answered)

        return begun

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(short_way.ROUTES, "/infer", ("/v2/models/", spied))
        short = api.post(url, content=body, headers=headers)
        long = api.post(url, content=body, headers={**headers, "Content-Encoding": "identity"})
    assert [answer.body for answer in answers] == [short.content]
    assert short.content == long.content
    assert {k: v for k, v in short.headers.items() if k != "date"} == {k: v for k, v in long.headers.items() if k != "date"}
    assert short.status_code == 200
