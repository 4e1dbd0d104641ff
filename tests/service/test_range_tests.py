"""Range tests over HTTP: what is refused before they are made, and what they leave."""

import json
from typing import Any

import httpx2
import numpy as np
import pytest

from service.cli_range import curve_lines
from service.client import Client
from tests.service.conftest import Server, Worker, field_error, npz_bytes, problem, upload
from worker.jobs import JobStatus
from worker.records import result_key

Json = dict[str, Any]

SMALL: Json = {"kind": "range_test", "model": {"architecture": "mlp", "params": {"hidden": [8]}}, "batch_size": 16}

OUTPUT: Json = {
    "sweeps": [{"seed": 0, "learning_rate": [0.1, 1.0], "loss": [1.0, None], "smoothed": [1.0], "stop_reason": "not_finite"}],
    "suggestions": {},
    "min_lr": None,
    "max_lr": None,
    "spread_decades": {},
    "level": "refused",
    "reason": "no suggestion: only 1 losses were finite",
}


def test_a_range_test_is_accepted_with_its_kind(api: httpx2.Client, dataset_id: str) -> None:
    response = api.post("/v1/jobs", json={"dataset_id": dataset_id, "name": "rates", **SMALL})
    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["kind"], job["name"], job["status"]) == ("range_test", "rates", "queued")
    assert (job["ensemble_id"], job["parent_id"], job["progress"]["cycles"]) == (None, None, None)
    assert "ensemble" not in job["links"]
    assert (job["config"]["sweep"], job["config"]["start_lr"], job["config"]["end_lr"]) == ("exponential", 1e-5, 10.0)
    assert "schedule" not in job["config"]
    listed = api.get("/v1/jobs?kind=range_test").json()["data"]
    assert job["id"] in [each["id"] for each in listed]
    assert {each["kind"] for each in listed} == {"range_test"}


def test_a_dry_run_of_a_range_test_makes_nothing(api: httpx2.Client, server: Server, dataset_id: str) -> None:
    before = sum(server.services.store.counts().values())
    plan = api.post("/v1/jobs?dry_run=true", json={"dataset_id": dataset_id, **SMALL}).json()
    assert plan["valid"] is True
    assert plan["schedule"] is None
    assert (plan["estimate"]["train_rows"], plan["estimate"]["steps_per_epoch"]) == (97, 7)
    assert plan["config"]["augmentation"] == "none"
    assert plan["notes"] == ["precision auto depends on the worker's device: bf16 where that gains, else fp32"]
    assert plan["estimate"]["steps"] >= 300
    assert sum(server.services.store.counts().values()) == before


