"""The client against answers that are made up here: what it sends, when it tries again, how it goes on after a broken stream."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from service import client_core, client_events
from service.client import ApiError, AsyncClient, Client, JobFailedError, UnreachableError
from service.client_core import Json

URL = "http://service.test"
Answer = Callable[[httpx2.Request], httpx2.Response]


def job_document(status: str = "running", **fields: object) -> Json:
    return {"id": "job_1", "status": status, "ensemble_id": "ens_1", "error": None, **fields}


def client_of(answer: Answer, *, max_retries: int = 4) -> Client:
    return Client(URL, transport=httpx2.MockTransport(answer), max_retries=max_retries)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr("time.sleep", asked.append)
    return asked


def stream(*events: Json) -> bytes:
    return b"".join(f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def event(seq: int, kind: str = "progress") -> Json:
    return {"seq": seq, "type": kind, "at": "2026-01-01T00:00:00.000Z"}


def event_stream(content: bytes) -> httpx2.Response:
    return httpx2.Response(200, content=content, headers={"Content-Type": "text/event-stream"})


def test_train_lifts_the_fields_of_model_and_schedule() -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(202, json=job_document("queued"))

    job = client_of(answer).jobs.train({"id": "ds_1"}, architecture="mlp", params={"hidden": [8]}, cycles=3, max_lr=0.2, seed=1)
    assert job.status == "queued"
    assert json.loads(sent[0].content) == {
        "kind": "train",
        "dataset_id": "ds_1",
        "seed": 1,
        "model": {"architecture": "mlp", "params": {"hidden": [8]}},
        "schedule": {"type": "warm_restarts", "cycles": 3, "max_lr": 0.2},
    }


def test_train_refuses_a_schedule_beside_its_fields() -> None:
    with pytest.raises(ValueError, match="schedule and cycles were both given"):
        client_of(lambda _: httpx2.Response(500)).jobs.train("ds_1", schedule={"type": "cosine"}, cycles=3)


def test_every_try_of_a_post_carries_the_same_key(pauses: list[float]) -> None:
    keys: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx2.ReadError("the connection broke", request=request)
        if len(keys) == 2:
            return httpx2.Response(503, headers={"Retry-After": "2"}, json={})
        return httpx2.Response(202, json=job_document())

    client_of(answer).jobs.train("ds_1")
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert pauses[0] <= 0.1
    assert pauses[1] == 2.0, "Retry-After is honoured"


def test_two_posts_carry_different_keys() -> None:
    keys: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["Idempotency-Key"])
        return httpx2.Response(202, json=job_document())

    with client_of(answer) as client:
        client.jobs.train("ds_1")
        client.jobs.train("ds_1")
    assert len(set(keys)) == 2


def test_a_delete_is_not_sent_again_after_a_lost_answer() -> None:
    tries: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        tries.append(request.method)
        raise httpx2.ReadError("the connection broke", request=request)

    with pytest.raises(UnreachableError):
        client_of(answer).datasets.delete("ds_1")
    assert tries == ["DELETE"]


def test_a_service_that_is_away_is_named_with_the_remedy(pauses: list[float]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused", request=request)

    with pytest.raises(UnreachableError, match=r"no answer from http://service\.test .*snapcycle up"):
        client_of(answer, max_retries=2).capabilities()
    assert len(pauses) == 2


def test_a_refusal_lists_every_wrong_field_with_its_remedy() -> None:
    problem = {
        "code": "validation_error",
        "detail": "2 fields are wrong",
        "errors": [
            {"pointer": "#/schedule/max_lr", "detail": "must be > 0, got -1", "hint": "take 0.1"},
            {"pointer": "#/model/architecture", "detail": "unknown: 'resnet17'", "did_you_mean": ["resnet"]},
        ],
    }
    with pytest.raises(ApiError) as caught:
        client_of(lambda _: httpx2.Response(422, json=problem)).jobs.train("ds_1")
    assert (caught.value.status, caught.value.code) == (422, "validation_error")
    assert str(caught.value).splitlines() == [
        "2 fields are wrong",
        "  #/schedule/max_lr: must be > 0, got -1",
        "    hint: take 0.1",
        "  #/model/architecture: unknown: 'resnet17'",
        "    did you mean resnet?",
    ]


def test_an_answer_that_is_no_problem_document_is_still_an_api_error() -> None:
    with pytest.raises(ApiError, match="HTTP status 502"):
        client_of(lambda _: httpx2.Response(502, text="<html>bad gateway</html>")).queue()


def test_an_upload_sends_the_file_and_only_the_fields_that_are_given(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    path.write_text("a,species\n1,x\n")
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.read())
        return httpx2.Response(503 if len(bodies) == 1 else 201, json={"id": "ds_1"})

    assert client_of(answer).datasets.upload(path, target="species") == {"id": "ds_1"}
    for body in bodies:  # the second try reads the file again
        assert b'filename="iris.csv"' in body
        assert b"a,species\n1,x\n" in body
        assert b'name="target"' in body
        assert b'name="task"' not in body


def test_arrays_travel_as_an_npz_without_pickle() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.read())
        return httpx2.Response(201, json={"id": "ds_1"})

    x, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 0])
    client_of(answer).datasets.upload_arrays(x, y, x_test=x[:1], y_test=y[:1])
    archive = bodies[0][bodies[0].index(b"PK\x03\x04") :]
    with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
        assert sorted(arrays) == ["x", "x_test", "y", "y_test"]
        np.testing.assert_array_equal(arrays["x"], x)


def test_a_prediction_is_npy_both_ways() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["Content-Type"] == request.headers["Accept"] == "application/x-npy"
        rows = np.load(io.BytesIO(request.read()), allow_pickle=False)
        file = io.BytesIO()
        np.save(file, np.full((len(rows), 2), 0.5, np.float32))
        return httpx2.Response(200, content=file.getvalue())

    probabilities = client_of(answer).ensembles.get("ens_1").predict(np.zeros((3, 4), np.float32), version=2)
    np.testing.assert_array_equal(probabilities, np.full((3, 2), 0.5, np.float32))


def test_rows_of_a_table_travel_as_json() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert json.loads(request.content) == {"instances": [{"width": 1.5, "colour": "red"}]}
        assert request.url.params["top_k"] == "2"
        return httpx2.Response(200, json={"predictions": []})

    assert client_of(answer).ensembles.get("ens_1").explain([{"width": 1.5, "colour": "red"}], top_k=2) == {"predictions": []}


def test_a_list_is_read_page_after_page() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        after = request.url.params.get("after")
        first = {"data": [{"id": "job_3"}, {"id": "job_2"}], "has_more": True, "last_id": "job_2"}
        last = {"data": [{"id": "job_1"}], "has_more": False, "last_id": "job_1"}
        assert request.url.params["status"] == "running"
        return httpx2.Response(200, json=last if after == "job_2" else first)

    assert [job["id"] for job in client_of(answer).jobs.list(status="running")] == ["job_3", "job_2", "job_1"]


class BrokenStream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Sends some bytes, then the connection breaks."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise httpx2.ReadError("the connection broke")


def test_a_broken_stream_goes_on_after_the_last_event() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/jobs/job_1"):
            return httpx2.Response(200, json=job_document())
        asked.append(request.headers["Last-Event-ID"])
        if len(asked) == 1:
            return httpx2.Response(200, stream=BrokenStream(stream(event(1), event(2))), headers={"Content-Type": "text/event-stream"})
        return event_stream(stream(event(2), event(3), event(4, "end")))

    assert [one["seq"] for one in client_of(answer).jobs.get("job_1").follow()] == [1, 2, 3, 4]
    assert asked == ["0", "2"]


def pages_of(events: list[Json], *, page_size: int, num_there: Callable[[int], int], is_over: Callable[[int], bool]) -> Answer:
    """A service behind something that lets no stream through.

    Args:
        events: All that there will ever be.
        page_size: Most events in a page.
        num_there: How many there are at each request.
        is_over: Whether the job has ended at each request.
    """
    asked = iter(range(1000))

    def answer(request: httpx2.Request) -> httpx2.Response:
        if "Last-Event-ID" in request.headers:
            return httpx2.Response(200, text="a proxy's own page", headers={"Content-Type": "text/html"})
        number = next(asked)
        if request.url.path.endswith("/jobs/job_1"):
            return httpx2.Response(200, json=job_document(terminal=is_over(number), finished_at="2026-01-01T00:00:09.000Z"))
        after = int(request.url.params["after"])
        return httpx2.Response(200, json={"data": [one for one in events[: num_there(number)] if one["seq"] > after][:page_size]})

    return answer


EXTENDED = [event(1), event(2, "end"), event(3, "state"), event(4), event(5, "end")]


def test_where_no_stream_comes_through_pages_are_read() -> None:
    events = [event(1), event(2), event(3, "end")]
    answer = pages_of(events, page_size=9, num_there=lambda number: 2 if number < 4 else 3, is_over=lambda number: number > 4)
    assert [one["seq"] for one in client_of(answer).jobs.get("job_1").follow()] == [1, 2, 3]


@pytest.mark.parametrize("page_size", [1, 2, 3, 9])
def test_pages_of_a_job_that_was_extended_are_read_to_its_last_end(page_size: int) -> None:
    over = pages_of(EXTENDED, page_size=page_size, num_there=lambda _: 5, is_over=lambda _: True)
    assert [one["seq"] for one in client_of(over).jobs.get("job_1").follow()] == [1, 3, 4, 5]


@pytest.mark.parametrize("page_size", [2, 9])
def test_pages_of_a_job_that_is_extended_meanwhile_are_read_on(page_size: int) -> None:
    """The first end is read while nothing follows it yet, but the job waits for a worker again."""
    growing = pages_of(EXTENDED, page_size=page_size, num_there=lambda number: 2 if number < 4 else 5, is_over=lambda number: number > 8)
    assert [one["seq"] for one in client_of(growing).jobs.get("job_1").follow()] == [1, 3, 4, 5]


def test_who_comes_back_behind_the_last_event_is_told_that_it_was_the_end() -> None:
    answer = pages_of(EXTENDED, page_size=9, num_there=lambda _: 5, is_over=lambda _: True)
    (end,) = client_of(answer).jobs.get("job_1").follow(after=5)
    assert (end["seq"], end["type"], end["status"]) == (5, "end", "running")

    def streams(request: httpx2.Request) -> httpx2.Response:
        if "Last-Event-ID" in request.headers:
            return event_stream(stream(event(5, "end")))
        return httpx2.Response(200, json=job_document())

    assert [one["seq"] for one in client_of(streams).jobs.get("job_1").follow(after=5)] == [5]


def test_the_async_client_reads_pages_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(seconds: float) -> None:
        assert seconds >= 0

    monkeypatch.setattr("asyncio.sleep", no_pause)

    async def scenario() -> None:
        growing = pages_of(EXTENDED, page_size=2, num_there=lambda number: 2 if number < 4 else 5, is_over=lambda number: number > 8)
        async with AsyncClient(URL, transport=httpx2.MockTransport(growing)) as client:
            job = await client.jobs.get("job_1")
            assert [one["seq"] async for one in job.follow()] == [1, 3, 4, 5]

    asyncio.run(scenario())


def test_a_stream_that_never_comes_back_ends_in_an_error(pauses: list[float]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/jobs/job_1"):
            return httpx2.Response(200, json=job_document())
        raise httpx2.ConnectError("connection refused", request=request)

    with pytest.raises(UnreachableError):
        list(client_of(answer).jobs.get("job_1").follow())
    assert len(pauses) == client_events.MAX_FAILURES
    assert 20 < sum(pauses) < 60


def test_following_a_job_that_does_not_exist_is_an_api_error() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/jobs/job_1"):
            return httpx2.Response(200, json=job_document())
        return httpx2.Response(404, json={"code": "not_found", "detail": "no job job_1"})

    with pytest.raises(ApiError, match="no job job_1"):
        list(client_of(answer).jobs.get("job_1").follow())


def test_waiting_for_a_job_that_fails_raises_with_its_reason() -> None:
    failed = job_document("failed", error={"category": "diverged", "message": "the loss is NaN at step 9", "suggestion": "lower max_lr"})

    def answer(request: httpx2.Request) -> httpx2.Response:
        return event_stream(stream(event(1, "end"))) if "events" in request.url.path else httpx2.Response(200, json=failed)

    with pytest.raises(JobFailedError, match=r"job_1 failed: the loss is NaN at step 9\n  lower max_lr"):
        client_of(answer).jobs.get("job_1").wait()


def test_the_address_comes_from_the_argument_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAPCYCLE_URL", raising=False)
    assert client_core.service_url(None) == "http://127.0.0.1:8000"
    monkeypatch.setenv("SNAPCYCLE_URL", "http://elsewhere:9000/")
    assert client_core.service_url(None) == "http://elsewhere:9000"
    assert client_core.service_url("http://here:1") == "http://here:1"


def test_the_async_client_has_the_same_methods_to_await(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(seconds: float) -> None:
        assert seconds >= 0

    monkeypatch.setattr("asyncio.sleep", no_pause)
    streams: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        match request.method, request.url.path:
            case "POST", "/v1/jobs":
                return httpx2.Response(202, json=job_document())
            case "GET", "/v1/jobs":
                return httpx2.Response(200, json={"data": [job_document()], "has_more": False, "last_id": "job_1"})
            case "GET", "/v1/jobs/job_1/events":
                streams.append(request.headers["Last-Event-ID"])
                return event_stream(stream(event(1)) if len(streams) == 1 else stream(event(2, "end")))
            case "GET", "/v1/jobs/job_1/snapshots":
                return httpx2.Response(200, json={"data": [{"id": "snap_1_0"}]})
            case _:
                return httpx2.Response(200, json=job_document("succeeded"))

    async def scenario() -> None:
        async with AsyncClient(URL, transport=httpx2.MockTransport(answer)) as client:
            job = await client.jobs.train("ds_1", cycles=2)
            assert [one["seq"] async for one in job.follow()] == [1, 2]
            assert (await job.wait()).status == "succeeded"
            assert await job.snapshots() == [{"id": "snap_1_0"}]
            assert [one["id"] async for one in client.jobs.list()] == ["job_1"]

    asyncio.run(scenario())
