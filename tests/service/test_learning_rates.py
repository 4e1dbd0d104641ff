"""``max_lr`` from a range test: by its id at the submission, or by one inside the job."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from service.job_display import JobDisplay
from tests.service.conftest import TRAINING, Server, Worker, field_error
from worker.job_specs import TrainSpec, read_spec
from worker.jobs import JobStatus, TerminalStatus
from worker.records import result_key, spec_key

Json = dict[str, Any]

RANGE_TEST: Json = {"kind": "range_test", "model": TRAINING["model"], "batch_size": 16}
POINTER = "#/schedule/max_lr/from_job"


def with_rate(max_lr: object, **schedule: object) -> Json:
    return {**TRAINING, "schedule": {**TRAINING["schedule"], "max_lr": max_lr, **schedule}}


@pytest.fixture
def finished_test(api: httpx2.Client, worker: Worker, dataset_id: str) -> Callable[..., str]:
    """Makes a range test that has ended with an answer."""

    def finish(
        max_lr: float | None, *, status: TerminalStatus = JobStatus.SUCCEEDED, stop_reason: str | None = None, **fields: object
    ) -> str:
        job_id: str = api.post("/v1/jobs", json={"dataset_id": dataset_id, **RANGE_TEST, **fields}).json()["id"]
        worker.claim(job_id)
        output = {"max_lr": max_lr, "reason": "no suggestion: the loss only rises"}
        common: Json = {
            "status": status,
            "snapshots": [],
            "ensemble": [],
            "history": {"columns": [], "rows": []},
            "config": {},
            "output": output,
        }
        worker.artifacts.create(result_key(job_id), json.dumps(common).encode())
        assert worker.store.finish(job_id, worker.epochs[job_id], status, stop_reason=stop_reason)
        return job_id

    return finish


def test_the_rate_of_a_range_test_becomes_the_jobs_number(
    api: httpx2.Client, server: Server, dataset_id: str, finished_test: Callable[..., str]
) -> None:
    test_id = finished_test(0.25)
    job = api.post("/v1/jobs", json={"dataset_id": dataset_id, **with_rate({"from_job": test_id})}).json()
    assert (job["config"]["schedule"]["max_lr"], job["max_lr_from"]) == (0.25, test_id)
    assert job["links"]["range_test"] == f"/v1/jobs/{test_id}"
    spec = read_spec(server.services.artifacts.read(spec_key(job["id"])))
    assert isinstance(spec, TrainSpec)
    assert (spec.config.schedule.max_lr, spec.max_lr_from) == (0.25, test_id)


def test_a_range_test_of_other_things_is_warned_of(api: httpx2.Client, dataset_id: str, finished_test: Callable[..., str]) -> None:
    test_id = finished_test(0.25, batch_size=8)
    plan = api.post("/v1/jobs?dry_run=true", json={"dataset_id": dataset_id, **with_rate({"from_job": test_id})}).json()
    assert f"max_lr comes from {test_id}, which differs in batch_size: its range may not hold here" in plan["warnings"]
    assert plan["schedule"]["learning_rate"][0] == 0.25


def test_what_suggests_no_rate_is_refused(
    api: httpx2.Client, dataset_id: str, finished_job: str, finished_test: Callable[..., str]
) -> None:
    waiting = api.post("/v1/jobs", json={"dataset_id": dataset_id, **RANGE_TEST}).json()["id"]
    refused, cancelled = finished_test(None), finished_test(0.25, status=JobStatus.CANCELLED)

    def error_of(job_id: str, **schedule: object) -> Json:
        return field_error(api.post("/v1/jobs", json={"dataset_id": dataset_id, **with_rate({"from_job": job_id}, **schedule)}), POINTER)

    assert "is queued" in error_of(waiting)["detail"]
    assert "once it has ended" in error_of(waiting)["hint"]
    assert "is a train job" in error_of(finished_job)["detail"]
    assert error_of(refused)["detail"] == f"{refused} suggests no rate: no suggestion: the loss only rises"
    assert "submit another range test" in error_of(cancelled)["hint"]
    stopped = finished_test(0.25, stop_reason="stopped")
    assert error_of(stopped)["detail"] == f"{stopped} was stopped before its answer, so what it suggests rests on the curves alone"
    assert "submit another range test and let it end" in error_of(stopped)["hint"]
    assert "there is no job" in error_of("job_01JDEADBEEF0000000000000000")["detail"]
    too_low = error_of(finished_test(0.001), min_lr=0.01)
    assert "suggests 0.001, which the schedule cannot take: max_lr must be > min_lr (0.01)" in too_low["detail"]


def test_an_automatic_rate_is_left_to_the_worker(api: httpx2.Client, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, **with_rate("auto")}
    plan = api.post("/v1/jobs?dry_run=true", json=body).json()
    assert plan["config"]["schedule"]["max_lr"] == "auto"
    assert plan["schedule"]["learning_rate"][0] == 1.0  # shares of a rate that nobody knows yet
    assert any(note.startswith("max_lr auto: a range test before training finds it") for note in plan["notes"])
    job = api.post("/v1/jobs", json=body).json()
    assert (job["config"]["schedule"]["max_lr"], job["max_lr_from"]) == ("auto", None)


def test_a_budget_of_minutes_has_no_length_before_it_runs(api: httpx2.Client, dataset_id: str) -> None:
    schedule = {"type": "warm_restarts", "cycles": 3}
    body = {"dataset_id": dataset_id, **TRAINING, "schedule": schedule, "budget": {"minutes": 1}}
    plan = api.post("/v1/jobs?dry_run=true", json=body).json()
    assert (plan["estimate"]["steps"], plan["estimate"]["epochs"], plan["schedule"]) == (None, None, None)
    assert any("plans the steps by it" in note for note in plan["notes"])
    job = api.post("/v1/jobs", json=body).json()
    assert (job["progress"]["steps"], job["progress"]["cycles"], job["progress"]["fraction"]) == (None, 3, 0.0)


def test_a_budget_of_epochs_is_the_length(api: httpx2.Client, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, **TRAINING, "schedule": {"type": "warm_restarts", "cycles": 2}, "budget": {"epochs": 6}}
    plan = api.post("/v1/jobs?dry_run=true", json=body).json()
    assert (plan["estimate"]["steps"], plan["schedule"]["cycle_ends"]) == (42, [21, 42])


def test_the_display_tells_of_the_rate_and_of_changes_of_plan(capsys: pytest.CaptureFixture[str]) -> None:
    job = {"kind": "train", "progress": {"steps": None, "cycles": 2, "epochs": None}, "config": {"schedule": {"type": "cosine"}}}
    with JobDisplay(job) as display:
        display.show({"type": "learning_rate", "max_lr": 0.25, "result": {"reason": "it falls"}})
        display.show({"type": "plan", "step": 1000, "cycle_ends": [40, 80], "reason": "restarts pay"})
        display.show({"type": "progress", "phase_fraction": 0.5})
        measured = {"step": 3, "steps": None, "fraction": 0.0, "eta_seconds": None, "train_loss": 1.0, "learning_rate": 0.1}
        display.show({"type": "progress", **measured})
    assert capsys.readouterr().out == "max_lr 0.25: it falls\nplan from step 1,000 on: restarts pay\n"
