"""Studies over HTTP: submitted, refused, looked at, ended and deleted with their runs."""

from typing import Any, cast

import httpx2
import pytest

from service import submission
from tests.service.conftest import Server, field_error, problem, wait_until
from worker.job_specs import StudySpec, read_spec
from worker.job_store import Claim, JobStore, StoreUnavailable
from worker.jobs import JobKind, JobStatus
from worker.records import result_key, spec_key, write_document
from worker.results import result_of
from worker.study_runs import run_ids

Json = dict[str, Any]

STUDY: Json = {
    "kind": "study",
    "model": {"architecture": "mlp", "params": {"hidden": [8]}},
    "batch_size": 16,
    "seeds": [0, 1],
    "cycles": 2,
    "epochs": 2,
    "arms": ["snapshot_ensemble", "cosine", "no_cycle_cosine", "independent"],
}
"""Two snapshot ensembles and three cosine runs, of two epochs of seven steps each."""


@pytest.fixture
def body(dataset_id: str) -> Json:
    return {**STUDY, "dataset_id": dataset_id}


def runs_of(server: Server, study: Json) -> dict[str, str]:
    spec = read_spec(server.services.artifacts.read(spec_key(study["id"])))
    assert isinstance(spec, StudySpec)
    return run_ids(spec)


def statuses(server: Server, study: Json) -> set[JobStatus | None]:
    standing = server.services.store.standing(list(runs_of(server, study).values()))
    return {None if run is None else run.status for run in standing}


def submit(api: httpx2.Client, server: Server, body: Json, **headers: str) -> Json:
    """Submits a study beside workers for all of its runs, and waits for those, so that none is made while the next test counts jobs."""
    workers = [f"worker-of-studies-{number}" for number in range(3)]
    for worker in workers:
        server.services.store.register_worker(worker, {}, ttl_ms=60_000)
    response = api.post("/v1/jobs", json=body, headers=headers)
    assert response.status_code == 202, response.text
    study: Json = response.json()
    wait_until(lambda: None not in statuses(server, study))
    for worker in workers:
        server.services.store.forget_worker(worker)
    return study


def num_studies(server: Server) -> tuple[int, int]:
    """Studies, and jobs in the artifact store."""
    return len(server.services.store.list(kind=JobKind.STUDY, limit=100).records), len(server.services.artifacts.list_names("jobs"))


def test_a_study_is_accepted_and_its_runs_are_made_at_once(api: httpx2.Client, server: Server, body: Json) -> None:
    study = submit(api, server, {**body, "name": "which is best", "metadata": {"team": "vision"}})
    assert (study["kind"], study["status"], study["phase"]) == ("study", "queued", "waiting_for_runs")
    assert study["queue"] == {"position": None, "reason": "waiting for its own runs to end"}
    assert (study["ensemble_id"], study["snapshot_count"]) == (None, 0)
    assert (study["progress"]["step"], study["progress"]["steps"]) == (0, 5 * 14)
    assert study["config"]["seeds"] == [0, 1]
    assert study["config"]["augmentation"] == "none"
    assert statuses(server, study) == {JobStatus.QUEUED}
    for key, job_id in runs_of(server, study).items():
        run = api.get(f"/v1/jobs/{job_id}").json()
        assert (run["kind"], run["name"], run["parent_id"]) == ("train", key, study["id"])
        assert run["links"]["parent"] == study["links"]["self"]
        assert run["progress"]["steps"] == 14
    assert study["id"] in [job["id"] for job in api.get("/v1/jobs?kind=study").json()["data"]]
    problem(api.get(f"/v1/jobs/{study['id']}/result"), 409, "not_ready")


def test_a_repeated_request_makes_no_second_study(api: httpx2.Client, server: Server, body: Json) -> None:
    one, other = (submit(api, server, body, **{"Idempotency-Key": "study-once"}) for _ in range(2))
    assert one["id"] == other["id"]


