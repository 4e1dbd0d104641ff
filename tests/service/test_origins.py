"""Which Host and Origin headers a request may have."""

from collections.abc import Iterator

import httpx2
import pytest

from service.origins import is_loopback
from tests.service.conftest import Server, make_settings, problem
from worker.valkey_server import ValkeyServer


@pytest.fixture(scope="module")
def open_api(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client of a server that is told to listen everywhere."""
    with (
        Server(make_settings(valkey, tmp_path_factory.mktemp("open"), host="0.0.0.0")) as running,
        httpx2.Client(base_url=running.url, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3:1", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_are_served(api: httpx2.Client, host: str) -> None:
    assert api.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "x@localhost", "10.0.0.1", "::1", ""]
)
def test_other_hosts_are_refused_where_only_this_machine_is_served(api: httpx2.Client, open_api: httpx2.Client, host: str) -> None:
    document = problem(api.get("/v1/jobs", headers={"Host": host}), 421, "misdirected")
    assert f'got "{host}"' in document["detail"]
    assert open_api.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_changes_from_foreign_pages_are_refused_everywhere(api: httpx2.Client, open_api: httpx2.Client, origin: str) -> None:
    for client in (api, open_api):
        for method, path in (("POST", "/v1/jobs"), ("DELETE", "/v1/datasets/ds_x")):
            document = problem(client.request(method, path, headers={"Origin": origin}), 403, "forbidden")
            assert origin in document["detail"]
        assert client.get("/livez", headers={"Origin": origin}).status_code == 200


def test_changes_from_the_service_s_own_pages_are_let_through(api: httpx2.Client, server: Server, open_api: httpx2.Client) -> None:
    response = api.delete("/v1/datasets/ds_x", headers={"Origin": f"http://127.0.0.1:{server.port}"})
    problem(response, 404, "not_found")
    behind_tls = {"Host": "snap.example", "Origin": "https://snap.example"}
    problem(open_api.delete("/v1/datasets/ds_x", headers=behind_tls), 404, "not_found")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("api", False)],
)
def test_listening_addresses_of_this_machine_only(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
