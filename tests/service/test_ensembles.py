"""Ensembles: a job's own, and those of chosen snapshots."""

from collections.abc import Callable

import httpx2
import numpy as np
import pytest

from clr.ensemble import Ensemble
from service.ensembles import Members
from tests.service.conftest import Server, Trained, Worker, field_error, problem
from tests.service.test_predictions import ensemble_of, probabilities

Submit = Callable[..., str]


def test_ensemble_describes_itself(api: httpx2.Client, submit: Submit, worker: Worker, trained: Trained) -> None:
    job_id = submit(name="clouds")
    found = api.get(f"/v1/ensembles/{ensemble_of(job_id)}").json()
    assert (found["version"], found["members"], found["versions"]) == (0, [], [])
    assert (found["task"], found["input_shape"], found["class_names"]) == ("classification", [4], ["0", "1", "2"])
    worker.claim(job_id)
    for cycle in (0, 1):
        worker.snapshot(job_id, cycle)
    found = api.get(f"/v1/ensembles/{ensemble_of(job_id)}").json()
    assert (found["version"], found["name"], found["job_id"]) == (2, "clouds", job_id)
    assert found["members"] == [f"snap_{job_id[4:]}_0", f"snap_{job_id[4:]}_1"]
    assert found["versions"][1]["validation"] == trained.ends[1].ensemble.validation


def test_ensemble_takes_the_last_members_where_its_run_chose_so(
    api: httpx2.Client, submit: Submit, worker: Worker, trained: Trained
) -> None:
    job_id = submit()
    worker.claim(job_id)
    for cycle, members in ((0, 1), (1, 2), (2, 1)):
        worker.snapshot(job_id, cycle, members=members)
    path = f"/v1/ensembles/{ensemble_of(job_id)}"
    found = api.get(path).json()
    assert (found["version"], found["members"]) == (3, [f"snap_{job_id[4:]}_2"])
    body = {"inputs": trained.x[:5].tolist()}
    alone = Ensemble.load([trained.weights(2)]).predict(trained.x[:5]).numpy()
    np.testing.assert_allclose(probabilities(api.post(f"{path}/predict", json=body)), alone, atol=1e-6)
    both = Ensemble.load([trained.weights(0), trained.weights(1)]).predict(trained.x[:5]).numpy()
    np.testing.assert_allclose(probabilities(api.post(f"{path}/predict?version=2", json=body)), both, atol=1e-6)


def test_chosen_snapshots_make_an_ensemble(api: httpx2.Client, finished_job: str, trained: Trained) -> None:
    members = [f"snap_{finished_job[4:]}_{cycle}" for cycle in (0, 2)]
    response = api.post("/v1/ensembles", json={"members": members, "name": "two", "metadata": {"a": "b"}})
    assert response.status_code == 201
    made = response.json()
    assert (made["members"], made["version"], made["job_id"], made["name"], made["metadata"]) == (members, 1, None, "two", {"a": "b"})
    assert api.get(response.headers["location"]).json() == made
    found = probabilities(api.post(f"/v1/ensembles/{made['id']}/predict", json={"inputs": trained.x[:5].tolist()}))
    expected = Ensemble.load([trained.weights(0), trained.weights(2)]).predict(trained.x[:5]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    problem(api.post(f"/v1/ensembles/{made['id']}/predict?version=2", json={"inputs": [[0, 0, 0, 0]]}), 404, "not_found")


def test_ensembles_of_the_same_snapshots_take_memory_once(server: Server, finished_job: str) -> None:
    manifests = tuple(server.services.store.snapshots(finished_job))
    first, second, other = (
        Members(f"ens_{name}", 1, chosen) for name, chosen in (("a", manifests), ("b", manifests), ("c", manifests[:2]))
    )
    predictor = server.services.predictor
    assert predictor.load(first) is predictor.load(second)
    assert predictor.load(other) is not predictor.load(first)


def test_same_key_makes_one_ensemble(api: httpx2.Client, finished_job: str) -> None:
    body, headers = {"members": [f"snap_{finished_job[4:]}_0"]}, {"Idempotency-Key": "ensemble-1"}
    first, second = (api.post("/v1/ensembles", json=body, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    problem(api.post("/v1/ensembles", json={"members": [f"snap_{finished_job[4:]}_1"]}, headers=headers), 422, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ([], "#/members"),
        (["snap_01JDEADBEEF0000000000000000_0"], "#/members/0"),
        ("snap", "#/members"),
        (["x", 3], "#/members/1"),
        (None, "#/members"),
    ],
)
def test_bad_members_are_named(api: httpx2.Client, members: object, place: str) -> None:
    field_error(api.post("/v1/ensembles", json={"members": members}), place)


def test_member_that_stands_twice_is_named(api: httpx2.Client, finished_job: str) -> None:
    snapshot = f"snap_{finished_job[4:]}_0"
    field_error(api.post("/v1/ensembles", json={"members": [snapshot, snapshot]}), "#/members/1")
