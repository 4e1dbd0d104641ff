"""Pause, resume and extend over HTTP, and priorities."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import Client
from tests.service.conftest import Server, Worker, field_error, problem, wait_until
from worker.ids import derived_id

Submit = Callable[..., str]
FIXED = {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 1}


def get(api: httpx2.Client, job_id: str) -> Any:
    return api.get(f"/v1/jobs/{job_id}").json()


@pytest.fixture
def job_id(api: httpx2.Client, submit: Submit) -> Iterator[str]:
    job_id = submit(schedule=FIXED)
    yield job_id
    api.post(f"/v1/jobs/{job_id}/cancel")


def test_a_queued_job_pauses_at_once_and_goes_on(api: httpx2.Client, job_id: str) -> None:
    for _ in range(2):
        job = api.post(f"/v1/jobs/{job_id}/pause").json()
        assert (job["status"], job["phase"], job["queue"], job["terminal"]) == ("paused", "paused", None, False)
        assert job["allowed_actions"] == ["cancel", "stop", "resume"]
    assert problem(api.delete(f"/v1/jobs/{job_id}"), 409, "invalid_state")["allowed_actions"] == ["cancel", "stop", "resume"]
    for _ in range(2):
        job = api.post(f"/v1/jobs/{job_id}/resume", json={}).json()
        assert (job["status"], job["phase"]) == ("queued", "waiting_for_worker")
    assert [change["reason"] for change in job["transitions"]] == ["submitted", "pause", "resume"]
    events = api.get(f"/v1/jobs/{job_id}/events?types=state").json()["data"]
    assert [event["status"] for event in events] == ["queued", "paused", "queued"]


def test_a_running_job_is_asked_to_pause(api: httpx2.Client, job_id: str, worker: Worker) -> None:
    worker.claim(job_id)
    job = api.post(f"/v1/jobs/{job_id}/pause").json()
    assert (job["status"], job["phase"], job["requested_action"]) == ("running", "stopping", "pause")


def test_what_was_never_paused_cannot_be_resumed(api: httpx2.Client, job_id: str, finished_job: str) -> None:
    refused = problem(api.post(f"/v1/jobs/{job_id}/resume"), 409, "invalid_state")
    assert refused["allowed_actions"] == ["cancel", "pause"]
    assert problem(api.post(f"/v1/jobs/{finished_job}/resume"), 409, "invalid_state")
    assert problem(api.post(f"/v1/jobs/{finished_job}/pause"), 409, "invalid_state")
    assert field_error(api.post(f"/v1/jobs/{job_id}/pause", json={"when": "now"}), "#/when")


@pytest.mark.parametrize("verb", ["pause", "resume", "extend"])
def test_an_unknown_job_is_not_found(api: httpx2.Client, verb: str) -> None:
    unknown = derived_id("job_01JDEADBEEF0000000000000000", "x")
    problem(api.post(f"/v1/jobs/{unknown}/{verb}", json={"cycles": 1} if verb == "extend" else {}), 404, "not_found")


def test_a_study_pauses_with_its_runs(api: httpx2.Client, dataset_id: str) -> None:
    request = {"kind": "study", "dataset_id": dataset_id, "model": MLP, "epochs": 2, "cycles": 2, "seeds": [0, 1, 2], "max_lr": 0.1}
    study = api.post("/v1/jobs", json=request | {"arms": ["snapshot_ensemble", "cosine"], "batch_size": 8}).json()["id"]

    def runs_of_study() -> list[str]:
        return [job["id"] for job in api.get("/v1/jobs?limit=100").json()["data"] if job["parent_id"] == study]

    wait_until(lambda: len(runs_of_study()) == 2)
    runs = runs_of_study()
    paused = api.post(f"/v1/jobs/{study}/pause").json()
    assert (paused["status"], paused["allowed_actions"]) == ("paused", ["cancel", "resume"])
    assert [get(api, run)["status"] for run in runs] == ["paused", "paused"]
    problem(api.post(f"/v1/jobs/{study}/stop"), 409, "invalid_state")
    resumed = api.post(f"/v1/jobs/{study}/resume").json()
    assert (resumed["status"], resumed["phase"]) == ("queued", "waiting_for_runs")
    assert [get(api, run)["status"] for run in runs] == ["queued", "queued"]
    api.post(f"/v1/jobs/{study}/pause")
    api.post(f"/v1/jobs/{study}/cancel")
    wait_until(lambda: all(get(api, run)["status"] == "cancelled" for run in runs))


MLP = {"architecture": "mlp", "params": {"hidden": [4]}}


def test_a_job_that_has_succeeded_gets_more_cycles_once_for_each_key(api: httpx2.Client, job_id: str, worker: Worker) -> None:
    worker.run(job_id)
    ended = get(api, job_id)
    assert (ended["status"], ended["allowed_actions"]) == ("succeeded", ["delete", "extend"])
    last = api.get(f"/v1/jobs/{job_id}/events?limit=500").json()["last_id"]
    for replayed in (None, "true"):
        answer = api.post(f"/v1/jobs/{job_id}/extend", json={"cycles": 3}, headers={"Idempotency-Key": f"e-{job_id}"})
        assert (answer.status_code, answer.headers.get("Idempotency-Replayed")) == (200, replayed)
        job = answer.json()
        assert (job["status"], job["finished_at"], job["progress"]["cycles"]) == ("queued", None, 5)
        assert job["config"]["schedule"]["cycles"] == 5
        assert job["progress"]["fraction"] < 1
    problem(
        api.post(f"/v1/jobs/{job_id}/extend", json={"cycles": 1}, headers={"Idempotency-Key": f"e-{job_id}"}), 422, "idempotency_mismatch"
    )
    assert problem(api.post(f"/v1/jobs/{job_id}/extend", json={"cycles": 1}), 409, "invalid_state")["allowed_actions"] == [
        "cancel",
        "pause",
    ]
    problem(api.get(f"/v1/jobs/{job_id}/result"), 409, "not_ready")

    with api.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "application/jsonl"}) as stream:
        lines = stream.iter_lines()
        found = [next(lines) for _ in range(int(last))]
        api.post(f"/v1/jobs/{job_id}/cancel")
        rest = [line for line in lines if line]
    assert not any('"type":"end"' in line for line in found)  # the job went on after that end
    assert '"type":"end"' in rest[-1]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"type": "cosine", "epochs": 2}, "the schedule must be warm_restarts, got cosine"),
        ({"type": "warm_restarts", "cycles": "auto", "epochs": 4}, "the number of cycles must be given, got auto"),
    ],
)
def test_a_job_without_a_fixed_number_of_cycles_says_why_it_cannot_be_extended(
    api: httpx2.Client, submit: Submit, worker: Worker, schedule: dict[str, Any], message: str
) -> None:
    job_id = submit(schedule=schedule)
    worker.claim(job_id)
    refused = problem(api.post(f"/v1/jobs/{job_id}/extend", json={"cycles": 1}), 409, "invalid_state")
    assert message in refused["detail"]
    assert refused["allowed_actions"] == ["cancel", "stop", "pause"]
    api.post(f"/v1/jobs/{job_id}/cancel")


@pytest.mark.parametrize("cycles", [0, "2", 1.5, 1001])
def test_bad_cycles_are_named(api: httpx2.Client, finished_job: str, cycles: object) -> None:
    assert field_error(api.post(f"/v1/jobs/{finished_job}/extend", json={"cycles": cycles}), "#/cycles")


def test_a_priority_is_shown_and_moves_the_job_ahead(api: httpx2.Client, submit: Submit) -> None:
    low, normal, high = (submit(priority=priority) for priority in ("low", "normal", "high"))
    found = [get(api, job_id) for job_id in (high, normal, low)]
    assert [job["priority"] for job in found] == ["high", "normal", "low"]
    positions = [job["queue"]["position"] for job in found]
    assert positions == sorted(positions)
    assert field_error(api.post("/v1/jobs", json={"dataset_id": found[0]["dataset_id"], "priority": "urgent"}), "#/priority")
    for job_id in (low, normal, high):
        api.post(f"/v1/jobs/{job_id}/cancel")


def run_command(server: Server, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"SNAPCYCLE_URL": server.url, "COLUMNS": "200"})


def test_the_client_and_the_command_line_have_the_verbs(server: Server, api: httpx2.Client, job_id: str, worker: Worker) -> None:
    with Client(server.url) as client:
        assert client.jobs.get(job_id).pause().status == "paused"
        assert client.jobs.get(job_id).resume().status == "queued"
        done = run_command(server, "pause", job_id)
        assert (done.exit_code, done.stdout) == (0, f"{job_id} is paused, 2 cycles in all\n")
        done = run_command(server, "resume", job_id, "--json")
        assert (done.exit_code, json.loads(done.stdout)["status"]) == (0, "queued")
        worker.run(job_id)
        assert client.jobs.get(job_id).extend(1).data["progress"]["cycles"] == 3
        refused = run_command(server, "extend", job_id, "1")
        assert refused.exit_code == 1
        assert "extend is not possible" in refused.stderr
