"""What commands say at their end: which snapshots an ensemble does without, that there is no rate, which options exclude each other."""

from typing import Any

import httpx2
import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from service.app import create_app
from service.cli import app
from service.cli_follow import plan_or_answer
from service.cli_output import print_snapshots
from service.client import Client
from service.documents import job_ensemble_document
from service.job_display import snapshot_line
from tests.service.conftest import Server, Trained, Worker
from worker.settings import Settings

Json = dict[str, Any]
WRONG_WITH_A_PASSWORD = [
    ("REDIS_URL", "valkey://:S3cret@queue:6379/0", "valkey://…"),
    ("REDIS_URL", "redis://:S3cret/7@queue:6379/0", "port is a number from 0 to 65535"),
    ("REDIS_URL", "S3cret@queue:6379", "a value without a scheme"),
    ("ARTIFACTS", "s3://key:S3cret@bucket/prefix", "s3://…"),
]
REASON = "the last 2 are best on the validation rows"


def snapshots(*members: int) -> list[Json]:
    """Snapshots whose ensembles have so many members."""
    metrics = {"loss": 0.5, "accuracy": 0.8}
    both = {"validation": metrics, "test": metrics}
    return [
        {"id": f"snap_{i}", "cycle": i, "step": i + 1, "learning_rate": 0.1, "metrics": both}
        | {"ensemble": {"members": count, "reason": REASON if count <= i else "", "version": i + 1, **both}}
        for i, count in enumerate(members)
    ]


def test_snapshots_that_are_left_out_are_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    print_snapshots(snapshots(1, 2, 2))
    assert f"snapshot 1 is left out of the ensemble: {REASON}\n" in capsys.readouterr().out
    print_snapshots(snapshots(1, 2, 2, 2))
    assert f"snapshots 1 to 2 are left out of the ensemble: {REASON}\n" in capsys.readouterr().out
    print_snapshots(snapshots(1, 2, 3))
    assert "left out" not in capsys.readouterr().out
    assert snapshot_line(snapshots(1, 1)[1], num_cycles=3).endswith(f"(snapshot 1 is left out of the ensemble: {REASON})")
    assert "left out" not in snapshot_line(snapshots(1, 2)[1], num_cycles=3)


def test_an_ensemble_says_what_it_leaves_out(api: httpx2.Client, server: Server, worker: Worker, trained: Trained, submit: Any) -> None:
    job_id = submit()
    worker.claim(job_id)
    worker.snapshot(job_id, 0)
    ensemble = f"/v1/ensembles/ens_{job_id[4:]}"
    assert (api.get(ensemble).json()["left_out"], api.get(ensemble).json()["left_out_reason"]) == ([], None)
    worker.snapshot(job_id, 1, members=1)
    assert api.get(ensemble).json()["left_out"] == [f"snap_{job_id[4:]}_0"]
    record = server.services.store.get(job_id)
    assert record is not None
    told = job_ensemble_document(record, snapshots(1, 2, 2), None)
    assert (told.members, told.left_out, told.left_out_reason) == (["snap_1", "snap_2"], ["snap_0"], REASON)
    api.post(f"/v1/jobs/{job_id}/cancel")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_range_test_without_a_rate_ends_with_a_failure(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The job has succeeded: it knows that there is none. A script that goes on with the rate must not."""
    result = {"max_lr": None, "reason": "the loss doesn't fall", "sweeps": [{"loss": [1.0, 2.0], "learning_rate": [0.1, 0.2]}]}
    job = {"id": "job_1", "kind": "range_test", "status": "succeeded", "terminal": True, "ensemble_id": None, "config": {}}
    job["progress"] = {"fraction": 1.0, "cycles": None, "step": 1, "steps": 1}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            event = 'id: 1\nevent: end\ndata: {"seq": 1, "type": "end", "status": "succeeded"}\n\n'
            return httpx2.Response(200, text=event, headers={"Content-Type": "text/event-stream"})
        return httpx2.Response(200, json=result if request.url.path.endswith("/result") else job)

    with Client("http://service.test", transport=httpx2.MockTransport(answer)) as client, pytest.raises(typer.Exit) as ended:
        plan_or_answer(client, {"kind": "range_test"}, dry_run=False, submit_only=False, as_json=as_json)
    assert ended.value.exit_code == 1
    assert ("no rate can be recommended: the loss doesn't fall" in capsys.readouterr().out) is not as_json


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "digits", "--dry-run", "--follow"], "--dry-run and --follow"),
        (["train", "digits", "--minutes", "1", "--epochs", "2"], "--minutes and --epochs"),
        (["train", "digits", "--minutes", "1", "--epochs-per-cycle", "2"], "--minutes and --epochs-per-cycle"),
        (["range-test", "digits", "--dry-run", "--submit-only"], "--dry-run and --submit-only"),
        (["study", "digits", "--dry-run", "--submit-only"], "--dry-run and --submit-only"),
        (["predict", "job_1", "x.npy", "--output", "y.npy", "--json"], "--output and --json"),
    ],
)
def test_options_that_exclude_each_other_are_refused_by_name(arguments: list[str], named: str) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert done.exit_code == 2
    assert f"{named}: exclude each other: leave one of them out" in done.stderr


def test_every_field_and_parameter_is_described() -> None:
    document = create_app(Settings(redis_url="redis://nowhere")).openapi()
    fields = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, value in schema.get("properties", {}).items()
        if not value.get("description") and "$ref" not in value and "const" not in value
    ]
    parameters = [
        f"{path}: {parameter['name']}"
        for path, operations in document["paths"].items()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert fields + parameters == []


@pytest.mark.parametrize(("name", "value", "told"), WRONG_WITH_A_PASSWORD)
def test_a_wrong_setting_is_named_without_its_password(name: str, value: str, told: str) -> None:
    done = CliRunner().invoke(app, ["worker"], env={f"SNAPCYCLE_{name}": value})
    assert done.exit_code == 1
    assert f"SNAPCYCLE_{name}: must" in done.stderr
    assert told in done.stderr
    assert "S3cret" not in done.output
    with pytest.raises(ValidationError) as refused:  # as Celery's own command has it
        Settings.model_validate({name.lower(): value})
    assert "S3cret" not in str(refused.value)
