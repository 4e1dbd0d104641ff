"""Jobs over HTTP: submit, look at, end, delete; and that a refused job leaves nothing."""

import threading
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.service.conftest import TRAINING, Server, Worker, field_error, npz_bytes, problem, upload, wait_until
from worker.records import spec_key

Json = dict[str, Any]
Submit = Callable[..., str]


def num_jobs(api: httpx2.Client, server: Server) -> tuple[int, int]:
    """Jobs in Redis and in the artifact store."""
    return sum(server.services.store.counts().values()), len(server.services.artifacts.list_names("jobs"))


def test_job_is_accepted_and_durable(api: httpx2.Client, server: Server, dataset_id: str) -> None:
    body = {"kind": "train", "name": "first", "dataset_id": dataset_id, "metadata": {"team": "vision"}, **TRAINING}
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["object"], job["kind"], job["name"], job["metadata"]) == ("job", "train", "first", {"team": "vision"})
    assert (job["status"], job["phase"], job["terminal"]) == ("queued", "waiting_for_worker", False)
    assert job["queue"]["position"] >= 1
    assert job["progress"]["steps"] == 21
    assert job["progress"]["cycles"] == 3
    assert job["ensemble_id"] == job["id"].replace("job_", "ens_")
    assert job["allowed_actions"] == ["cancel", "pause"]
    assert job["config"]["optimizer"] == {"type": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005}
    assert job["config"]["schedule"]["cycles"] == 3
    for name in ("best", "error", "stop_reason", "started_at", "finished_at", "requested_action"):
        assert job[name] is None
    assert api.get(response.headers["location"]).json() == job
    assert job["id"].encode() in server.services.artifacts.read(spec_key(job["id"]))


def test_defaults_need_only_a_dataset(api: httpx2.Client, dataset_id: str) -> None:
    job = api.post("/v1/jobs", json={"dataset_id": dataset_id}).json()
    assert job["config"]["model"] == {"architecture": "mlp", "params": {"hidden": [256, 256], "dropout": 0.0}}
    assert job["progress"]["epochs"] == 20


def test_dry_run_makes_nothing(api: httpx2.Client, server: Server, dataset_id: str) -> None:
    before = num_jobs(api, server)
    response = api.post("/v1/jobs?dry_run=true", json={"dataset_id": dataset_id, **TRAINING})
    assert response.status_code == 200
    plan = response.json()
    assert plan["valid"] is True
    assert plan["estimate"] == {
        "parameters": 4 * 8 + 8 + 8 * 3 + 3,
        "steps": 21,
        "steps_per_epoch": 7,
        "epochs": 3.0,
        "snapshots": 3,
        "snapshot_bytes": 4 * 67,
        "train_rows": 97,
        "validation_rows": 11,
        "test_rows": 12,
    }
    assert plan["schedule"]["cycle_ends"] == [7, 14, 21]
    assert plan["schedule"]["learning_rate"][7] == 0.1
    assert plan["config"]["batch_size"] == 16
    assert plan["config"]["augmentation"] == "none"
    assert plan["config"]["precision"] == "auto"
    assert plan["notes"] == ["precision auto depends on the worker's device: bf16 where that gains, else fp32"]
    assert any("7 steps" in warning for warning in plan["warnings"])
    assert num_jobs(api, server) == before


def test_job_keeps_the_config_of_its_dry_run(api: httpx2.Client, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, **TRAINING, "precision": "fp32"}
    plan = api.post("/v1/jobs?dry_run=true", json=body).json()
    assert plan["notes"] == []
    assert api.post("/v1/jobs", json=body).json()["config"] == plan["config"]
    assert "auto" not in plan["config"].values()


def test_dry_run_warns_of_rare_classes(api: httpx2.Client) -> None:
    rare = upload(api, npz_bytes(x=np.arange(80.0).reshape(40, 2), y=np.array([0] * 35 + [1] * 5))).json()["id"]
    plan = api.post("/v1/jobs?dry_run=true", json={"dataset_id": rare, **TRAINING}).json()
    assert 'class "1" has only 5 rows' in plan["warnings"]