def test_dry_run_counts_runs_and_steps_and_makes_nothing(api: httpx2.Client, server: Server, body: Json) -> None:
    before = num_studies(server)
    response = api.post("/v1/jobs?dry_run=true", json=body)
    assert response.status_code == 200, response.text
    plan = response.json()
    assert plan["estimate"] == {
        "runs": 5,
        "parameters": 67,
        "steps": 70,
        "steps_per_epoch": 7,
        "epochs": 10.0,
        "snapshots": 10,
        "snapshot_bytes": 4 * 67 * 10,
        "train_rows": 97,
        "validation_rows": 11,
        "test_rows": 12,
    }
    assert plan["schedule"] is None
    assert plan["config"]["arms"] == STUDY["arms"]
    assert any(warning.startswith("warm_restarts runs: ") for warning in plan["warnings"])
    one_seed = api.post("/v1/jobs?dry_run=true", json={**body, "seeds": [5]}).json()
    assert "one seed gives no intervals: take two or more, for example [0, 1, 2]" in one_seed["warnings"]
    assert num_studies(server) == before


def test_a_study_without_seeds_is_refused_with_the_remedy(api: httpx2.Client, body: Json) -> None:
    del body["seeds"]
    missing = field_error(api.post("/v1/jobs", json=body), "#/seeds")
    assert missing["detail"] == "is required, but missing"
    assert "for example [0, 1, 2]" in missing["hint"]
    empty = field_error(api.post("/v1/jobs", json={**body, "seeds": []}), "#/seeds")
    assert empty["detail"] == "seeds must name at least one seed, got none: give for example [0, 1, 2]"


@pytest.mark.parametrize(
    ("changes", "place", "detail"),
    [
        ({"seeds": [1, 1]}, "#/seeds", "seeds must differ from each other, got 1 more than once"),
        ({"arms": ["cosin"]}, "#/arms/0", "unknown arm 'cosin' (did you mean 'cosine'?)"),
        ({"arms": []}, "#/arms", "arms must name at least one arm, got none"),
        ({"cycles": 1}, "#/cycles", "greater than or equal to 2"),
        (
            {"cycles": 8, "arms": ["single_cycle"]},
            "#/cycles",
            "each of the 8 cycles must have at least 2 steps, got 14 steps in all",
        ),
        ({"cycles": 8, "arms": ["snapshot_ensemble"]}, "#/cycles", "cycles must be between 1 and 7 for 14 steps"),
        ({"seed": 3}, "#/seed", 'unknown field "seed"'),
        ({"min_lr": 0.5}, "#", "max_lr must be > min_lr (0.5), got 0.1"),
        ({"validation_fraction": 0.9}, "#/validation_fraction", "less than or equal to 0.5"),
    ],
)
def test_a_study_that_cannot_be_is_refused(api: httpx2.Client, server: Server, body: Json, changes: Json, place: str, detail: str) -> None:
    before = num_studies(server)
    assert detail in field_error(api.post("/v1/jobs", json={**body, **changes}), place)["detail"]
    assert num_studies(server) == before


def test_cancelling_a_study_cancels_its_runs(api: httpx2.Client, server: Server, body: Json) -> None:
    study = submit(api, server, body)
    cancelled = api.post(f"/v1/jobs/{study['id']}/cancel").json()
    assert (cancelled["status"], cancelled["phase"]) == ("cancelled", None)
    wait_until(lambda: statuses(server, study) == {JobStatus.CANCELLED})
    result = api.get(f"/v1/jobs/{study['id']}/result").json()
    assert (result["kind"], result["status"]) == ("study", "cancelled")
    assert "arms" not in result


def test_a_waiting_study_cannot_be_stopped(api: httpx2.Client, server: Server, body: Json) -> None:
    study = submit(api, server, body)
    assert study["allowed_actions"] == ["cancel", "pause"]
    problem(api.post(f"/v1/jobs/{study['id']}/stop", json={}), 409, "invalid_state")


