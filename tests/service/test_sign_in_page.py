"""Figure pages while keys are asked for: the page asks for one, keeps it in the tab and sends it in a header."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.principals import Scope
from tests.service.browser import CHROMIUM, browser
from tests.service.conftest import Trained, problem
from tests.service.keyed_service import KeyedService, keyed_service

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    with keyed_service(tmp_path_factory.mktemp("signed-in"), trained) as running:
        yield running


def test_only_pages_ask_and_only_who_sent_no_key(service: KeyedService) -> None:
    job_id = service.tenants["a"].job_id
    with service.client(None) as nobody:
        asked = nobody.get(f"/v1/jobs/{job_id}/figures", headers=HTML)
        assert (asked.status_code, asked.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert asked.headers["www-authenticate"] == 'Bearer realm="snapcycle"'
        assert "form-action 'none'" in asked.headers["content-security-policy"]
        assert "connect-src 'self'" in asked.headers["content-security-policy"]
        assert job_id not in asked.text
        assert asked.text == nobody.get("/v1/jobs/job_unknown/figures/schedule?against=x", headers=HTML).text
        (script,) = [part.split('"')[0] for part in asked.text.split('src="')[1:]]
        assert nobody.get(script).headers["content-type"].startswith("text/javascript")
        problem(nobody.get(f"/v1/jobs/{job_id}/figures"), 401, "unauthenticated")
        problem(nobody.get(f"/v1/jobs/{job_id}", headers=HTML), 401, "unauthenticated")
    with service.client("sk_00000000_" + "x" * 43) as stranger:
        problem(stranger.get(f"/v1/jobs/{job_id}/figures", headers=HTML), 401, "unauthenticated")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_browser_is_asked_once_and_draws_with_the_key(service: KeyedService, tmp_path: Path) -> None:
    tenant = service.tenants["a"]
    url = f"{service.server.url}/v1/jobs/{tenant.job_id}/figures"

    def type_in(key: str) -> str:
        return f"document.querySelector('input').value = {json.dumps(key)}; document.querySelector('form').requestSubmit()"

    with browser(tmp_path) as page:
        page.open(url)
        page.wait_for("!document.querySelector('form').hidden")
        page.evaluate(type_in(service.key("a", Scope.PREDICT)))
        page.wait_for("document.querySelector('output').textContent.includes('this needs a key with the scope read')")
        assert page.evaluate("sessionStorage.length") == 0
        key = service.key("a", Scope.READ)
        page.evaluate(type_in(key))
        page.wait_for("document.querySelectorAll('figure .main-svg').length > 2")
        assert page.evaluate("document.querySelector('form')") is None
        assert page.evaluate("location.href") == url
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        assert page.evaluate("JSON.stringify(sessionStorage)") == json.dumps({"snapcycle-api-key": key}, separators=(",", ":"))
        asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name).join(' ')")
        assert url in asked
        assert "sk_" not in asked
        page.open(f"{url}/ensemble_size")  # the same tab is not asked again
        page.wait_for("document.querySelectorAll('figure .main-svg').length > 1")
        page.send("Emulation.setDeviceMetricsOverride", width=900, height=900, deviceScaleFactor=1, mobile=False)
        page.wait_for("document.querySelector('.main-svg').getBoundingClientRect().bottom > 850")  # nothing is blank below it
        assert page.evaluate("document.documentElement.scrollHeight") == 900
        assert service.server.services.door.ring.store.revoke(key.split("_")[1]) is not None
        service.server.services.door.ring.refresh()
        page.open(url)
        page.wait_for("document.querySelector('output')?.textContent.includes('was revoked')")
        assert page.evaluate("sessionStorage.length") == 0


def test_the_service_without_keys_shows_its_pages_at_once(api: httpx2.Client, finished_job: str) -> None:
    assert api.get(f"/v1/jobs/{finished_job}/figures", headers=HTML).status_code == 200