@pytest.mark.parametrize(
    ("fields", "place", "part"),
    [
        ({"dataset_id": "ds_01JDEADBEEF0000000000000000"}, "#/dataset_id", "there is no dataset"),
        ({"dataset_id": "../../etc/passwd"}, "#/dataset_id", "there is no dataset"),
        ({"dataset_id": 3}, "#/dataset_id", "valid string, got 3"),
        ({"kind": "stdy"}, "#/kind", 'unknown: "stdy"'),
        ({"lerning_rate": 1}, "#/lerning_rate", "unknown field"),
        ({"batch_size": "128"}, "#/batch_size", "valid integer"),
        ({"batch_size": True}, "#/batch_size", "valid integer"),
        ({"batch_size": 10**300}, "#/batch_size", "65536"),
        ({"seed": 2**63}, "#/seed", "less than"),
        ({"name": ""}, "#/name", "at least 1"),
        ({"metadata": {str(i): "" for i in range(17)}}, "#/metadata", "16"),
        ({"metadata": {"k": "x" * 513}}, "#/metadata/k", "512"),
        ({"model": {"architecture": "small_cnn"}}, "#/model", "mlp"),
        ({"model": {"architecture": "resnet", "params": {"depth": 9}}}, "#/model/params", "take 8 or 14"),
        ({"schedule": {"type": "warm_restarts", "cycles": 11, "epochs": 3}}, "#/schedule", "cycles must be between 1 and 10"),
        ({"schedule": {"type": "warm_restarts", "max_lr": "auto"}, "batch_size": 128}, "#/batch_size", "or give max_lr a number"),
        ({"schedule": {"type": "warm_restarts", "max_lr": {"from_job": "x"}}}, "#/schedule/max_lr/from_job", "there is no job"),
        ({"schedule": {"type": "warm_restarts", "cycles": "auto", "cycle_mult": 2}}, "#/schedule", "leave out cycle_mult"),
        ({"schedule": {"type": "cosine", "epochs": 3}, "budget": {"epochs": 3}}, "#/schedule", "leave epochs or budget out"),
        ({"schedule": {"type": "cosine"}, "budget": {}}, "#/budget", "must give minutes or epochs"),
        ({"schedule": {"type": "cosine"}, "budget": {"minutes": 0.001}}, "#/budget/minutes", "greater than or equal to 0.01"),
        ({"schedule": {"type": "cosine"}, "budget": {"epochs": 0.001}}, "#/budget/epochs", "a run must have between 1 and"),
        ({"schedule": {"type": "warm_restarts", "epochs": 100_000, "cycles": 1000, "cycle_mult": 100}}, "#/schedule", "cycle_mult"),
        ({"validation_fraction": 0.6}, "#/validation_fraction", "0.5"),
        ({"schedule": None}, "#/schedule", "object"),
    ],
)
def test_bad_job_is_refused_and_leaves_nothing(
    api: httpx2.Client, server: Server, dataset_id: str, fields: Json, place: str, part: str
) -> None:
    before = num_jobs(api, server)
    response = api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING, **fields})
    assert part in field_error(response, place)["detail"]
    assert num_jobs(api, server) == before


def test_split_that_the_data_cannot_give_names_its_field(api: httpx2.Client) -> None:
    tested = upload(api, npz_bytes(x=np.arange(80.0).reshape(40, 2), y=np.arange(40) % 2, x_test=np.ones((2, 2)), y_test=[0, 1])).json()[
        "id"
    ]
    field_error(api.post("/v1/jobs", json={"dataset_id": tested, **TRAINING, "test_fraction": 0.1}), "#/test_fraction")


def test_missing_dataset_is_named(api: httpx2.Client) -> None:
    assert field_error(api.post("/v1/jobs", json={}), "#/dataset_id")["detail"] == "is required, but missing"