def test_a_deleted_study_takes_its_runs_along(api: httpx2.Client, server: Server, body: Json) -> None:
    study = submit(api, server, body)
    runs = list(runs_of(server, study).values())
    problem(api.delete(f"/v1/jobs/{study['id']}"), 409, "invalid_state")
    api.post(f"/v1/jobs/{runs[0]}/cancel")
    refused = problem(api.delete(f"/v1/jobs/{runs[0]}"), 409, "in_use")
    assert refused["used_by"] == [study["id"]]
    api.post(f"/v1/jobs/{study['id']}/cancel")
    wait_until(lambda: statuses(server, study) == {JobStatus.CANCELLED})
    assert api.delete(f"/v1/jobs/{study['id']}").status_code == 204
    for job_id in (study["id"], *runs):
        assert api.get(f"/v1/jobs/{job_id}").status_code == 404
        assert server.services.artifacts.list_keys(f"jobs/{job_id}") == []


def finished_range_test(api: httpx2.Client, server: Server, dataset_id: str, output: Json) -> str:
    """A range test that has ended with this answer."""
    model = {"architecture": "mlp", "params": {"hidden": [8]}}
    job = api.post("/v1/jobs", json={"kind": "range_test", "dataset_id": dataset_id, "model": model, "batch_size": 16}).json()
    store = server.services.store
    claim = store.claim(job["id"], "worker_test", 60_000, 3)
    assert isinstance(claim, Claim)
    record = store.get(job["id"])
    assert record is not None
    result = result_of(store, record) | {"status": JobStatus.SUCCEEDED, "output": output}
    write_document(server.services.artifacts, result_key(job["id"]), result)
    assert store.finish(job["id"], claim.epoch, JobStatus.SUCCEEDED)
    return str(job["id"])


def test_a_study_takes_the_rate_of_a_range_test(api: httpx2.Client, server: Server, body: Json, dataset_id: str) -> None:
    job_id = finished_range_test(api, server, dataset_id, {"max_lr": 0.25})
    study = submit(api, server, {**body, "max_lr": {"from_job": job_id}, "restart_lr": 0.5})
    assert (study["config"]["max_lr"], study["max_lr_from"]) == (0.25, job_id)
    found = {}
    for key, run_id in runs_of(server, study).items():
        run = api.get(f"/v1/jobs/{run_id}").json()
        found[key] = (run["config"]["schedule"]["max_lr"], run["max_lr_from"])
    assert found["cosine-0"] == (0.25, job_id)
    assert found["snapshot_ensemble-0"] == (0.5, None)


def test_a_rate_that_cannot_be_had_is_refused(api: httpx2.Client, server: Server, body: Json, dataset_id: str) -> None:
    unknown = {"max_lr": {"from_job": "job_01JDEADBEEF0000000000000000"}}
    assert "there is no job" in field_error(api.post("/v1/jobs", json=body | unknown), "#/max_lr/from_job")["detail"]
    empty = finished_range_test(api, server, dataset_id, {"max_lr": None, "reason": "the curve is flat"})
    refused = field_error(api.post("/v1/jobs", json=body | {"max_lr": {"from_job": empty}}), "#/max_lr/from_job")
    assert refused["detail"] == f"{empty} suggests no rate: the curve is flat"


def test_runs_can_find_their_rates_themselves(api: httpx2.Client, body: Json) -> None:
    plan = api.post("/v1/jobs?dry_run=true", json={**body, "max_lr": "auto"}).json()
    assert plan["config"]["max_lr"] == "auto"
    assert any(note.startswith("max_lr auto: each run begins with a range test of its own") for note in plan["notes"])


def test_a_cancellation_outlives_an_outage_right_after_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def be_away(_store: object) -> None:
        raise StoreUnavailable("Redis is away")

    monkeypatch.setattr(submission, "cancel_stray_runs", be_away)
    submission.end_runs(cast(JobStore, None), "job_x")
    assert [record.getMessage() for record in caplog.records] == ["study job_x: its runs will be cancelled later: Redis is away"]


def test_a_figure_of_other_kinds_is_never_there(api: httpx2.Client, server: Server, body: Json) -> None:
    study = submit(api, server, {**body, "name": "which is best"})
    refused = problem(api.get(f"/v1/jobs/{study['id']}/figures/range_test"), 404, "not_found")
    assert refused["detail"].startswith(f"{study['id']} is a study job: range_test belongs to jobs of kind range_test or train")
    assert problem(api.get(f"/v1/jobs/{study['id']}/figures/study"), 409, "not_ready")["detail"].startswith(study["id"])
