"""HEAD on what can be got, and 304 for those who poll."""

from collections.abc import Callable

import httpx2
import pytest

from service.app import create_app
from service.events import PING_SECONDS
from tests.service.conftest import problem
from tests.service.keyed_service import routes_of
from worker.settings import Settings

ROUTES = routes_of(create_app(Settings(redis_url="redis://nowhere")))
GETS = sorted(path for method, path in ROUTES if method == "GET")
POLLED = [
    "/v1/jobs",
    "/v1/jobs/{job_id}",
    "/v1/jobs/{job_id}/events",
    "/v1/jobs/{job_id}/metrics",
    "/v1/jobs/{job_id}/result",
    "/v1/jobs/{job_id}/snapshots",
    "/v1/jobs/{job_id}/figures",
    "/v1/jobs/{job_id}/figures/ensemble_size",
    "/v1/snapshots/{snapshot_id}",
    "/v1/ensembles/{ensemble_id}",
]


def path_of(template: str, job_id: str) -> str:
    ids = {"job_id": job_id, "snapshot_id": f"snap_{job_id[4:]}_0", "ensemble_id": f"ens_{job_id[4:]}"}
    return template.format(**{"dataset_id": "ds_1", "name": "schedule", "code": "not_found", "key_id": "zzzzzzzz", "version": "1", **ids})


@pytest.mark.parametrize("template", GETS)
def test_head_answers_as_get_without_the_body(api: httpx2.Client, finished_job: str, template: str) -> None:
    path = path_of(template, finished_job)
    got, head = api.get(path), api.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.status_code != 405
    volatile = {"x-request-id", "date", "content-length", "etag"} if path == "/metrics" else {"x-request-id", "date"}
    if head.is_error:  # a problem's document has the request's id
        volatile |= {"content-length"}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {k: v for k, v in got.headers.items() if k not in volatile}


def test_head_on_a_stream_ends(api: httpx2.Client, finished_job: str) -> None:
    head = api.head(f"/v1/jobs/{finished_job}/events", headers={"Accept": "text/event-stream"})
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_a_silent_stream_begins_at_once(api: httpx2.Client, submit: Callable[..., str]) -> None:
    path = f"/v1/jobs/{submit()}/events"
    latest = api.get(path).json()["data"][-1]["seq"]
    headers = {"Accept": "application/jsonl", "Last-Event-ID": str(latest)}
    with api.stream("GET", path, headers=headers, timeout=PING_SECONDS / 3) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl")


def test_head_where_nothing_can_be_got_is_refused(api: httpx2.Client) -> None:
    assert api.head("/v1/schedules/preview").status_code == 405
    assert problem(api.put("/v1/jobs"), 405, "method_not_allowed")
    assert api.put("/v1/jobs").headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("template", POLLED)
def test_who_has_the_answer_gets_none(api: httpx2.Client, finished_job: str, template: str) -> None:
    path = path_of(template, finished_job)
    first = api.get(path)
    tag = first.headers["etag"]
    for condition in (tag, f'"other", W/{tag}', "*"):
        again = api.get(path, headers={"If-None-Match": condition})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-type" not in again.headers
        assert again.headers["x-content-type-options"] == "nosniff"
    assert api.head(path, headers={"If-None-Match": tag}).status_code == 304
    for condition in ('"other"', tag.strip('"'), ""):
        assert api.get(path, headers={"If-None-Match": condition}).json() == first.json()


def test_the_tag_follows_the_job(api: httpx2.Client, submit: Callable[..., str]) -> None:
    job_id = submit()
    tag = api.get(f"/v1/jobs/{job_id}").headers["etag"]
    assert api.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    changed = api.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")
    assert changed.headers["etag"] != tag


def test_refusals_and_changes_have_no_tag(api: httpx2.Client, finished_job: str) -> None:
    assert "etag" not in api.get("/v1/jobs/none").headers
    preview = {"schedule": {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 1}, "steps_per_epoch": 10}
    changed = api.post("/v1/schedules/preview", json=preview, headers={"If-None-Match": "*"})
    assert (changed.status_code, "etag" in changed.headers) == (200, False)
