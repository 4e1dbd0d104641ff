"""How long a job may run: what the request says, and what the service allows."""

from pathlib import Path

import httpx2

from tests.service.conftest import TRAINING, Server, Trained, field_error, make_settings, npz_bytes, upload
from worker.stored_specs import stored_spec
from worker.valkey_server import ValkeyServer


def test_max_seconds_is_kept_and_bounded(tmp_path: Path, trained: Trained) -> None:
    with (
        ValkeyServer(tmp_path / "valkey") as valkey,
        Server(make_settings(valkey, tmp_path, max_job_seconds=60.0)) as server,
        httpx2.Client(base_url=server.url, timeout=30, trust_env=False) as api,
    ):
        dataset_id = upload(api, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
        body = {"dataset_id": dataset_id, **TRAINING}
        made = api.post("/v1/jobs", json={**body, "max_seconds": 30}).json()["id"]
        assert stored_spec(server.services.artifacts, made).max_seconds == 30
        error = field_error(api.post("/v1/jobs", json={**body, "max_seconds": 61}), "#/max_seconds")
        assert error["detail"] == "must be at most 60, the longest running time here, got 61"
        field_error(api.post("/v1/jobs", json={**body, "max_seconds": 0}), "#/max_seconds")