@pytest.mark.parametrize("body", [b"[]", b"3", b'"x"', b"null"])
def test_body_that_is_no_object_is_refused(api: httpx2.Client, body: bytes) -> None:
    field_error(api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), "#")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"seed": NaN}',
        b'{"seed": 1, "seed": 2}',
        b'{"name": "\\ud800"}',
        b"\xff",
        b"[" * 5000,
        b'{"seed": ' + b"9" * 9999 + b"}",
    ],
)
def test_malformed_json_is_a_400(api: httpx2.Client, server: Server, body: bytes) -> None:
    before = num_jobs(api, server)
    problem(api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 400, "malformed_json")
    assert num_jobs(api, server) == before


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "application/json; charset=\xff"],
)
def test_other_content_types_are_refused(api: httpx2.Client, content_type: str) -> None:
    response = api.post("/v1/jobs", content=b"{}", headers=[(b"Content-Type", content_type.encode("latin-1"))])
    assert "application/json" in problem(response, 415, "unsupported_media_type")["detail"] or "charset" in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("status=done", "status"),
        ("kind=stdy", "kind"),
        ("afetr=job_1", "afetr"),
        ("after=x", "after"),
        ("before=ds_01JDEADBEEF0000000000000000", "before"),
    ],
)
def test_bad_query_is_named(api: httpx2.Client, query: str, parameter: str) -> None:
    field_error(api.get(f"/v1/jobs?{query}"), parameter)


def test_misspelt_status_gets_a_suggestion(api: httpx2.Client) -> None:
    assert field_error(api.get("/v1/jobs?status=runing"), "status")["did_you_mean"] == ["running"]


@pytest.mark.parametrize("dry_run", ["yes please", "2"])
def test_bad_dry_run_is_not_taken_for_no(api: httpx2.Client, server: Server, dataset_id: str, dry_run: str) -> None:
    before = num_jobs(api, server)
    field_error(api.post("/v1/jobs", params={"dry_run": dry_run}, json={"dataset_id": dataset_id}), "dry_run")
    assert num_jobs(api, server) == before


