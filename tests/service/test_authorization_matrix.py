"""Every route x {own, foreign, unknown, no key, wrong scope, revoked, expired}: the rows come from the application, none can be missing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from service.app import create_app
from service.authorization import PUBLIC, ROUTE_SCOPES
from service.principals import Scope
from tests.service.conftest import TRAINING, Trained, npz_bytes, problem, upload, wait_until
from tests.service.keyed_service import RANGE_TEST, STUDY, KeyedService, Tenant, keyed_service, routes_of
from worker.ids import ensemble_id_of, new_id, snapshot_id_of
from worker.settings import Settings

Json = dict[str, Any]

ROUTES = routes_of(create_app(Settings(redis_url="redis://nowhere")))
GUARDED = [route for route in ROUTES if ROUTE_SCOPES.get(route) is not PUBLIC]
WITH_IDS = [route for route in GUARDED if "{" in route[1]]

UNKNOWN_JOB = new_id("job")
UNKNOWN: dict[str, str] = {
    "job_id": UNKNOWN_JOB,
    "dataset_id": new_id("ds"),
    "snapshot_id": snapshot_id_of(UNKNOWN_JOB, 0),
    "ensemble_id": ensemble_id_of(UNKNOWN_JOB),
    "key_id": "zzzzzzzz",
    "name": "unknown-alias",
}
"""An id of each kind that nobody has. A parameter that is missing here fails the tests of its route."""

TENSOR = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 0.0, 0.0, 0.0]}]}
BODIES: dict[tuple[str, str], Json] = {
    ("POST", "/v1/jobs/{job_id}/extend"): {"cycles": 1},
    ("POST", "/v1/ensembles/{ensemble_id}/predict"): {"inputs": [[0.0, 0.0, 0.0, 0.0]]},
    ("POST", "/v2/models/{ensemble_id}/infer"): TENSOR,
    ("POST", "/v2/models/{ensemble_id}/versions/{version}/infer"): TENSOR,
}


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """Two tenants; no request is too many."""
    with keyed_service(tmp_path_factory.mktemp("keyed"), trained, rate_limit=10**6, rate_burst=10**6) as running:
        yield running


@pytest.fixture(scope="module")
def a(service: KeyedService) -> Tenant:
    return service.tenants["a"]


@pytest.fixture(scope="module")
def b(service: KeyedService) -> Tenant:
    return service.tenants["b"]


def test_every_route_has_a_scope_and_every_scope_a_route() -> None:
    assert set(ROUTE_SCOPES) == set(ROUTES)


def path_of(route: tuple[str, str], ids: dict[str, str]) -> str:
    """The route's path with these ids; figures have a name beside their job's id, which is no one's."""
    if route[1].endswith("/figures/{name}"):
        ids = ids | {"name": "schedule"}
    return route[1].format(**ids, **({"version": "1"} if "{version}" in route[1] else {}))


def send(api: httpx2.Client, route: tuple[str, str], ids: dict[str, str]) -> httpx2.Response:
    body = BODIES.get(route)
    if route == ("PUT", "/v1/aliases/{name}"):
        body = {"ensemble_id": ids["ensemble_id"]}
    return api.request(route[0], path_of(route, ids), json=body)


def ids_of(tenant: Tenant, service: KeyedService, route: tuple[str, str]) -> dict[str, str]:
    """Objects of the tenant; what the route would delete or take up again is made for it."""
    ids = {
        "job_id": tenant.job_id,
        "dataset_id": tenant.dataset_id,
        "snapshot_id": tenant.snapshot_ids[0],
        "ensemble_id": tenant.ensemble_id,
    }
    if route == ("DELETE", "/v1/jobs/{job_id}"):
        job_id = tenant.api.post("/v1/jobs", json={"dataset_id": tenant.dataset_id, **TRAINING}).json()["id"]
        tenant.api.post(f"/v1/jobs/{job_id}/cancel")
        ids["job_id"] = job_id
    if route == ("POST", "/v1/jobs/{job_id}/extend"):
        ids["job_id"] = service.finished_job(tenant)
    if route == ("DELETE", "/v1/datasets/{dataset_id}"):
        ids["dataset_id"] = upload(tenant.api, npz_bytes(x=service.trained.x, y=service.trained.y)).json()["id"]
    if "{key_id}" in route[1]:
        ids["key_id"] = service.key(tenant.name, Scope.READ)[3:11]
    if route[1].startswith("/v1/aliases"):
        ids["name"] = f"alias-of-{tenant.name}"
        assert tenant.api.put(f"/v1/aliases/{ids['name']}", json={"ensemble_id": tenant.ensemble_id}).is_success
    return ids


