"""GET /metrics, read by Prometheus' own parser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.conftest import TRAINING, Trained
from tests.service.keyed_service import KeyedService, keyed_service
from worker.job_store import Commit
from worker.jobs import JobStatus


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    with keyed_service(tmp_path_factory.mktemp("metrics"), trained) as running:
        yield running


def scrape(api: httpx2.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    response = api.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_jobs_queue_and_lost_leases_are_counted(service: KeyedService) -> None:
    a, store = service.tenants["a"], service.server.services.store
    before = scrape(a.api)
    assert before["snapcycle_jobs", (("status", "succeeded"),)] == 2, "of all tenants"
    assert before["snapcycle_up", (("component", "redis"),)] == 1
    assert 0 < before["snapcycle_redis_memory_ratio", ()] < 0.7
    assert before["snapcycle_quarantined_artifacts", ()] == 0
    job_id = a.api.post("/v1/jobs", json={"dataset_id": a.dataset_id, **TRAINING}).json()["id"]
    waiting = scrape(a.api)
    assert waiting["snapcycle_queue_depth", ()] == before["snapcycle_queue_depth", ()] + 1
    assert 0 <= waiting["snapcycle_queue_age_seconds", ()] < 60
    service.worker.claim(job_id)
    store.expire_owner("worker_test")
    assert store.requeue_expired(job_id, 3) == "requeued"
    assert store.commit_snapshot(job_id, service.worker.epochs[job_id], 0, {"id": "late"}) is Commit.FENCED
    after = scrape(a.api)
    assert after["snapcycle_lease_expiries_total", ()] == before["snapcycle_lease_expiries_total", ()] + 1
    assert after["snapcycle_fenced_commits_total", ()] == before["snapcycle_fenced_commits_total", ()] + 1
    a.api.post(f"/v1/jobs/{job_id}/cancel")
    assert store.counts()[JobStatus.CANCELLED] >= 1


def test_requests_are_counted_by_route_and_no_path_or_key_becomes_a_label(service: KeyedService) -> None:
    a = service.tenants["a"]

    def count(route: str, status: str) -> float:
        return scrape(a.api).get(("snapcycle_requests_total", (("method", "GET"), ("route", route), ("status", status))), 0)

    known, unknown = count("/v1/jobs/{job_id}", "200"), count("unknown", "404")
    a.api.get(f"/v1/jobs/{a.job_id}")
    a.api.get(f"/{a.keys['all']}")
    assert count("/v1/jobs/{job_id}", "200") == known + 1
    assert count("unknown", "404") == unknown + 1
    text = a.api.get("/metrics").text
    assert a.keys["all"][:11] not in text
    assert a.job_id not in text
    assert 'tenant="' not in text


def test_recoveries_are_told_as_a_histogram(service: KeyedService) -> None:
    a, store = service.tenants["a"], service.server.services.store
    before = scrape(a.api)
    job_id = a.api.post("/v1/jobs", json={"dataset_id": a.dataset_id, **TRAINING}).json()["id"]
    service.worker.claim(job_id)
    assert store.fail_attempt(job_id, service.worker.epochs[job_id], "killed", 3) == "requeued"
    assert store.next_job() == job_id
    store._redis.hincrby(f"snapcycle:job:{job_id}", "lost_at", -7000)  # it was lost seven seconds earlier
    service.worker.claim(job_id)
    after = scrape(a.api)

    def grown(name: str, *labels: tuple[str, str]) -> float:
        return after[name, labels] - before.get((name, labels), 0)

    buckets = [grown("snapcycle_recovery_seconds_bucket", ("le", le)) for le in ("1.0", "5.0", "10.0", "600.0", "+Inf")]
    assert buckets == [0, 0, 1, 1, 1]
    assert grown("snapcycle_recovery_seconds_count") == 1
    assert 7.0 <= grown("snapcycle_recovery_seconds_sum") < 10.0
    assert store.release(job_id, service.worker.epochs[job_id], "drained")
    service.worker.claim(job_id)
    assert scrape(a.api)["snapcycle_recovery_seconds_count", ()] == after["snapcycle_recovery_seconds_count", ()], "a drain loses nothing"
    a.api.post(f"/v1/jobs/{job_id}/cancel")


def test_predictions_are_timed_where_they_succeed(service: KeyedService) -> None:
    a = service.tenants["a"]
    path = f"/v1/ensembles/{a.ensemble_id}/predict"
    before = scrape(a.api)["snapcycle_prediction_seconds_count", ()]
    assert a.api.post(path, json={"inputs": [[0.0, 0.0, 0.0, 0.0]]}).status_code == 200
    assert a.api.post(path, json={"inputs": [[0.0]]}).status_code == 422
    after = scrape(a.api)
    assert after["snapcycle_prediction_seconds_count", ()] == before + 1
    assert after["snapcycle_prediction_seconds_bucket", (("le", "+Inf"),)] == before + 1


COUNT_TWICE = """
import sys
from service.metrics import RequestCounts
counts = RequestCounts()
for _ in range(2):
    counts.add(method="POST", route="/v1/ensembles/{ensemble_id}/predict", status=200, seconds=0.25)
sys.stdout.buffer.write(counts.exposition())
"""


def test_counts_of_several_processes_are_summed(tmp_path: Path) -> None:
    """Also of those that have ended: a count never goes back."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    told = [
        subprocess.run([sys.executable, "-c", COUNT_TWICE], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    samples = {sample.name: sample.value for family in text_string_to_metric_families(told[-1]) for sample in family.samples}
    assert samples["snapcycle_requests_total"] == 4
    assert samples["snapcycle_prediction_seconds_count"] == 4
    assert samples["snapcycle_prediction_seconds_sum"] == 1.0
