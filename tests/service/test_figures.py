"""Figures over HTTP: documents for programs, pages for people, scripts from the service alone."""

import gzip
import html
import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import plotly.graph_objects as go
import pytest

from clr.datasets import Dataset
from clr.ensemble_sizes import members_document
from clr.landscape_config import LandscapeSettings
from clr.run_landscape import run_landscape
from clr.targets import Task
from service.figure_page import POLICY
from tests.service.conftest import Server, Trained, Worker, field_error, problem
from worker.ids import new_id
from worker.job_store import JobStore
from worker.jobs import JobStatus
from worker.records import result_key, write_document
from worker.results import result_document

Json = dict[str, Any]

FEW = LandscapeSettings(max_rows=64, num_directions=1, ascent_steps=1, num_hessian_rows=16, max_iterations=2, num_lambdas=3)
PAPER = ["schedule", "ensemble_size", "interpolation", "correlation"]


@pytest.fixture(scope="module")
def measured_job(api: httpx2.Client, dataset_id: str, server: Server, worker: Worker, trained: Trained) -> str:
    """A job that has succeeded with three snapshots and a landscape, and whose name tries to be markup."""
    body = {"dataset_id": dataset_id, "name": "</script><b>measured", "model": {"architecture": "mlp", "params": {"hidden": [8]}}}
    schedule = {"type": "warm_restarts", "max_lr": 0.1, "cycles": 3, "epochs_per_cycle": 1}
    job_id = str(api.post("/v1/jobs", json={**body, "schedule": schedule, "batch_size": 16}).json()["id"])
    worker.claim(job_id)
    for step in range(1, 4):
        worker.progress(job_id, step)
    for cycle in range(3):
        worker.snapshot(job_id, cycle)
    snapshots = [end.snapshot for end in trained.ends]
    report = run_landscape(snapshots, Dataset.from_arrays(trained.x, trained.y), settings=FEW)
    outputs = [snapshot.outputs for snapshot in snapshots if snapshot.outputs is not None]
    output = members_document(outputs, Task.CLASSIFICATION) | {"landscape": report.to_document()}
    _store_result(server.services.store, worker, job_id, output)
    return job_id


def _store_result(store: JobStore, worker: Worker, job_id: str, output: Json) -> None:
    record = store.get(job_id)
    assert record is not None
    end: Json = {"stop_reason": None, "error": None, "finished_at": record.created_at}
    rows = store.metrics(job_id).rows
    result = result_document(JobStatus.SUCCEEDED, **end, manifests=store.snapshots(job_id), rows=rows, config=None, output=output)
    write_document(worker.artifacts, result_key(job_id), result)
    worker.finish(job_id)


def test_a_train_job_lists_its_figures_with_reasons(api: httpx2.Client, measured_job: str, finished_job: str) -> None:
    page = api.get(f"/v1/jobs/{measured_job}/figures").json()
    there = {entry["name"]: entry["available"] for entry in page["data"]}
    assert there == {**dict.fromkeys(PAPER, True), "range_test": False}
    assert page["data"][0]["links"] == {"self": f"/v1/jobs/{measured_job}/figures/schedule"}
    assert api.get(page["data"][0]["links"]["self"]).status_code == 200
    reasons = {entry["name"]: entry["reason"] for entry in page["data"]}
    assert reasons["schedule"] is None
    assert '"max_lr": "auto"' in reasons["range_test"]

    unmeasured = {entry["name"]: entry["reason"] for entry in api.get(f"/v1/jobs/{finished_job}/figures").json()["data"]}
    assert f'"job_id": "{finished_job}"' in unmeasured["interpolation"]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_figures_are_drawn_from_a_job(api: httpx2.Client, measured_job: str, name: str) -> None:
    response = api.get(f"/v1/jobs/{measured_job}/figures/{name}")
    assert response.headers["content-type"] == "application/json"
    figure = go.Figure(response.json())
    assert figure.data
    assert "measured" in response.text


def test_figures_show_what_the_api_says(api: httpx2.Client, measured_job: str) -> None:
    result = api.get(f"/v1/jobs/{measured_job}/result").json()
    matrix = api.get(f"/v1/jobs/{measured_job}/figures/correlation").json()["data"][0]["z"]
    assert matrix == result["diversity"]["correlation"] == result["landscape"]["diversity"]["correlation"]
    lines = [trace["y"] for trace in api.get(f"/v1/jobs/{measured_job}/figures/interpolation").json()["data"]]
    found = [[point["loss"] for point in line["points"]] for line in result["landscape"]["basins"]["lines"]]
    assert lines == found
    snapshots = api.get(f"/v1/jobs/{measured_job}/snapshots").json()["data"]
    (marks, _) = [each for each in _schedule(api, measured_job)["data"] if each.get("name", "").startswith("snapshot")]
    assert marks["x"] == [snapshot["step"] for snapshot in snapshots]