def without_ids(response: httpx2.Response, ids: dict[str, str]) -> tuple[int, Json | bytes, dict[str, str]]:
    """Status, body and headers of an answer, without what must differ: the id that was asked for, the request's and the time."""
    body = response.content.decode()
    for value in ids.values():
        body = body.replace(value, "ID")
    request_id = response.headers["x-request-id"]
    ignored = ("x-request-id", "date", "content-length", "ratelimit")
    headers = {name: value for name, value in response.headers.items() if name not in ignored}
    return response.status_code, body.replace(request_id, "REQUEST").encode(), headers


@pytest.fixture(scope="module")
def strangers(service: KeyedService, a: Tenant) -> Iterator[list[httpx2.Client]]:
    """Clients without a key, and with keys that open nothing."""
    ring = service.server.services.door.ring
    revoked, expired = service.key("a"), service.key("a", expires_in_days=1e-9)
    assert ring.store.revoke(revoked[3:11])
    ring.refresh()
    wrong_secret = a.keys["all"][:-1] + ("A" if a.keys["all"][-1] != "A" else "B")
    with ExitStack() as stack:
        yield [
            stack.enter_context(service.client(key))
            for key in (None, revoked, expired, "sk_zzzzzzzz_" + 43 * "A", wrong_secret, "nonsense")
        ]


@pytest.fixture(scope="module")
def scoped(service: KeyedService) -> Iterator[dict[tuple[Scope, bool], httpx2.Client]]:
    """For each scope a client that has it alone (True), and one that has all others (False)."""
    with ExitStack() as stack:
        yield {
            (scope, has_it): stack.enter_context(service.client(service.key("a", *(each for each in Scope if (each is scope) is has_it))))
            for scope in Scope
            for has_it in (True, False)
        }


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_only_a_valid_key_with_the_scope_opens_a_route(
    route: tuple[str, str], strangers: list[httpx2.Client], scoped: dict[tuple[Scope, bool], httpx2.Client]
) -> None:
    for api in strangers:
        response = send(api, route, UNKNOWN)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        if route[0] != "HEAD":
            problem(response, 401, "unauthenticated")
    scope = ROUTE_SCOPES[route]
    assert scope is not None
    response = send(scoped[scope, False], route, UNKNOWN)
    assert response.status_code == 403
    if route[0] != "HEAD":
        assert f"the scope {scope}" in problem(response, 403, "forbidden")["detail"]
    assert send(scoped[scope, True], route, UNKNOWN).status_code not in (401, 403)


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in GUARDED], ids=" ".join)
def test_public_routes_need_no_key_and_say_the_same_to_everyone(route: tuple[str, str], service: KeyedService, a: Tenant) -> None:
    path = route[1].format(code="not_found", name="none.js")
    with service.client(None) as nobody, service.client("nonsense") as wrong:
        bodies = [without_ids(api.request(route[0], path), {})[:2] for api in (nobody, wrong, a.api)]
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0][0] in (200, 404)


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
def test_foreign_and_unknown_ids_have_the_same_404_and_own_ones_another_answer(
    route: tuple[str, str], service: KeyedService, a: Tenant, b: Tenant
) -> None:
    foreign = ids_of(b, service, route)
    answers = [(send(a.api, route, ids), ids) for ids in (foreign, UNKNOWN)]
    if route == ("PUT", "/v1/aliases/{name}"):  # the name is the sender's to choose, the ensemble is not
        answers = [(a.api.put("/v1/aliases/new", json={"ensemble_id": ids["ensemble_id"]}), ids) for ids in (foreign, UNKNOWN)]
        assert {response.status_code for response, _ in answers} <= {404, 422}
    else:
        assert [response.status_code for response, _ in answers] == [404, 404]
    assert without_ids(*answers[0]) == without_ids(*answers[1])
    own = send(a.api, route, ids_of(a, service, route))
    assert own.status_code in (200, 202, 204, 409), f"{own.status_code}: {own.text}"
    still_there = send(b.api, route, foreign)
    assert still_there.status_code in (200, 202, 204, 409), "the foreign request changed nothing"


