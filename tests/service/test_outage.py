"""Redis frozen and killed: a quick 503, nothing half-made, and everything acknowledged is there afterwards."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.service.conftest import TRAINING, Server, Trained, Worker, make_settings, npz_bytes, problem, upload, wait_until
from tests.service.test_events import following, num_followers
from worker.redis_connection import connect
from worker.valkey_server import ValkeyServer

Json = dict[str, Any]
LIMIT_SECONDS = 6.0


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server that may be hurt."""
    with ValkeyServer(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def own_server(own_valkey: ValkeyServer, tmp_path: Path) -> Iterator[Server]:
    """An API on it."""
    with Server(make_settings(own_valkey, tmp_path / "data")) as server:
        yield server


@pytest.fixture
def own_api(own_server: Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with httpx2.Client(base_url=own_server.url, timeout=30, trust_env=False) as client:
        yield client


@contextmanager
def frozen(valkey: ValkeyServer) -> Iterator[None]:
    """The server neither answers nor closes its connections."""
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


@contextmanager
def killed(valkey: ValkeyServer) -> Iterator[None]:
    """The server is dead, and comes back with its log."""
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    wait_until(lambda: not valkey.is_running())
    try:
        yield
    finally:
        valkey.ensure_running()


AWAY = pytest.mark.parametrize("away", [frozen, killed])


def is_up(api: httpx2.Client) -> bool:
    return api.get("/readyz").status_code == 200


@pytest.mark.slow
@AWAY
def test_redis_away_is_a_quick_503_and_what_was_acknowledged_stays(
    own_api: httpx2.Client, own_server: Server, own_valkey: ValkeyServer, trained: Trained, away: Any
) -> None:
    dataset_id = upload(own_api, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
    body = {"dataset_id": dataset_id, **TRAINING}
    job_id = own_api.post("/v1/jobs", json=body).json()["id"]
    specs = own_server.services.artifacts.list_names("jobs")
    requests = [
        ("POST", "/v1/jobs", body),
        ("GET", "/v1/jobs", None),
        ("GET", f"/v1/jobs/{job_id}", None),
        ("POST", f"/v1/jobs/{job_id}/cancel", {}),
        ("GET", f"/v1/jobs/{job_id}/events", None),
        ("GET", f"/v1/jobs/{job_id}/metrics", None),
        ("POST", f"/v1/ensembles/ens_{job_id[4:]}/predict", {"inputs": [[0, 0, 0, 0]]}),
        ("GET", "/v1/queue", None),
    ]
    with away(own_valkey):
        for method, path, document in requests:
            begun = time.monotonic()
            response = own_api.request(method, path, json=document, headers={"Idempotency-Key": "outage"} if path == "/v1/jobs" else {})
            assert time.monotonic() - begun < LIMIT_SECONDS
            assert problem(response, 503, "backend_unavailable")["retryable"] is True
            assert int(response.headers["retry-after"]) >= 1
        begun = time.monotonic()
        ready = own_api.get("/readyz")
        assert time.monotonic() - begun < LIMIT_SECONDS
        assert (ready.status_code, ready.json()["components"]["redis"]["status"]) == (503, "down")
        assert own_api.get("/livez").status_code == 200
        assert own_api.get(f"/v1/datasets/{dataset_id}").status_code == 200
        assert own_server.services.artifacts.list_names("jobs") == specs, "no spec without a job"
    wait_until(lambda: is_up(own_api), seconds=20)
    wait_until(lambda: own_api.get(f"/v1/jobs/{job_id}").status_code == 200)
    assert own_api.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
    again = own_api.post("/v1/jobs", json=body, headers={"Idempotency-Key": "outage"})
    assert again.status_code == 202
    assert len(own_api.get("/v1/jobs").json()["data"]) == 2


def test_burst_of_requests_on_a_frozen_redis_is_answered_in_time(own_server: Server, own_valkey: ValkeyServer) -> None:
    seconds: list[float] = []
    statuses: set[int] = set()
    limits = httpx2.Limits(max_connections=150)
    with httpx2.Client(base_url=own_server.url, timeout=30, trust_env=False, limits=limits) as client:

        def ask() -> None:
            begun = time.monotonic()
            statuses.add(client.get("/v1/jobs").status_code)
            seconds.append(time.monotonic() - begun)

        with frozen(own_valkey):
            threads = [threading.Thread(target=ask) for _ in range(150)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert statuses == {503}
        assert len(seconds) == 150
        assert max(seconds) < LIMIT_SECONDS
        wait_until(lambda: client.get("/v1/jobs").status_code == 200)


@AWAY
def test_stream_goes_on_after_redis_is_back(
    own_api: httpx2.Client, own_server: Server, own_valkey: ValkeyServer, trained: Trained, away: Any
) -> None:
    dataset_id = upload(own_api, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
    job_id = own_api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}).json()["id"]
    worker = Worker(own_server, trained)
    with following(own_server, job_id) as events:
        assert next(events)["seq"] == 1
        wait_until(lambda: num_followers(own_server, job_id) == 1)
        with away(own_valkey):
            assert own_api.get("/v1/jobs").status_code == 503
        wait_until(lambda: own_api.get("/v1/jobs").status_code == 200, seconds=20)
        worker.run(job_id)
        assert [event["seq"] for event in events] == list(range(2, 9))


def test_ensemble_that_was_used_answers_while_redis_is_away(
    own_api: httpx2.Client, own_server: Server, own_valkey: ValkeyServer, trained: Trained
) -> None:
    dataset_id = upload(own_api, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
    job_id = own_api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}).json()["id"]
    Worker(own_server, trained).run(job_id)
    url, body = f"/v1/ensembles/ens_{job_id[4:]}/predict", {"inputs": trained.x[:3].tolist()}
    before = own_api.post(url, json=body).json()["predictions"]
    with killed(own_valkey):
        response = own_api.post(url, json=body)
    assert response.status_code == 200
    np.testing.assert_array_equal(
        [row["probabilities"] for row in response.json()["predictions"]], [row["probabilities"] for row in before]
    )


@pytest.mark.slow
def test_nothing_is_said_to_be_missing_while_a_wiped_redis_is_rebuilt(
    own_api: httpx2.Client, own_server: Server, own_valkey: ValkeyServer, trained: Trained
) -> None:
    dataset_id = upload(own_api, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
    body, headers = {"dataset_id": dataset_id, **TRAINING}, {"Idempotency-Key": "before"}
    job_id = own_api.post("/v1/jobs", json=body, headers=headers).json()["id"]
    Worker(own_server, trained).run(job_id)
    wait_until(lambda: own_server.services.store.unfiled() == [], seconds=20)
    before = own_api.get(f"/v1/jobs/{job_id}").json()
    snapshots = own_api.get(f"/v1/jobs/{job_id}/snapshots").json()
    predict = (f"/v1/ensembles/ens_{job_id[4:]}/predict", {"inputs": trained.x[:3].tolist()})
    predictions = own_api.post(predict[0], json=predict[1]).json()["predictions"]
    specs = own_server.services.artifacts.list_names("jobs")
    with connect(own_valkey.url) as client, client.pipeline() as pipeline:
        pipeline.flushall()
        pipeline.set("snapcycle:leader", "someone who takes his time")
        pipeline.execute()
        requests = [
            ("GET", "/v1/jobs"),
            ("GET", f"/v1/jobs/{job_id}"),
            ("DELETE", f"/v1/jobs/{job_id}"),
            ("GET", f"/v1/jobs/{job_id}/events"),
        ]
        requests += [("DELETE", f"/v1/datasets/{dataset_id}"), ("GET", f"/v1/snapshots/snap_{job_id[4:]}_0"), ("GET", "/v1/queue")]
        for method, path in requests:
            assert problem(own_api.request(method, path), 503, "backend_unavailable")["retryable"] is True
        for sent in (headers, {}):
            problem(own_api.post("/v1/jobs", json=body, headers=sent), 503, "backend_unavailable")
        assert own_server.services.artifacts.list_names("jobs") == specs, "no spec of a job that nobody acknowledged"
        assert own_api.get("/readyz").status_code == 503
        assert own_api.post(predict[0], json=predict[1]).json()["predictions"] == predictions
        client.delete("snapcycle:leader")
    wait_until(lambda: is_up(own_api), seconds=20)
    again = own_api.post("/v1/jobs", json=body, headers=headers)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (job_id, "true")
    after = own_api.get(f"/v1/jobs/{job_id}").json()
    lasting = ("status", "snapshot_count", "config", "created_at", "finished_at", "ensemble_id", "allowed_actions", "error")
    assert {name: after[name] for name in lasting} == {name: before[name] for name in lasting}
    assert own_api.get(f"/v1/jobs/{job_id}/snapshots").json() == snapshots
    assert job_id in problem(own_api.delete(f"/v1/datasets/{dataset_id}"), 409, "in_use")["used_by"]


def test_api_starts_without_redis(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    with killed(own_valkey), Server(make_settings(own_valkey, tmp_path / "data")) as server:
        assert httpx2.get(f"{server.url}/readyz", timeout=10, trust_env=False).status_code == 503
        assert httpx2.get(f"{server.url}/v1/jobs", timeout=10, trust_env=False).status_code == 503
