"""How long a job may run: what the request says, and what the service allows."""

import json
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from tests.service.conftest import TRAINING, Server, Trained, field_error, make_settings, npz_bytes, upload
from worker.jobs import Action
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


@pytest.mark.parametrize("command", ["train", "range-test", "study", "evaluate"])
def test_every_command_that_submits_takes_the_limit(server: Server, dataset_id: str, finished_job: str, command: str) -> None:
    subject = finished_job if command == "evaluate" else dataset_id
    more = ["--batch-size", "16"] if command != "evaluate" else []

    def run(*options: str) -> Result:
        return CliRunner().invoke(app, [command, subject, *more, *options], env={"SNAPCYCLE_URL": server.url, "COLUMNS": "200"})

    refused = run("--max-seconds", "0", "--dry-run")
    assert (refused.exit_code, refused.stderr.split(":")[:2]) == (1, ["error", " --max-seconds"])
    made = json.loads(run("--max-seconds", "12.5", "--json", *(["--submit-only"] if command != "train" else [])).stdout)
    assert stored_spec(server.services.artifacts, made["id"]).max_seconds == 12.5
    server.services.store.request(made["id"], Action.CANCEL)