REFERENCES: dict[str, Callable[[Tenant, dict[str, str]], httpx2.Response]] = {
    "dataset of a training": lambda own, ids: own.api.post("/v1/jobs", json={"dataset_id": ids["dataset_id"], **TRAINING}),
    "dataset of a range test": lambda own, ids: own.api.post("/v1/jobs", json={"dataset_id": ids["dataset_id"], **RANGE_TEST}),
    "dataset of a study": lambda own, ids: own.api.post("/v1/jobs", json={**STUDY, "dataset_id": ids["dataset_id"]}),
    "dataset of a dry run": lambda own, ids: own.api.post("/v1/jobs?dry_run=true", json={"dataset_id": ids["dataset_id"], **TRAINING}),
    "range test of a training": lambda own, ids: own.api.post(
        "/v1/jobs",
        json={
            "dataset_id": own.dataset_id,
            **TRAINING,
            "schedule": {**TRAINING["schedule"], "max_lr": {"from_job": ids["job_id"]}},
        },
    ),
    "range test of a study": lambda own, ids: own.api.post(
        "/v1/jobs",
        json={**STUDY, "dataset_id": own.dataset_id, "max_lr": {"from_job": ids["job_id"]}},
    ),
    "job of an evaluation": lambda own, ids: own.api.post("/v1/jobs", json={"kind": "evaluate", "job_id": ids["job_id"]}),
    "members of an ensemble": lambda own, ids: own.api.post("/v1/ensembles", json={"members": [ids["snapshot_id"]]}),
    "job beside a figure's": lambda own, ids: own.api.get(f"/v1/jobs/{own.job_id}/figures?against={ids['job_id']}"),
    "job beside one figure's": lambda own, ids: own.api.get(f"/v1/jobs/{own.job_id}/figures/schedule?against={ids['job_id']}"),
}


@pytest.mark.parametrize("reference", REFERENCES)
def test_foreign_and_unknown_references_have_the_same_refusal(reference: str, service: KeyedService, a: Tenant, b: Tenant) -> None:
    foreign = ids_of(b, service, ("GET", ""))
    refer = REFERENCES[reference]
    answers = [(refer(a, ids), ids) for ids in (foreign, UNKNOWN)]
    assert [response.status_code for response, _ in answers] == [422, 422]
    assert "there is no" in answers[0][0].text
    assert without_ids(*answers[0]) == without_ids(*answers[1])
    own = refer(a, ids_of(a, service, ("GET", "")))
    assert "there is no" not in own.text, "the same request with an own id gets further"


def test_the_runs_of_a_study_are_its_tenant_s(service: KeyedService, a: Tenant, b: Tenant) -> None:
    study = a.api.post("/v1/jobs", json={**STUDY, "dataset_id": a.dataset_id}).json()["id"]
    store = service.server.services.store
    wait_until(lambda: any(job.parent_id == study for job in store.list(limit=100).records))
    for job in store.list(limit=100).records:
        if job.parent_id == study:
            assert a.api.get(f"/v1/jobs/{job.id}").status_code == 200
            problem(b.api.get(f"/v1/jobs/{job.id}"), 404, "not_found")
    a.api.post(f"/v1/jobs/{study}/cancel")


def test_events_are_streamed_to_their_tenant_alone(a: Tenant, b: Tenant) -> None:
    for media_type in ("application/json", "text/event-stream", "application/jsonl"):
        own = a.api.get(f"/v1/jobs/{a.job_id}/events", headers={"Accept": media_type})
        assert own.status_code == 200
        assert "succeeded" in own.text
        problem(b.api.get(f"/v1/jobs/{a.job_id}/events", headers={"Accept": media_type}), 404, "not_found")


