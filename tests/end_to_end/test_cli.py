"""The commands that talk to a running service, as a person and as a program use them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from clr.study_config import Arm
from service.cli import app
from service.client import Client
from tests.end_to_end.processes import Up, command_environment, run_command

IRIS_LIKE = "length,colour,species\n" + "".join(f"{i % 7}.5,{'red' if i % 2 else 'blue'},{'a' if i % 2 else 'b'}\n" for i in range(60))


def snapcycle(up: Up, *arguments: str, status: int = 0) -> str:
    """Runs a command against the service, in this process; returns what it printed on stdout, or on stderr where it failed."""
    done = CliRunner().invoke(app, arguments, env={"SNAPCYCLE_URL": up.url, "COLUMNS": "80"})
    assert done.exit_code == status, done.output
    return done.stderr if status else done.stdout


@pytest.fixture(scope="module")
def job_id(up: Up) -> str:
    """A finished job of two cycles on the digits."""
    printed = snapcycle(
        up, "train", "digits", "--cycles", "2", "--epochs-per-cycle", "2", "--param", "hidden=[16]", "--name", "for the tests", "--json"
    )
    job: str = json.loads(printed)["id"]
    assert snapcycle(up, "follow", job).startswith(job)
    return job


def test_train_with_follow_prints_every_snapshot_and_the_result(up: Up) -> None:
    printed = snapcycle(up, "train", "digits", "--cycles", "2", "--epochs-per-cycle", "1", "--follow")
    assert "snapshot 1 of 2: validation" in printed
    assert "snapshot 2 of 2: validation" in printed
    assert "status    succeeded" in printed


def test_train_follow_json_prints_one_event_a_line(up: Up) -> None:
    printed = snapcycle(up, "train", "digits", "--cycles", "2", "--epochs-per-cycle", "1", "--follow", "--json")
    events = [json.loads(line) for line in printed.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "end"


def test_a_config_file_with_a_part_of_the_wrong_kind_is_refused_in_words(up: Up, tmp_path: Path) -> None:
    config = tmp_path / "run.json"
    config.write_text('{"schedule": 3}')
    assert "schedule: must be a JSON object, got 3" in snapcycle(up, "train", "digits", "--config", str(config), status=1)


def test_options_win_over_the_config_file(up: Up, tmp_path: Path) -> None:
    config = tmp_path / "run.json"
    config.write_text(json.dumps({"model": {"architecture": "small_cnn"}, "schedule": {"type": "cosine", "epochs": 3}, "seed": 1}))
    plan = json.loads(snapcycle(up, "train", "digits", "--config", str(config), "--seed", "2", "--dry-run", "--json"))
    assert plan["config"]["seed"] == 2
    assert plan["config"]["model"]["architecture"] == "small_cnn"
    assert plan["config"]["schedule"]["type"] == "cosine"


def test_jobs_lists_ids_in_full_at_80_columns(up: Up, job_id: str) -> None:
    printed = snapcycle(up, "jobs")
    assert job_id in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_show_has_the_snapshots_and_the_ensemble(up: Up, job_id: str) -> None:
    printed = snapcycle(up, "show", job_id)
    assert "for the tests" in printed
    assert job_id.replace("job_", "ens_") in printed
    assert job_id.replace("job_", "snap_") + "_1" in printed
    assert re.search(r"^  schedule +warm_restarts, 2 cycles, 2 epochs each$", printed, re.MULTILINE)
    assert re.search(r"^  rate +0.1$", printed, re.MULTILINE)
    assert re.search(r"^  batch +128 rows$", printed, re.MULTILINE)


def test_a_landscape_is_printed_with_its_job(up: Up) -> None:
    printed = snapcycle(up, "train", "digits", "--landscape", "--cycles", "2", "--epochs-per-cycle", "1", "--follow")
    assert "both snapshots share one basin" in printed or "every snapshot has a basin of its own" in printed
    assert re.search(r"^1 - 2 +\S+ +\S+ +(yes|no)", printed, re.MULTILINE)


def test_predict_prints_labels_and_saves_probabilities(up: Up, job_id: str, tmp_path: Path) -> None:
    rows, saved = tmp_path / "rows.npy", tmp_path / "probabilities.npy"
    np.save(rows, np.zeros((25, 8, 8), np.float32))
    printed = snapcycle(up, "predict", job_id, str(rows))
    assert "version 2, 2 members" in printed
    assert "... 5 more rows" in printed
    snapcycle(up, "predict", job_id.replace("job_", "ens_"), str(rows), "--output", str(saved))
    probabilities = np.load(saved)
    assert probabilities.shape == (25, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_snapshots_downloads_weights_that_safetensors_alone_can_read(up: Up, job_id: str, tmp_path: Path) -> None:
    snapcycle(up, "snapshots", job_id, "--download", str(tmp_path / "weights"))
    files = sorted((tmp_path / "weights").iterdir())
    assert [file.name for file in files] == [f"{job_id.replace('job_', 'snap_')}_{cycle}.safetensors" for cycle in range(2)]
    assert any(array.shape == (16, 64) for array in load_file(files[0]).values()), "the first layer of 16 units on 8x8 pixels"


def test_a_table_is_uploaded_trained_on_and_predicted_by_column(up: Up, tmp_path: Path) -> None:
    table = tmp_path / "flowers.csv"
    table.write_text(IRIS_LIKE)
    uploaded = json.loads(snapcycle(up, "datasets", "upload", str(table), "--target", "species", "--name", "flowers", "--json"))
    assert uploaded["rows"] == 60
    assert uploaded["id"] in snapcycle(up, "datasets", "list")
    printed = snapcycle(
        up, "train", uploaded["id"], "--cycles", "2", "--epochs-per-cycle", "20", "--batch-size", "16", "--json", "--follow"
    )
    job = json.loads(printed.splitlines()[0])
    assert job["status"] == "queued"
    with Client(up.url) as client:
        finished = next(one for one in client.jobs.list() if one["dataset_id"] == uploaded["id"])
    rows = tmp_path / "rows.csv"
    rows.write_text("length,colour\n1.5,red\n1.5,blue\n")
    answer = json.loads(snapcycle(up, "predict", finished["id"], str(rows), "--json"))
    assert [row["label"] for row in answer["predictions"]] == ["a", "b"]


def test_range_test_prints_the_range_and_its_rate_trains(up: Up) -> None:
    options = ("--param", "hidden=[16]", "--num-rates", "60", "--repeats", "2", "--batch-size", "64")
    printed = snapcycle(up, "range-test", "digits", *options)
    job_id = printed.splitlines()[0]
    ((named, max_lr),) = re.findall(r"^train with it: --max-lr (job_\S+), or --max-lr (\S+)$", printed, re.MULTILINE)
    assert named == job_id
    assert re.search(rf"^max_lr +{re.escape(max_lr)} .*use this", printed, re.MULTILINE)
    assert re.search(r"^the sweeps (agree|disagree) on the upper end", printed, re.MULTILINE)
    assert max(map(len, printed.split("other rules")[0].splitlines())) <= 80
    result = json.loads(snapcycle(up, "range-test", "digits", *options, "--json"))  # the same seeds, so the same answer
    assert f"{result['max_lr']:.3g}" == max_lr
    assert [len(sweep["loss"]) for sweep in result["sweeps"]] == [len(sweep["learning_rate"]) for sweep in result["sweeps"]]
    shown = snapcycle(up, "show", job_id)
    assert "kind      range_test" in shown
    assert f"train with it: --max-lr {job_id}, or --max-lr {max_lr}" in shown
    plan = json.loads(snapcycle(up, "train", "digits", "--max-lr", job_id, "--dry-run", "--json"))
    assert plan["config"]["schedule"]["max_lr"] == result["max_lr"]


def test_range_test_submits_without_waiting_and_plans_without_submitting(up: Up) -> None:
    job = json.loads(snapcycle(up, "range-test", "digits", "--submit-only", "--json"))
    assert (job["kind"], job["status"]) == ("range_test", "queued")
    snapcycle(up, "cancel", job["id"])
    planned = snapcycle(up, "range-test", "digits", "--sweep", "linear", "--start-lr", "0", "--dry-run")
    assert re.search(r"^steps +\d", planned, re.MULTILINE)
    assert "note: precision auto depends on" in planned
    assert "--start-lr must be > 0" in snapcycle(up, "range-test", "digits", "--start-lr", "0", status=1)


def test_jobs_of_one_kind_are_listed_with_their_names_and_runs_of_studies_on_demand(up: Up, job_id: str) -> None:
    with Client(up.url) as client:
        dataset = client.jobs.get(job_id).data["dataset_id"]
        study = client.jobs.study(dataset, seeds=[0], arms=["cosine"], epochs=50)
    listed = snapcycle(up, "jobs", "--limit", "100")
    assert re.search(rf"^{study.id} +study ", listed, re.MULTILINE)
    assert len(snapcycle(up, "jobs", "--runs", "--limit", "100").splitlines()) > len(listed.splitlines())
    trained = snapcycle(up, "jobs", "--kind", "train", "--limit", "100")
    assert re.search(rf"^{job_id} +train for", trained, re.MULTILINE)
    assert study.id not in trained
    assert "is of kind study and has no snapshots of its own" in snapcycle(up, "snapshots", study.id, status=1)
    snapcycle(up, "cancel", study.id)


def test_what_has_ended_cannot_be_stopped(up: Up, job_id: str) -> None:
    assert snapcycle(up, "stop", job_id, status=1) == f"error: {job_id} has already succeeded: nothing to stop\n"
    assert snapcycle(up, "cancel", job_id, status=1) == f"error: {job_id} has already succeeded: nothing to cancel\n"


def test_a_table_without_a_target_is_refused_with_its_columns(up: Up, tmp_path: Path) -> None:
    table = tmp_path / "flowers.csv"
    table.write_text(IRIS_LIKE)
    for command in (["train"], ["range-test"], ["study", "--seeds", "0"], ["datasets", "upload"]):
        refusal = snapcycle(up, *command, str(table), status=1)
        assert refusal == ("error: --target is missing: which column is to be predicted? flowers.csv has length, colour, species\n")


def test_small_data_get_a_batch_size_that_fits(up: Up, tmp_path: Path) -> None:
    table = tmp_path / "flowers.csv"
    table.write_text(IRIS_LIKE)
    printed = snapcycle(up, "range-test", str(table), "--target", "species", "--dry-run")
    assert re.search(r"^batch +6 rows$", printed, re.MULTILINE), "48 training rows"
    assert "note: --batch-size 6: none was given" in printed
    printed = snapcycle(up, "train", str(table), "--target", "species", "--batch-size", "128", "--dry-run")
    assert re.search(r"^batch +128 rows$", printed, re.MULTILINE)


def test_the_exit_status_of_follow_is_the_job_result(up: Up) -> None:
    job = json.loads(snapcycle(up, "train", "digits", "--epochs-per-cycle", "100", "--json"))["id"]
    assert "cancel" in snapcycle(up, "cancel", job)
    snapcycle(up, "follow", job, status=3)


def test_stop_ends_a_job_early_and_keeps_its_snapshots(up: Up) -> None:
    job = json.loads(snapcycle(up, "train", "digits", "--cycles", "100", "--epochs-per-cycle", "5", "--json"))["id"]
    with Client(up.url) as client:
        next(event for event in client.jobs.get(job).follow() if event["type"] == "snapshot")
        snapcycle(up, "stop", job)
        finished = client.jobs.get(job).wait()
        assert (finished.status, finished.data["stop_reason"]) == ("succeeded", "stopped")
        assert 1 <= len(finished.snapshots()) < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--architecture", "resnt"], "did you mean resnet"),
        (["train", "digits", "--cycles", "0"], "--cycles: must be greater than or equal to 1, got 0"),
        (["train", "dgits"], 'DATA: "dgits" is neither a file, nor a dataset\'s id (ds_...), nor one of digits'),
        (["train", "missing.csv"], "missing.csv: No such file or directory"),
        (["show", "job_0"], "there is no job 'job_0': snapcycle jobs lists them"),
        (["predict", "ens_0", "missing.npy"], "missing.npy cannot be read"),
        (["train", "digits", "--cycles", "many"], '--cycles: must be a whole number or auto, got "many"'),
        (["train", "digits", "--max-lr", "aut"], '--max-lr: must be a number, auto or a range test\'s id, got "aut"'),
        (["train", "digits", "--max-lr", "nan"], "--max-lr: must be a number"),
        (["train", "digits", "--param", "width=3"], "--param width: unknown field"),
        (["jobs", "--kind", "trian"], "did you mean train?"),
    ],
)
def test_a_refusal_names_what_is_wrong_and_ends_with_status_1(up: Up, arguments: list[str], message: str) -> None:
    refusal = snapcycle(up, *arguments, status=1)
    assert refusal.startswith("error: ")
    assert message in refusal
    assert "Traceback" not in refusal


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["datasets", "upload", "digits", "--target", "y"], "--target"),
        (["datasets", "upload", "digits", "--task", "regression"], "--task"),
        (["train", "digits", "--target", "y"], "--target"),
        (["train", "ds_0", "--target", "y"], "--target"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(up: Up, arguments: list[str], option: str) -> None:
    refusal = snapcycle(up, *arguments, status=2)
    assert f"Invalid value for {option}" in refusal
    assert "leave it out" in " ".join(refusal.replace("│", "").split()), "the box breaks lines"


def test_a_built_in_dataset_can_have_a_name(up: Up) -> None:
    assert json.loads(snapcycle(up, "datasets", "upload", "digits", "--name", "my digits", "--json"))["name"] == "my digits"


def test_a_dry_run_leaves_no_dataset_behind(up: Up, tmp_path: Path) -> None:
    table = tmp_path / "flowers.csv"
    table.write_text(IRIS_LIKE)
    before = snapcycle(up, "datasets", "list", "--json")
    plan = json.loads(snapcycle(up, "train", str(table), "--target", "species", "--dry-run", "--json"))
    assert plan["config"]["schedule"]["type"] == "warm_restarts"
    assert snapcycle(up, "datasets", "list", "--json") == before


def test_train_names_every_type_of_schedule(up: Up) -> None:
    with Client(up.url) as client:
        types = [schedule["name"] for schedule in client.capabilities()["schedules"]]
    help_text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"}).stdout
    assert len(types) == 9
    assert [name for name in types if not re.search(rf"\b{name}\b", help_text)] == []


def test_study_names_every_arm() -> None:
    help_text = CliRunner().invoke(app, ["study", "--help"], env={"COLUMNS": "300"}).stdout
    assert [arm for arm in Arm if not re.search(rf"\b{arm}\b", help_text)] == []


def test_a_service_that_is_not_there_is_named_with_the_remedy() -> None:
    done = run_command("jobs", environment={"SNAPCYCLE_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "no answer from http://127.0.0.1:9" in done.stderr
    assert "snapcycle up" in done.stderr


def test_a_misspelt_setting_is_reported_and_a_wrong_one_refused() -> None:
    done = run_command("worker", environment={"SNAPCYCLE_REDIS_ULR": "redis://127.0.0.1:1"})
    assert done.returncode == 1
    assert "did you mean SNAPCYCLE_REDIS_URL?" in done.stderr
    assert "no Redis server is configured" in done.stderr
    done = run_command("up", environment={"SNAPCYCLE_PORT": "123456"})
    assert done.returncode == 1
    assert "SNAPCYCLE_PORT" in done.stderr
    assert "123456" in done.stderr
    done = run_command("worker", "--device", "tpu")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --device: must be auto, cpu, cuda")
    assert "'tpu'" in done.stderr


def test_doctor_reports_on_the_machine_and_the_service(up: Up, tmp_path: Path) -> None:
    done = run_command("doctor", "--json", environment={"SNAPCYCLE_URL": up.url, "SNAPCYCLE_DATA_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert set(findings) == {"snapcycle", "torch", "server", "artifacts", "store", "disk", "fashion-mnist", "service"}
    assert findings["service"]["detail"] == f"{up.url}, 1 worker"


@pytest.mark.parametrize(
    "command", ["", "up", "demo", "api", "worker", "doctor", "train", "jobs", "show", "follow", "stop", "cancel", "predict"]
)
def test_every_command_explains_itself_within_80_columns(command: str) -> None:
    done = CliRunner().invoke(app, [*filter(None, (command, "--help"))], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert "Usage:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("modules", ["service.cli", "service.cli, service.embedded", "service.cli, worker.tasks", "service.client"])
def test_torch_is_loaded_by_none_of_the_light_processes(modules: str) -> None:
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=command_environment(), check=False).returncode == 0
