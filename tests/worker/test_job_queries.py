import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest

from worker.job_specs import JobSpec
from worker.job_store import METRIC_COLUMNS, Claim, JobStore
from worker.jobs import Action, JobKind, JobStatus

NewSpec = Callable[[], JobSpec]


@pytest.fixture
def submit(job_store: JobStore, new_spec: NewSpec) -> Callable[[int], list[str]]:
    """Submits jobs and returns their ids, oldest first."""
    counter = iter(range(10_000))

    def submit_jobs(count: int) -> list[str]:
        ids = [f"job_{next(counter):026d}" for _ in range(count)]
        for job_id in ids:
            job_store.submit(new_spec().model_copy(update={"id": job_id}), idempotency_key=None, body_sha256="")
        return ids

    return submit_jobs


def claim(store: JobStore, job_id: str) -> int:
    granted = store.claim(job_id, "worker-1", 30_000, 3)
    assert isinstance(granted, Claim), granted
    return granted.epoch


def page(store: JobStore, **kwargs: Any) -> tuple[list[str], bool]:
    records, has_more = store.list(**kwargs)
    return [record.id for record in records], has_more


def test_pages_are_read_forwards_and_backwards(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    a, b, c, d, e = submit(5)
    assert page(job_store) == ([e, d, c, b, a], False)
    assert page(job_store, limit=2) == ([e, d], True)
    assert page(job_store, limit=2, after=d) == ([c, b], True)
    assert page(job_store, limit=2, after=b) == ([a], False)
    assert page(job_store, limit=2, before=a) == ([c, b], True)
    assert page(job_store, limit=2, before=d) == ([e], False)
    assert page(job_store, limit=2, order="asc") == ([a, b], True)
    assert page(job_store, limit=2, order="asc", after=b) == ([c, d], True)
    assert page(job_store, limit=2, order="asc", before=d) == ([b, c], True)
    assert page(job_store, after=e, before=b) == ([d, c], False)
    assert page(job_store, limit=5) == ([e, d, c, b, a], False)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_stay_put_while_jobs_arrive(job_store: JobStore, submit: Callable[[int], list[str]], order: Literal["asc", "desc"]) -> None:
    old = submit(10)
    seen: list[str] = []
    after = None
    while True:
        ids, has_more = page(job_store, limit=3, after=after, order=order)
        seen += ids
        if len(seen) < 10:
            old += submit(1) if order == "asc" else []
            submit(1) if order == "desc" else None
        if not has_more:
            break
        after = ids[-1]
    assert seen == (old if order == "asc" else old[::-1])


def test_lists_are_filtered_by_status_and_kind(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    a, b, c, d = submit(4)
    claim(job_store, a)
    job_store.request(b, Action.CANCEL)
    job_store.finish(c, claim(job_store, c), JobStatus.SUCCEEDED)
    assert page(job_store, status=JobStatus.RUNNING) == ([a], False)
    assert page(job_store, status=JobStatus.CANCELLED, kind=JobKind.TRAIN) == ([b], False)
    assert page(job_store, status=JobStatus.QUEUED, limit=1) == ([d], False)
    assert page(job_store, status=JobStatus.PAUSED) == ([], False)
    assert page(job_store, kind=JobKind.TRAIN) == ([d, c, b, a], False)
    counts = {status: count for status, count in job_store.counts().items() if count}
    assert counts == {JobStatus.QUEUED: 1, JobStatus.RUNNING: 1, JobStatus.SUCCEEDED: 1, JobStatus.CANCELLED: 1}


def test_places_in_the_queue_move_up(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    submit(1)
    second, third = submit(1), submit(1)
    first = job_store.list(order="asc", limit=1).records[0].id
    assert [record.position for record in job_store.list(order="asc").records] == [1, 2, 3]
    claim(job_store, first)
    assert [record.position for record in job_store.list(order="asc").records] == [None, 1, 2]
    job_store.request(second[0], Action.CANCEL)
    assert [record.position for record in job_store.list(order="asc").records] == [None, None, 1]
    assert job_store.list(status=JobStatus.QUEUED).records[0].id == third[0]


def test_snapshots_come_in_the_order_of_their_cycles(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    [job_id] = submit(1)
    epoch = claim(job_store, job_id)
    for cycle in (2, 10, 0, 1):
        job_store.commit_snapshot(job_id, epoch, cycle, {"id": "snap", "cycle": cycle})
    assert [manifest["cycle"] for manifest in job_store.snapshots(job_id)] == [0, 1, 2, 10]
    record = job_store.get(job_id)
    assert record is not None
    assert record.snapshot_count == 4
    assert job_store.snapshot("snap_nonsense") is None
    assert job_store.snapshot(f"snap_{job_id[4:]}_3") is None


def test_metrics_keep_their_numbers(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    [job_id] = submit(1)
    epoch = claim(job_store, job_id)
    rows = [[1, 0.1, 0, 0.1 + 0.2, 1e-300], [2, 1 / 3, 0, 5e-324, float("inf")], [3, 0.5, 1, 0.1, float("nan")]]
    job_store.report(job_id, epoch, metrics_rows=rows)
    assert job_store.metrics(job_id) == (METRIC_COLUMNS, [rows[0], [2, 1 / 3, 0, 5e-324, None], [3, 0.5, 1, 0.1, None]])
    job_store.reset_metrics(job_id, epoch, rows[:1])
    assert job_store.metrics(job_id).rows == rows[:1]
    job_store.report(job_id, epoch, metrics_rows=[[2, 0.25, 0, 0.1, 1.0]])
    assert [row[0] for row in job_store.metrics(job_id).rows] == [1, 2]


def test_reports_change_only_what_they_name(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    [job_id] = submit(1)
    epoch = claim(job_store, job_id)
    before = job_store.get(job_id)
    assert job_store.report(job_id, epoch)
    assert job_store.get(job_id) == before
    assert job_store.report(
        job_id, epoch, resolved_config={"precision": "fp32"}, progress={"step": 3}, metrics_rows=[[3, 0.1, 0, 0.1, 1.0]]
    )
    after = job_store.get(job_id)
    assert after is not None
    assert (after.config, after.progress, job_store.metrics(job_id).rows) == ({"precision": "fp32"}, {"step": 3}, [[3, 0.1, 0, 0.1, 1.0]])


def test_events_are_paged_and_filtered(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    [job_id] = submit(1)
    epoch = claim(job_store, job_id)
    for step in range(1200):
        job_store.report(job_id, epoch, event=("progress", {"step": step}))
    job_store.report(job_id, epoch, event=("warning", {"text": "ü / \N{SNOWMAN}"}))
    assert [event.seq for event in job_store.events(job_id, after=2, limit=3)] == [3, 4, 5]
    assert [event.data["step"] for event in job_store.events(job_id, after=100, limit=2, types=["progress"])] == [98, 99]
    [warning] = job_store.events(job_id, types=["warning"])
    assert (warning.seq, warning.data) == (1203, {"text": "ü / \N{SNOWMAN}"})
    assert len(job_store.events(job_id, limit=5000)) == 1203
    assert job_store.events(job_id, after=1203) == []


def test_followers_of_several_jobs_are_woken_by_the_first_event(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    first, second, third = submit(3)
    known = {first: 1, second: 1, third: 0}
    answer = job_store.wait_events(known, block_ms=1000)
    assert {job_id: [event.seq for event in events] for job_id, events in answer.items()} == {third: [1]}

    known[third] = 1
    timer = threading.Timer(0.05, claim, [job_store, second])
    timer.start()
    answer = job_store.wait_events(known, block_ms=1000)
    timer.join()
    assert {job_id: [event.data["status"] for event in events] for job_id, events in answer.items()} == {second: ["running"]}


def test_waiting_for_events_ends(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    [job_id] = submit(1)
    assert job_store.wait_events({}, block_ms=60_000) == {}
    assert job_store.wait_events({job_id: 1}, block_ms=0) == {}
    assert job_store.wait_events({job_id: 1}, block_ms=60_000) == {}


def test_a_long_jobs_older_events_are_dropped(job_store: JobStore, submit: Callable[[int], list[str]]) -> None:
    [job_id] = submit(1)
    epoch = claim(job_store, job_id)
    for step in range(2300):
        job_store.report(job_id, epoch, event=("progress", {"step": step}))
    kept = [event.seq for event in job_store.events(job_id, limit=5000)]
    assert 2000 <= len(kept) <= 2200
    assert kept == list(range(2303 - len(kept), 2303))
    job_store.finish(job_id, epoch, JobStatus.SUCCEEDED)
    assert [event.seq for event in job_store.events(job_id, limit=5000)] == list(range(1805, 2305))