def test_ensembles_that_were_put_together_are_their_tenant_s(a: Tenant, b: Tenant) -> None:
    for suffix, body in (("", None), ("/predict", {"inputs": [[0.0] * 4]})):
        method = "POST" if body else "GET"
        own = a.api.request(method, f"/v1/ensembles/{a.chosen_id}{suffix}", json=body)
        assert own.status_code == 200
        problem(b.api.request(method, f"/v1/ensembles/{a.chosen_id}{suffix}", json=body), 404, "not_found")


def test_lists_and_the_queue_have_only_own_objects(service: KeyedService, a: Tenant, b: Tenant) -> None:
    waiting = b.api.post("/v1/jobs", json={"dataset_id": b.dataset_id, **TRAINING}).json()["id"]
    try:
        depth = a.api.get("/v1/queue").json()["depth"]
        assert b.api.get("/v1/queue").json()["depth"] >= 1
        for path, own, foreign in (
            ("/v1/jobs", a.job_id, b.job_id),
            ("/v1/datasets", a.dataset_id, b.dataset_id),
            ("/v1/api-keys", a.keys["all"][3:11], b.keys["all"][3:11]),
        ):
            listed = {each["id"] for page in pages(a.api, path) for each in page["data"]}
            assert own in listed
            assert foreign not in listed
            assert waiting not in listed
        another = b.api.post("/v1/jobs", json={"dataset_id": b.dataset_id, **TRAINING}).json()["id"]
        assert a.api.get("/v1/queue").json()["depth"] == depth, "a foreign job does not show"
        b.api.post(f"/v1/jobs/{another}/cancel")
    finally:
        b.api.post(f"/v1/jobs/{waiting}/cancel")


def pages(api: httpx2.Client, path: str) -> Iterator[Json]:
    page = api.get(path, params={"limit": 100}).json()
    yield page
    while page["has_more"]:
        page = api.get(path, params={"limit": 100, "after": page["last_id"]}).json()
        yield page


def test_the_same_idempotency_key_of_two_tenants_makes_two_jobs(a: Tenant, b: Tenant) -> None:
    headers = {"Idempotency-Key": "shared"}
    made = [
        tenant.api.post("/v1/jobs", headers=headers, json={"dataset_id": tenant.dataset_id, **TRAINING}).json()["id"] for tenant in (a, b)
    ]
    datasets = [
        tenant.api.post("/v1/datasets", headers=headers, json={"source": {"type": "builtin", "name": "digits"}}).json()["id"]
        for tenant in (a, b)
    ]
    assert made[0] != made[1]
    assert datasets[0] != datasets[1]
    for tenant, job_id in zip((a, b), made, strict=True):
        tenant.api.post(f"/v1/jobs/{job_id}/cancel")


def test_only_the_operator_manages_foreign_keys(service: KeyedService, a: Tenant) -> None:
    response = a.api.post("/v1/api-keys", json={"scopes": ["read"], "tenant": "b"})
    assert problem(response, 422, "validation_error")["errors"][0]["pointer"] == "#/tenant"
    with service.client(service.key("default", Scope.ADMIN)) as operator:
        made = operator.post("/v1/api-keys", json={"scopes": ["read"], "tenant": "b"})
        assert made.status_code == 201
        assert operator.get(f"/v1/api-keys/{a.keys['all'][3:11]}").json()["tenant"] == "a"
        with service.client(made.json()["key"]) as reader:
            assert reader.get("/v1/queue").status_code == 200
            assert operator.delete(f"/v1/api-keys/{made.json()['id']}").status_code == 200
            problem(reader.get("/v1/queue"), 401, "unauthenticated")


def test_a_foreign_alias_stands_for_nothing(service: KeyedService, a: Tenant, b: Tenant) -> None:
    foreign = ids_of(b, service, ("GET", "/v1/aliases/{name}"))["name"]
    assert b.api.get(f"/v1/ensembles/{foreign}").json()["id"] == b.ensemble_id
    for suffix, body in (("", None), ("/predict", {"inputs": [[0.0] * 4]})):
        method = "POST" if body else "GET"
        answers = [(a.api.request(method, f"/v1/ensembles/{name}{suffix}", json=body), {"name": name}) for name in (foreign, "unknown")]
        assert [response.status_code for response, _ in answers] == [404, 404]
        assert without_ids(*answers[0]) == without_ids(*answers[1])
    assert foreign not in a.api.get("/v1/aliases").text
