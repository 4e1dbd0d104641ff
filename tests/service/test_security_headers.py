"""The protective headers of every answer: of every route, of errors of every kind, of pages."""

from collections.abc import Iterator

import httpx2
import pytest

from service.app import create_app
from service.security_headers import SECURITY_HEADERS
from tests.service.conftest import Server, make_settings
from tests.service.keyed_service import routes_of
from worker.settings import Settings
from worker.valkey_server import ValkeyServer

ROUTES = routes_of(create_app(Settings(redis_url="redis://nowhere")))
ALWAYS = ("x-content-type-options", "content-security-policy", "referrer-policy", "cross-origin-resource-policy", "x-request-id")


def check(response: httpx2.Response) -> None:
    """What holds for every answer."""
    headers = response.headers
    assert not [name for name in ALWAYS if name not in headers], headers
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "server" not in headers
    assert "x-powered-by" not in headers
    assert len(headers.get_list("content-security-policy")) == 1
    assert "Traceback" not in response.text
    assert 'File "' not in response.text


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_every_route_has_them_whatever_it_answers(api: httpx2.Client, route: tuple[str, str]) -> None:
    method, template = route
    path = template
    for name in ("job_id", "dataset_id", "snapshot_id", "ensemble_id", "key_id", "name", "code"):
        path = path.replace(f"{{{name}}}", "none")
    response = api.request(method, path, content=b"{" if method in ("POST", "PUT") else None)
    check(response)
    if not path.startswith("/assets"):
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PATCH", "/v1/jobs", 405), ("GET", "/v1/jobs?limit=x", 422), ("OPTIONS", "/v1/jobs", 405)],
)
def test_refusals_have_them(api: httpx2.Client, method: str, path: str, status: int) -> None:
    response = api.request(method, path)
    assert response.status_code == status
    check(response)


def test_pages_may_run_their_own_scripts_alone(api: httpx2.Client, finished_job: str) -> None:
    page = api.get(f"/v1/jobs/{finished_job}/figures", headers={"Accept": "text/html"})
    assert page.status_code == 200
    check(page)
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "http" not in policy.replace("http-equiv", "")
    docs = api.get("/docs")
    check(docs)
    assert "script-src" not in docs.headers["content-security-policy"]


def test_weights_may_be_kept_by_their_reader_alone(api: httpx2.Client, finished_job: str) -> None:
    snapshot = api.get(f"/v1/jobs/{finished_job}/snapshots").json()["data"][0]["id"]
    response = api.head(f"/v1/snapshots/{snapshot}/weights")
    assert response.headers["cache-control"].startswith("private")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.fixture
def broken(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A service with a defect."""

    def fail(*_: object) -> None:
        raise RuntimeError("a secret of the inside")

    with Server(make_settings(valkey, tmp_path_factory.mktemp("broken"))) as running:
        monkeypatch.setattr("service.routes.system.describe_limits", fail)
        yield running


def test_a_defect_has_them_and_says_nothing(broken: Server) -> None:
    response = httpx2.get(f"{broken.url}/v1/capabilities", trust_env=False)
    assert response.status_code == 500
    check(response)
    assert "secret" not in response.text
    assert {name.lower() for name in SECURITY_HEADERS} <= set(response.headers)