def test_same_key_and_body_make_one_job(api: httpx2.Client, server: Server, dataset_id: str) -> None:
    before = num_jobs(api, server)
    body = {"dataset_id": dataset_id, **TRAINING}
    answers = [api.post("/v1/jobs", json=body, headers={"Idempotency-Key": "submit-1"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
    assert num_jobs(api, server) == (before[0] + 1, before[1] + 1)


def test_key_ignores_how_the_body_is_written(api: httpx2.Client, dataset_id: str) -> None:
    bodies = [b'{"dataset_id":"%s","seed":1}', b'{ "seed": 1,\n"dataset_id": "%s" }']
    headers = {"Idempotency-Key": "submit-2", "Content-Type": "application/json"}
    ids = {api.post("/v1/jobs", content=body % dataset_id.encode(), headers=headers).json()["id"] for body in bodies}
    assert len(ids) == 1


def test_same_key_with_another_body_is_refused(api: httpx2.Client, server: Server, dataset_id: str) -> None:
    headers = {"Idempotency-Key": "submit-3"}
    job_id = api.post("/v1/jobs", json={"dataset_id": dataset_id, "seed": 1}, headers=headers).json()["id"]
    before = num_jobs(api, server)
    response = api.post("/v1/jobs", json={"dataset_id": dataset_id, "seed": 2}, headers=headers)
    assert job_id in problem(response, 422, "idempotency_mismatch")["detail"]
    assert num_jobs(api, server) == before


def test_key_at_the_same_time_makes_one_job(server: Server, api: httpx2.Client, dataset_id: str) -> None:
    before = num_jobs(api, server)
    answers: list[httpx2.Response] = []

    def send() -> None:
        headers = {"Idempotency-Key": "submit-4"}
        answers.append(httpx2.post(f"{server.url}/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}, headers=headers, trust_env=False))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert num_jobs(api, server) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("key", ["", "x" * 256, "has space", "\xe9"])
def test_bad_key_is_refused(api: httpx2.Client, dataset_id: str, key: str) -> None:
    response = api.post("/v1/jobs", json={"dataset_id": dataset_id}, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    field_error(response, "Idempotency-Key")


def test_list_filters_and_pages(api: httpx2.Client, submit: Submit) -> None:
    older, *made = [submit() for _ in range(4)]
    api.post(f"/v1/jobs/{made[1]}/cancel")
    page = api.get("/v1/jobs?limit=2&status=queued").json()
    assert [job["id"] for job in page["data"]] == [made[2], made[0]]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, made[2], made[0])
    assert api.get(f"/v1/jobs?limit=1&status=queued&after={made[0]}").json()["data"][0]["id"] == older
    assert [job["id"] for job in api.get(f"/v1/jobs?limit=1&after={made[2]}").json()["data"]] == [made[1]]
    assert [job["id"] for job in api.get(f"/v1/jobs?limit=1&before={made[0]}").json()["data"]] == [made[1]]
    assert [job["id"] for job in api.get(f"/v1/jobs?order=asc&after={made[0]}&kind=train").json()["data"]] == made[1:]


def test_empty_page_has_no_ids(api: httpx2.Client) -> None:
    page = api.get("/v1/jobs?status=paused").json()
    assert page == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


def test_cancel_of_a_queued_job_is_immediate_and_can_be_repeated(api: httpx2.Client, submit: Submit) -> None:
    job_id = submit()
    for _ in range(2):
        job = api.post(f"/v1/jobs/{job_id}/cancel").json()
        assert (job["status"], job["terminal"], job["allowed_actions"]) == ("cancelled", True, ["delete"])


def test_stop_of_a_running_job_is_requested(api: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.claim(job_id)
    assert api.post(f"/v1/jobs/{job_id}/stop", json={"when": "cycle_end"}).json()["requested_action"] == "stop_cycle_end"
    assert api.post(f"/v1/jobs/{job_id}/stop").json()["requested_action"] == "stop_now"
    job = api.post(f"/v1/jobs/{job_id}/cancel", json={}).json()
    assert (job["status"], job["phase"], job["requested_action"]) == ("running", "stopping", "cancel")


def test_actions_that_the_state_forbids_say_what_it_allows(api: httpx2.Client, submit: Submit) -> None:
    job_id = submit()
    assert problem(api.post(f"/v1/jobs/{job_id}/stop"), 409, "invalid_state")["allowed_actions"] == ["cancel", "pause"]
    assert problem(api.delete(f"/v1/jobs/{job_id}"), 409, "invalid_state")["allowed_actions"] == ["cancel", "pause"]


def test_cancel_of_a_finished_job_is_refused(api: httpx2.Client, finished_job: str) -> None:
    assert problem(api.post(f"/v1/jobs/{finished_job}/cancel"), 409, "invalid_state")["allowed_actions"] == ["delete", "extend"]


def test_bad_stop_is_named(api: httpx2.Client, submit: Submit) -> None:
    field_error(api.post(f"/v1/jobs/{submit()}/stop", json={"when": "later"}), "#/when")


def test_cancel_takes_no_options(api: httpx2.Client, submit: Submit) -> None:
    field_error(api.post(f"/v1/jobs/{submit()}/cancel", json={"force": True}), "#/force")


def test_deleted_job_is_gone_with_its_files(api: httpx2.Client, server: Server, submit: Submit, worker: Worker) -> None:
    job_id = submit()
    worker.run(job_id)
    assert api.delete(f"/v1/jobs/{job_id}").status_code == 204
    for path in ("", "/events", "/metrics", "/snapshots", "/result"):
        problem(api.get(f"/v1/jobs/{job_id}{path}"), 404, "not_found")
    problem(api.post(f"/v1/ensembles/{job_id.replace('job_', 'ens_')}/predict", json={"inputs": [[1, 2, 3, 4]]}), 404, "not_found")
    assert job_id not in server.services.artifacts.list_names("jobs")


@pytest.mark.parametrize("job_id", ["job_01JDEADBEEF0000000000000000", "job_", "%00", "%ff", "..%2f..%2fetc", "j" * 500])
def test_unknown_job_is_a_404(api: httpx2.Client, job_id: str) -> None:
    problem(api.get(f"/v1/jobs/{job_id}"), 404, "not_found")


def test_unknown_method_names_the_known_ones(api: httpx2.Client) -> None:
    response = api.put("/v1/jobs", json={})
    problem(response, 405, "method_not_allowed")
    assert "POST" in response.headers["allow"]


def test_job_is_published_after_it_was_accepted(api: httpx2.Client, server: Server, submit: Submit) -> None:
    job_id = submit()
    redis = server.services.store._redis
    wait_until(lambda: any(job_id in str(message) for message in redis.lrange("snapcycle:snapcycle", 0, -1)))
