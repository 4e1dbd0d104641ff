"""Events as pages, SSE and JSON lines: each once, in order, up to the end, over any number of reconnects."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import events as service_events
from service.request_schemas import EVENT_TYPES
from tests.service.conftest import Server, Worker, field_error, make_settings, problem, wait_until
from worker.job_store import Event
from worker.valkey_server import ValkeyServer

Submit = Callable[..., str]
Json = dict[str, Any]
SSE, JSONL = {"Accept": "text/event-stream"}, {"Accept": "application/jsonl"}


@contextmanager
def following(server: Server, job_id: str, **headers: str) -> Iterator[Iterator[Json]]:
    """A live SSE connection; yields its events with the id of their frame."""
    with (
        httpx2.Client(base_url=server.url, trust_env=False, timeout=10) as client,
        client.stream("GET", f"/v1/jobs/{job_id}/events", headers={**SSE, **headers}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        yield read_events(response)


def read_events(response: httpx2.Response) -> Iterator[Json]:
    frame: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            frame[name] = value
        else:
            if "data" in frame:
                event = json.loads(frame["data"])
                assert (frame["id"], frame["event"]) == (str(event["seq"]), event["type"])
                yield event
            frame = {}


def sequence_numbers(events: list[Json]) -> list[int]:
    return [event["seq"] for event in events]


def num_followers(server: Server, job_id: str) -> int:
    return len(server.services.hub._subscriptions.get(job_id, ()))


def test_page_goes_on_after_a_number(api: httpx2.Client, finished_job: str) -> None:
    page = api.get(f"/v1/jobs/{finished_job}/events?limit=3").json()
    assert sequence_numbers(page["data"]) == [1, 2, 3]
    assert (page["object"], page["has_more"], page["first_id"], page["last_id"]) == ("list", True, "1", "3")
    rest = api.get(f"/v1/jobs/{finished_job}/events?after=3").json()
    assert sequence_numbers(rest["data"]) == list(range(4, 9))
    assert rest["has_more"] is False


def test_types_filter_a_page(api: httpx2.Client, finished_job: str) -> None:
    page = api.get(f"/v1/jobs/{finished_job}/events?types=snapshot,end").json()
    assert [event["type"] for event in page["data"]] == ["snapshot"] * 3 + ["end"]
    assert page["data"][0]["snapshot_id"] == f"snap_{finished_job[4:]}_0"
    assert page["data"][2]["ensemble"]["members"] == 3


def test_stream_of_a_finished_job_has_all_events_and_ends(api: httpx2.Client, finished_job: str) -> None:
    response = api.get(f"/v1/jobs/{finished_job}/events", headers=SSE)
    events = list(read_events(response))
    assert sequence_numbers(events) == list(range(1, 9))
    assert events[-1]["type"] == "end"
    assert events[-1]["status"] == "succeeded"
    assert response.headers["cache-control"] == "no-cache"


def test_stream_is_live(server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    with following(server, job_id) as events:
        assert next(events)["status"] == "queued"
        worker.claim(job_id)
        assert next(events)["status"] == "running"
        assert next(events)["phase"] == "training"
        wait_until(lambda: num_followers(server, job_id) == 1)
        delays = []
        for step in range(1, 21):
            sent = time.monotonic()
            worker.progress(job_id, step)
            assert next(events)["step"] == step
            delays.append(time.monotonic() - sent)
        assert sorted(delays)[10] < service_events.LOOK_SECONDS, "told, not looked up"
        worker.snapshot(job_id, 0)
        assert next(events)["type"] == "snapshot"
        worker.finish(job_id)
        assert [event["type"] for event in events] == ["state", "end"]
    wait_until(lambda: num_followers(server, job_id) == 0)


def test_resumed_streams_lose_and_repeat_nothing(server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    is_done = threading.Event()

    def work() -> None:
        for step in range(1, 301):
            worker.progress(job_id, step)
        worker.finish(job_id)
        is_done.set()

    thread = threading.Thread(target=work)
    thread.start()
    received: list[Json] = []
    connections = 0
    while not received or received[-1]["type"] != "end":
        connections += 1
        last = {"Last-Event-ID": str(received[-1]["seq"])} if received else {}
        with following(server, job_id, **last) as events:
            for _, event in zip(range(40), events, strict=False):
                received.append(event)
    thread.join()
    assert connections >= 7
    assert sequence_numbers(received) == list(range(1, 306))
    assert [event["step"] for event in received if event["type"] == "progress"] == list(range(1, 301))


def test_many_followers_see_the_same(server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    seen: list[list[int]] = []

    def read() -> None:
        with following(server, job_id) as events:
            seen.append(sequence_numbers(list(events)))

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: num_followers(server, job_id) == 20)
    for step in range(1, 101):
        worker.progress(job_id, step)
    worker.finish(job_id)
    for thread in threads:
        thread.join(20)
    assert seen == [list(range(1, 106))] * 20


def test_follower_with_a_number_from_the_future_hides_nothing_from_others(server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    with following(server, job_id, **{"Last-Event-ID": "999999"}) as ahead:
        wait_until(lambda: num_followers(server, job_id) == 1)
        with following(server, job_id) as events:
            assert sequence_numbers([next(events) for _ in range(3)]) == [1, 2, 3]
            wait_until(lambda: num_followers(server, job_id) == 2)
            worker.progress(job_id, 1)
            assert next(events)["step"] == 1
            worker.finish(job_id)
            assert [event["type"] for event in events] == ["state", "end"]
        del ahead


def test_stream_resumed_behind_the_end_ends_at_once(api: httpx2.Client, finished_job: str) -> None:
    events = list(read_events(api.get(f"/v1/jobs/{finished_job}/events", headers={**SSE, "Last-Event-ID": "8"})))
    assert [(event["type"], event["status"]) for event in events] == [("end", "succeeded")]


def test_stream_keeps_to_its_types_and_still_ends(api: httpx2.Client, finished_job: str) -> None:
    events = list(read_events(api.get(f"/v1/jobs/{finished_job}/events?types=snapshot", headers=SSE)))
    assert [event["type"] for event in events] == ["snapshot"] * 3 + ["end"]


def test_json_lines_are_the_same_events(api: httpx2.Client, finished_job: str) -> None:
    response = api.get(f"/v1/jobs/{finished_job}/events", headers=JSONL)
    assert response.headers["content-type"] == "application/jsonl"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines == api.get(f"/v1/jobs/{finished_job}/events").json()["data"]


def test_json_lines_are_live(server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    url = f"{server.url}/v1/jobs/{job_id}/events"
    with httpx2.stream("GET", url, headers=JSONL, timeout=10, trust_env=False) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["status"] == "queued"
        worker.claim(job_id)
        assert json.loads(next(lines))["status"] == "running"
        worker.finish(job_id)
        assert [json.loads(line)["type"] for line in lines] == ["state", "state", "end"]


def test_silence_is_filled_with_pings(server: Server, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_events, "PING_SECONDS", 0.05)
    url = f"{server.url}/v1/jobs/{submit()}/events"
    with httpx2.stream("GET", url, headers=SSE, timeout=10, trust_env=False) as response:
        pings = (line for line in response.iter_lines() if line == ": ping")
        assert [next(pings) for _ in range(3)] == [": ping"] * 3


def test_slow_reader_loses_nothing(server: Server, submit: Submit, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_events, "MAX_WAITING_BATCHES", 1)
    job_id = submit()
    worker.claim(job_id)
    with following(server, job_id) as events:
        received = [next(events) for _ in range(3)]
        wait_until(lambda: num_followers(server, job_id) == 1)
        for step in range(1, 1001):
            worker.progress(job_id, step)
        worker.finish(job_id)
        received += list(events)
    assert sequence_numbers(received) == list(range(1, 1006))


def test_what_does_not_fit_is_read_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_events, "MAX_WAITING_BATCHES", 1)
    waiting, last = ([Event(seq, "end", "", {})] for seq in (1, 2))

    async def take_three() -> list[object]:
        subscription = service_events.Subscription()
        subscription.offer(waiting)
        subscription.offer(last)
        await asyncio.sleep(0)
        return [await subscription.next(60), await subscription.next(60), await subscription.next(0.01)]

    assert asyncio.run(take_three()) == [waiting, (), None]


def test_job_that_is_deleted_ends_its_streams(server: Server, api: httpx2.Client, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_events, "PING_SECONDS", 0.05)
    job_id = submit()
    with following(server, job_id, **{"Last-Event-ID": "100"}) as events:
        wait_until(lambda: num_followers(server, job_id) == 1)
        api.post(f"/v1/jobs/{job_id}/cancel")
        api.delete(f"/v1/jobs/{job_id}")
        assert next(events)["type"] == "end"


def test_abandoned_streams_are_forgotten(server: Server, submit: Submit) -> None:
    job_id = submit()
    for _ in range(5):
        with following(server, job_id) as events:
            next(events)
    wait_until(lambda: num_followers(server, job_id) == 0)


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001", "type=end"])
def test_bad_event_query_is_named(api: httpx2.Client, finished_job: str, query: str) -> None:
    field_error(api.get(f"/v1/jobs/{finished_job}/events?{query}"), query.partition("=")[0])


@pytest.mark.parametrize("last", ["x", "-1", "1" * 16, ""])
def test_bad_last_event_id_is_named(api: httpx2.Client, finished_job: str, last: str) -> None:
    field_error(api.get(f"/v1/jobs/{finished_job}/events", headers={**SSE, "Last-Event-ID": last}), "Last-Event-ID")


def test_unknown_event_type_is_named_with_the_likeliest(api: httpx2.Client, finished_job: str) -> None:
    error = field_error(api.get(f"/v1/jobs/{finished_job}/events?types=end,snapshots"), "types")
    assert 'got "snapshots": did you mean snapshot?' in error["detail"]


def test_every_event_that_a_job_had_is_a_known_type(api: httpx2.Client, finished_job: str) -> None:
    events = api.get(f"/v1/jobs/{finished_job}/events").json()["data"]
    assert {event["type"] for event in events} <= set(EVENT_TYPES)


@pytest.mark.parametrize("headers", [SSE, JSONL], ids=["sse", "jsonl"])
def test_server_that_stops_ends_its_streams_in_order(
    valkey: ValkeyServer, tmp_path: Path, server: Server, submit: Submit, headers: dict[str, str]
) -> None:
    job_id = submit()
    with (
        Server(make_settings(valkey, tmp_path, artifacts=server.settings.artifacts_url)) as stopping,
        httpx2.stream("GET", f"{stopping.url}/v1/jobs/{job_id}/events", headers=headers, timeout=10, trust_env=False) as response,
    ):
        lines = response.iter_lines()
        assert any("queued" in line for line in lines)
        wait_until(lambda: num_followers(stopping, job_id) == 1)
        begun = time.monotonic()
        stopping.stop()
        assert [line for line in lines if line.startswith(("{", "data"))] == []  # a stream that is cut raises an error here
        assert time.monotonic() - begun < 4, "it waited to be cancelled"


def test_other_representations_are_refused(api: httpx2.Client, finished_job: str) -> None:
    problem(api.get(f"/v1/jobs/{finished_job}/events", headers={"Accept": "text/html"}), 406, "not_acceptable")


def test_stream_of_an_unknown_job_is_a_404(api: httpx2.Client) -> None:
    problem(api.get("/v1/jobs/job_01JDEADBEEF0000000000000000/events", headers=SSE), 404, "not_found")


def test_a_stream_goes_on_over_the_end_of_a_job_that_was_extended(
    api: httpx2.Client, server: Server, submit: Submit, worker: Worker
) -> None:
    """The follower is behind: when it looks at the first end, the job has been extended, whether that end comes live or by page."""
    job_id = submit()
    with following(server, job_id) as events:
        assert next(events)["status"] == "queued"
        wait_until(lambda: num_followers(server, job_id) == 1)
        with server.services.hub._lock:  # holds the reader back, until there is more than one end
            worker.run(job_id)
            assert api.post(f"/v1/jobs/{job_id}/extend", json={"cycles": 1}).status_code == 200
        api.post(f"/v1/jobs/{job_id}/cancel")
        seen = list(events)
    assert [event["status"] for event in seen if event["type"] == "end"] == ["cancelled"]
    last = seen[-1]["seq"]
    assert [event["seq"] for event in read_all(api, job_id, after=last)] == [last], "behind the last event there is its end alone"


def read_all(api: httpx2.Client, job_id: str, *, after: int) -> list[Json]:
    return list(read_events(api.get(f"/v1/jobs/{job_id}/events", headers={**SSE, "Last-Event-ID": str(after)})))