def test_two_jobs_side_by_side(api: httpx2.Client, measured_job: str, finished_job: str) -> None:
    figure = api.get(f"/v1/jobs/{measured_job}/figures/ensemble_size", params={"against": finished_job}).json()
    assert len(figure["data"]) == 3 * 2 + 2 * 2  # the other has no curve of the last m
    both = api.get(f"/v1/jobs/{measured_job}/figures", params={"against": finished_job}).json()["data"]
    assert {entry["name"]: entry["available"] for entry in both}["interpolation"] is False
    assert both[0]["links"]["self"].endswith(f"?against={finished_job}")


def test_a_page_holds_the_figure_and_no_script_of_its_own(api: httpx2.Client, measured_job: str) -> None:
    response = api.get(f"/v1/jobs/{measured_job}/figures/schedule", headers={"Accept": "text/html"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == POLICY
    assert "script-src 'self'" in POLICY
    assert _data(response.text) == {"schedule": _schedule(api, measured_job)}
    assert "<b>measured" not in response.text
    kinds = re.findall(r"<script ([^>]*)>", response.text)
    assert kinds[0] == 'type="application/json" id="schedule-data"'
    for kind in kinds[1:]:
        path = re.fullmatch(r'src="(/assets/[^"]+)"', kind)
        assert path is not None, kind
        assert api.get(path[1]).status_code == 200
    assert "://" not in re.sub(r'<script type="application/json".*?</script>', "", response.text)


def test_one_page_shows_all_that_is_there_and_why_the_rest_is_not(api: httpx2.Client, measured_job: str) -> None:
    page = api.get(f"/v1/jobs/{measured_job}/figures", headers={"Accept": "text/html"}).text
    assert list(_data(page)) == PAPER
    assert "<b>range_test</b> is not there: " in page
    assert '"max_lr": "auto" measures it' in html.unescape(page)


def test_scripts_are_kept_for_ever_and_come_packed(api: httpx2.Client, measured_job: str) -> None:
    page = api.get(f"/v1/jobs/{measured_job}/figures/schedule", headers={"Accept": "text/html"}).text
    for path in re.findall(r'src="(/assets/[^"]+)"', page):
        with api.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as packed:
            raw = b"".join(packed.iter_raw())
        assert packed.headers["content-encoding"] == "gzip"
        plain = api.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(raw) == plain.content
        assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    problem(api.get("/assets/plotly-0.0.0.min.js"), 404, "not_found")


def test_figures_that_are_not_there_say_why(
    api: httpx2.Client, measured_job: str, finished_job: str, submit: Callable[..., str], worker: Worker
) -> None:
    assert "did you mean schedule?" in problem(api.get(f"/v1/jobs/{measured_job}/figures/shedule"), 404, "not_found")["detail"]
    assert "evaluate" in problem(api.get(f"/v1/jobs/{finished_job}/figures/interpolation"), 404, "not_found")["detail"]
    assert "kind study" in problem(api.get(f"/v1/jobs/{measured_job}/figures/study"), 404, "not_found")["detail"]
    problem(api.get(f"/v1/jobs/{new_id('job')}/figures"), 404, "not_found")
    problem(api.get(f"/v1/jobs/{measured_job}/figures/schedule", headers={"Accept": "image/png"}), 406, "not_acceptable")
    running = submit()
    assert "not taken a step" in problem(api.get(f"/v1/jobs/{running}/figures/schedule"), 409, "not_ready")["detail"]
    worker.claim(running)
    worker.progress(running, 1)
    assert api.get(f"/v1/jobs/{running}/figures/schedule").status_code == 200


def test_the_other_job_must_exist(api: httpx2.Client, measured_job: str) -> None:
    path = f"/v1/jobs/{measured_job}/figures/schedule"
    assert "there is no job" in field_error(api.get(path, params={"against": new_id("job")}), "against")["detail"]
    assert "must be the id of a job" in field_error(api.get(path, params={"against": "other"}), "against")["detail"]
    assert "unknown parameter" in field_error(api.get(path, params={"agianst": measured_job}), "agianst")["detail"]


def _schedule(api: httpx2.Client, job_id: str) -> Json:
    document: Json = api.get(f"/v1/jobs/{job_id}/figures/schedule").json()
    return document


def _data(page: str) -> dict[str, Json]:
    """The figures of a page by name."""
    found = re.findall(r'<script type="application/json" id="(\w+)-data">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}