@pytest.mark.parametrize(
    ("fields", "place", "part"),
    [
        ({"start_lr": 1.0, "end_lr": 0.1}, "#", "end_lr must be > start_lr (1), got 0.1: swap or widen them"),
        ({"start_lr": 0.1, "end_lr": 0.1}, "#", "end_lr must be > start_lr"),
        ({"start_lr": 0.0}, "#", "start_lr must be > 0 for an exponential sweep, got 0"),
        ({"batch_size": 128}, "#/batch_size", "set batch_size to "),
        ({"num_rates": 3}, "#/num_rates", "10"),
        ({"start_lr": 1e-320}, "#", "start_lr must be at least 1e-12, got 9.99989e-321: take 1e-5"),
        (
            {"num_rates": 10_000, "steps_per_rate": 1000, "repeats": 100},
            "#",
            "num_rates (10000) * steps_per_rate (1000) * repeats (100) must be at most 1000000, got 1000000000: lower one of them",
        ),
        (
            {"probe_steps": 100_000, "probe_repeats": 11},
            "#",
            "probe_steps (100000) * probe_repeats (11) must be at most 1000000, got 1100000: lower one of them",
        ),
        (
            {"probes": False, "probe_steps": 50, "probe_repeats": 2},
            "#",
            "but probe_steps 50 and probe_repeats 2 is given: leave probe_steps and probe_repeats out, or set probes true",
        ),
        ({"probes": False, "probe_steps": 50}, "#", "but probe_steps 50 is given: leave probe_steps out, or set probes true"),
        ({"sweep": "exponentail"}, "#/sweep", "must be"),
        ({"schedule": {"type": "cosine"}}, "#/schedule", "unknown field"),
        ({"dataset_id": "ds_01JDEADBEEF0000000000000000"}, "#/dataset_id", "there is no dataset"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_with_its_remedy(
    api: httpx2.Client, dataset_id: str, fields: Json, place: str, part: str
) -> None:
    assert part in field_error(api.post("/v1/jobs", json={"dataset_id": dataset_id, **SMALL, **fields}), place)["detail"]


def test_a_network_that_does_not_fit_is_refused(api: httpx2.Client, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, **SMALL, "model": {"architecture": "small_cnn"}}
    assert "mlp" in field_error(api.post("/v1/jobs", json=body), "#/model")["detail"]


def test_an_unknown_kind_is_answered_with_the_likeliest(api: httpx2.Client, dataset_id: str) -> None:
    error = field_error(api.post("/v1/jobs", json={"dataset_id": dataset_id, "kind": "range_tset"}), "#/kind")
    assert error["did_you_mean"] == ["range_test"]
    assert "train, range_test" in error["hint"]
    field_error(api.post("/v1/jobs", json={"dataset_id": dataset_id, "kind": ["train"]}), "#/kind")


def test_the_result_has_the_answer_beside_what_all_results_have(api: httpx2.Client, worker: Worker, dataset_id: str) -> None:
    job_id = api.post("/v1/jobs", json={"dataset_id": dataset_id, **SMALL}).json()["id"]
    worker.claim(job_id)
    problem(api.get(f"/v1/jobs/{job_id}/result"), 409, "not_ready")
    common = {
        "status": "succeeded",
        "snapshots": [],
        "ensemble": [],
        "history": {"columns": [], "rows": []},
        "config": {},
        "output": OUTPUT,
    }
    worker.artifacts.create(result_key(job_id), json.dumps(common).encode())
    assert worker.store.finish(job_id, worker.epochs[job_id], JobStatus.SUCCEEDED)
    result = api.get(f"/v1/jobs/{job_id}/result").json()
    assert (result["kind"], result["status"], result["snapshots"]) == ("range_test", "succeeded", [])
    assert {name: result[name] for name in OUTPUT} == OUTPUT
    assert "output" not in result
    assert api.get(f"/v1/jobs/{job_id}/snapshots").json()["data"] == []
    assert api.get(f"/v1/jobs/{job_id}/metrics").json()["total_rows"] == 0
    ensemble_id = job_id.replace("job_", "ens_")
    problem(api.get(f"/v1/ensembles/{ensemble_id}"), 404, "not_found")
    problem(api.post(f"/v1/ensembles/{ensemble_id}/predict", json={"inputs": [[0, 0, 0, 0]]}), 404, "not_found")


def test_the_client_submits_range_tests_and_refuses_their_ensemble(server: Server, api: httpx2.Client) -> None:
    rows = {"x": np.arange(160.0).reshape(40, 4), "y": np.arange(40) % 2}
    dataset = upload(api, npz_bytes(**rows)).json()
    with Client(server.url) as client:
        job = client.jobs.range_test(dataset, architecture="mlp", params={"hidden": [4]}, batch_size=4, end_lr=1.0, repeats=2)
        assert (job.data["kind"], job.data["config"]["end_lr"], job.data["config"]["repeats"]) == ("range_test", 1.0, 2)
        assert job.data["config"]["model"]["params"]["hidden"] == [4]
        with pytest.raises(ValueError, match=r"is of kind range_test, which takes no snapshots: its answer is result\(\)"):
            _ = job.ensemble


def test_a_falling_curve_is_drawn_from_high_to_low() -> None:
    sweep = {"loss": [8.0, 6.0, 4.0, 1.0, 100.0], "learning_rate": [1e-3, 1e-2, 0.1, 1.0, 10.0]}
    title, bars, axis = curve_lines(sweep, beta=0.0)
    assert title == "smoothed loss over the rate, 1 to 12, cut off above 12"
    assert bars == "▅▄▂▁█"
    assert axis == "0.001 10"
