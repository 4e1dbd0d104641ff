"""Evaluations over HTTP: what is measured, what it costs, and what is refused with its remedy."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from clr.landscape_config import LandscapeSettings
from tests.service.conftest import TRAINING, Server, Worker, field_error
from worker.ids import new_id
from worker.job_specs import EvaluateSpec, TrainSpec, read_spec
from worker.records import spec_key

Json = dict[str, Any]


def evaluate(api: httpx2.Client, job_id: str, *, dry_run: bool = False, **fields: Any) -> httpx2.Response:
    params = {"dry_run": "true"} if dry_run else {}
    return api.post("/v1/jobs", json={"kind": "evaluate", "job_id": job_id, **fields}, params=params)


def test_an_evaluation_is_a_job_that_remembers_its_snapshots(api: httpx2.Client, server: Server, finished_job: str) -> None:
    response = evaluate(api, finished_job, name="minima", landscape={"max_rows": 50})
    assert response.status_code == 202
    job = response.json()
    assert (job["kind"], job["name"], job["status"], job["ensemble_id"]) == ("evaluate", "minima", "queued", None)
    assert job["config"] == {"job_id": finished_job, "landscape": LandscapeSettings(max_rows=50).model_dump()}
    assert job["dataset_id"] == api.get(f"/v1/jobs/{finished_job}").json()["dataset_id"]
    assert job["progress"]["steps"] == 2 * 3 + 3 + 1  # three snapshots twice, three lines, the rescaling check
    spec = read_spec(server.services.artifacts.read(spec_key(job["id"])))
    assert isinstance(spec, EvaluateSpec)
    assert spec.cycles == (0, 1, 2)
    assert job["id"] in [each["id"] for each in api.get("/v1/jobs", params={"kind": "evaluate"}).json()["data"]]


def test_a_dry_run_says_what_it_costs(api: httpx2.Client, finished_job: str) -> None:
    """97 training rows; see ``test_landscape_config`` for the price itself."""
    plan = evaluate(api, finished_job, dry_run=True).json()
    assert plan["estimate"]["snapshots"] == 3
    assert plan["estimate"]["lines"] == 3
    assert plan["estimate"]["rows"] == 97
    assert plan["estimate"]["most_epochs"] > 100
    assert plan["warnings"] == []
    cheaper = evaluate(api, finished_job, dry_run=True, landscape={"max_iterations": 2, "num_hessian_rows": 8}).json()
    assert cheaper["estimate"]["most_epochs"] < plan["estimate"]["most_epochs"] / 2


def test_a_job_that_still_runs_is_measured_as_far_as_it_is(api: httpx2.Client, submit: Callable[..., str], worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    worker.snapshot(job_id, 0)
    warnings = evaluate(api, job_id, dry_run=True).json()["warnings"]
    assert "is running: only the snapshots that it has now are measured" in warnings[0]
    assert warnings[1] == "there is one snapshot: its sharpness is measured, and no line to another"


def test_what_cannot_be_measured_is_refused_with_the_remedy(
    api: httpx2.Client, submit: Callable[..., str], finished_job: str, dataset_id: str
) -> None:
    error = field_error(evaluate(api, new_id("job")), "#/job_id")
    assert error["detail"].startswith("there is no job")
    assert "GET /v1/jobs?kind=train" in error["hint"]

    waiting = submit()
    error = field_error(evaluate(api, waiting), "#/job_id")
    assert error == {
        "pointer": "#/job_id",
        "detail": f"{waiting} has no snapshot to measure, it is queued",
        "hint": "wait for its first cycle to end",
    }

    api.post(f"/v1/jobs/{waiting}/cancel")
    error = field_error(evaluate(api, waiting), "#/job_id")
    assert error["hint"] == "train again: this job leaves no snapshot"

    evaluation = evaluate(api, finished_job).json()["id"]
    error = field_error(evaluate(api, evaluation), "#/job_id")
    assert error["detail"] == f"must be a job of kind train, {evaluation} is of kind evaluate"

    study = api.post("/v1/jobs", json={"kind": "study", "dataset_id": dataset_id, "seeds": [0], "arms": ["cosine"], "epochs": 2}).json()[
        "id"
    ]
    error = field_error(evaluate(api, study), "#/job_id")
    assert error["hint"] == "evaluate one of its runs"
    api.post(f"/v1/jobs/{study}/cancel")


@pytest.mark.parametrize(
    ("landscape", "pointer", "words"),
    [
        ({"num_lambdas": 2}, "#/landscape/num_lambdas", "greater than or equal to 3, got 2"),
        ({"radius": 0}, "#/landscape/radius", "greater than 0"),
        ({"rows": 5}, "#/landscape/rows", "unknown field"),
        ("yes", "#/landscape", "must be a JSON object"),
    ],
)
def test_settings_out_of_bounds_name_the_place_for_both_kinds(
    api: httpx2.Client, finished_job: str, dataset_id: str, landscape: Any, pointer: str, words: str
) -> None:
    for response in (
        evaluate(api, finished_job, landscape=landscape),
        api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING, "landscape": landscape}),
    ):
        error = field_error(response, pointer)
        assert words in error["detail"]
        assert error["hint"]


def test_true_and_false_stand_for_the_defaults_and_nothing(api: httpx2.Client, server: Server, submit: Callable[..., str]) -> None:
    found = {}
    for value in (True, False, None, {"max_rows": 9}):
        spec = read_spec(server.services.artifacts.read(spec_key(submit(landscape=value))))
        assert isinstance(spec, TrainSpec)
        found[str(value)] = spec.landscape
    assert found == {"True": LandscapeSettings(), "False": None, "None": None, "{'max_rows': 9}": LandscapeSettings(max_rows=9)}


def test_a_dry_run_of_a_training_tells_the_price_of_its_landscape(api: httpx2.Client, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, **TRAINING}
    without = api.post("/v1/jobs", json=body, params={"dry_run": "true"}).json()
    measured = api.post("/v1/jobs", json={**body, "landscape": True}, params={"dry_run": "true"}).json()
    assert not any("landscape" in note for note in without["notes"])
    (note,) = [note for note in measured["notes"] if "landscape" in note]
    assert "measuring 3 snapshots and 3 lines" in note
    assert "epochs, after the 3 of the training" in note
