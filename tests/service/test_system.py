"""Liveness, readiness, capabilities, queue, and the OpenAPI document."""

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import httpx2
import pytest

from clr.config import MlpParams
from service.openapi import HAND_READ
from tests.service.conftest import Server, Worker, field_error, problem
from worker.job_requests import REQUESTS

Submit = Callable[..., str]
Json = dict[str, Any]


def test_ready_names_its_components(api: httpx2.Client) -> None:
    response = api.get("/readyz")
    assert response.status_code == 200
    components = response.json()["components"]
    assert components["redis"] == {"status": "up", "required": True}
    assert components["artifacts"] == {"status": "up", "required": True}
    assert components["workers"] == {"status": "down", "required": False, "count": 0}


def test_capabilities_describe_every_choice(api: httpx2.Client, server: Server) -> None:
    found = api.get("/v1/capabilities").json()
    assert [entry["name"] for entry in found["architectures"]] == ["mlp", "small_cnn", "resnet", "wide_resnet"]
    assert found["architectures"][0]["schema"] == MlpParams.model_json_schema()
    assert {"fixed", "step", "exponential", "cosine", "warm_restarts"} <= {entry["name"] for entry in found["schedules"]}
    assert [entry["name"] for entry in found["optimizers"]] == ["sgd", "adamw"]
    assert "flip_crop" in found["augmentations"]
    assert found["limits"]["max_upload_bytes"] == found["limits"]["max_dataset_bytes"] == server.settings.max_upload_bytes
    assert found["datasets"]["builtin"] == ["digits", "fashion-mnist"]
    assert found["versions"]["torch"].startswith("2.")


def test_devices_are_those_of_the_workers(api: httpx2.Client, server: Server) -> None:
    server.services.store.register_worker("worker_1", {"device": "cuda:0"}, 60_000)
    try:
        assert api.get("/v1/capabilities").json()["devices"] == ["cuda:0"]
        assert api.get("/readyz").json()["components"]["workers"]["count"] == 1
        assert api.get("/v1/queue").json()["workers"][0]["device"] == "cuda:0"
    finally:
        server.services.store.forget_worker("worker_1")


def test_queue_counts_and_says_why_jobs_wait(api: httpx2.Client, submit: Submit, worker: Worker) -> None:
    before = api.get("/v1/queue").json()
    waiting, running = submit(), submit()
    worker.claim(running)
    after = api.get("/v1/queue").json()
    assert (after["depth"], after["running"]) == (before["depth"] + 1, before["running"] + 1)
    assert "snapcycle worker" in after["reason"]
    assert api.get(f"/v1/jobs/{waiting}").json()["queue"]["position"] >= 1


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/jobs/", "/v2/models", "/v1/metrics"])
def test_unknown_path_is_a_problem(api: httpx2.Client, path: str) -> None:
    problem(api.get(path), 404, "not_found")


def test_unknown_path_says_where_the_known_ones_are(api: httpx2.Client) -> None:
    assert "/openapi.json lists all" in problem(api.get("/v1/nothing"), 404, "not_found")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/v1/jobs/job_x", "DELETE, GET, HEAD"),
        ("GET", "/v1/jobs/job_x/cancel", "POST"),
        ("HEAD", "/v1/jobs/job_x/cancel", "POST"),
        ("POST", "/v1/snapshots/x/weights", "GET, HEAD"),
        ("PUT", "/v1/datasets", "GET, HEAD, POST"),
    ],
)
def test_wrong_method_names_all_that_the_path_takes(api: httpx2.Client, method: str, path: str, allowed: str) -> None:
    response = api.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        assert "use one of the Allow header" in problem(response, 405, "method_not_allowed")["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/livez"),
        ("GET", "/v1/capabilities"),
        ("GET", "/v1/jobs/job_x"),
        ("GET", "/v1/jobs/job_x/result"),
        ("GET", "/v1/snapshots/snap_x"),
        ("GET", "/v1/ensembles/ens_x"),
        ("GET", "/v1/datasets/ds_x/preview"),
        ("DELETE", "/v1/datasets/ds_x"),
        ("POST", "/v1/datasets"),
        ("POST", "/v1/schedules/preview"),
        ("POST", "/v1/jobs/job_x/stop"),
    ],
)
def test_parameter_that_a_path_does_not_know_is_refused(api: httpx2.Client, method: str, path: str) -> None:
    error = field_error(api.request(method, f"{path}?fresh=1"), "fresh")
    assert error["hint"] == "remove it; this path takes none"


def test_mistyped_parameter_is_answered_with_the_likeliest(api: httpx2.Client) -> None:
    error = field_error(api.get("/v1/jobs?stats=failed"), "stats")
    assert error["did_you_mean"] == ["status"]
    assert "status" in error["hint"]


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_openapi_describes_the_bodies_that_are_read_by_hand(api: httpx2.Client) -> None:
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for model in HAND_READ:
        assert set(schemas[model.__name__]["properties"] if model.model_fields else {}) == set(model.model_fields)
    for method, path, operation in operations(document):
        if method == "post":
            content = operation["requestBody"]["content"]
            assert all("schema" in media for media in content.values()), path
            assert any("example" in media or "examples" in media for media in content.values()), path
    assert set(document["paths"]["/v1/ensembles/{ensemble_id}/predict"]["post"]["requestBody"]["content"]) == {
        "application/json",
        "application/x-npy",
        "application/octet-stream",
        "image/png",
        "image/jpeg",
    }


def test_openapi_references_lead_somewhere(api: httpx2.Client) -> None:
    document = api.get("/openapi.json").json()
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_openapi_example_of_a_job_is_valid(api: httpx2.Client) -> None:
    operation = api.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert list(examples) == list(REQUESTS)
    for kind, model in REQUESTS.items():
        model.model_validate(examples[kind]["value"])


def test_docs_page_lists_every_operation_and_loads_nothing(api: httpx2.Client) -> None:
    response = api.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "script-src" not in response.headers["content-security-policy"]
    for method, path, operation in operations(api.get("/openapi.json").json()):
        assert f"<b>{method.upper()}</b> {path}" in response.text
        assert escape(operation["summary"]) in response.text or escape(operation["description"]) in response.text
    assert "http://" not in response.text
    assert "<script" not in response.text


def test_every_operation_documents_problems_and_has_a_summary(api: httpx2.Client) -> None:
    document = api.get("/openapi.json").json()
    ids = []
    for _, path, operation in operations(document):
        assert operation["summary"], path
        assert operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("ProblemDocument")
        ids.append(operation["operationId"])
    assert len(set(ids)) == len(ids)
