"""Studies through real processes: two workers, and whatever dies in the middle changes no number of the table."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import Client, Job
from service.client_core import Json
from service.client_requests import StudyOptions
from service.study_schemas import StudyOutput
from tests.end_to_end.conftest import QUICK_RECOVERY
from tests.end_to_end.processes import Up, run_command, wait_for
from tests.end_to_end.test_wipe import wipe

OPTIONS: StudyOptions = {
    "architecture": "mlp",
    "params": {"hidden": [32], "dropout": 0.1},
    "arms": ["snapshot_ensemble", "cosine", "no_cycle_cosine", "independent"],
    "epochs": 6,
    "cycles": 2,
    "batch_size": 16,
    "max_lr": 0.05,
}
"""Five runs of a second or two; dropout, so that lost randomness would show."""

SEEDS = (0, 1)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service with two workers."""
    with Up(tmp_path_factory.mktemp("studies") / "data", "--workers", "2", environment=QUICK_RECOVERY) as running:
        yield running


@pytest.fixture
def client(site: Up) -> Iterator[Client]:
    with Client(site.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def undisturbed(site: Up) -> Json:
    """The table of the study that nobody disturbs."""
    with Client(site.url) as client:
        return table(submit(client).wait())


def submit(client: Client, **changes: object) -> Job:
    options: StudyOptions = {**OPTIONS, **changes}  # type: ignore[typeddict-item]  # tests change single fields
    return client.jobs.study(client.datasets.builtin("digits"), seeds=SEEDS, **options)


def table(study: Job) -> Json:
    """All that a study has measured."""
    assert study.status == "succeeded", study.data["error"]
    result = study.result()
    StudyOutput.model_validate({name: result[name] for name in StudyOutput.model_fields})
    return {name: result[name] for name in ("arms", "deep_ensembles", "auto", "notes")}


def runs_of(client: Client, study: Job) -> list[Json]:
    return [job for job in client.jobs.list() if job["parent_id"] == study.id]


def wait_for_running(client: Client, study: Job, *, ended: int) -> None:
    """Waits until some runs have ended and others are under way."""

    def is_in_the_middle() -> bool:
        statuses = [run["status"] for run in runs_of(client, study)]
        return statuses.count("succeeded") >= ended and "running" in statuses

    wait_for("run in the middle", is_in_the_middle)


def test_a_study_measures_its_runs_on_two_workers(client: Client, undisturbed: Json) -> None:
    study = submit(client)
    events = list(study.follow())
    assert table(study.refresh()) == undisturbed  # the same numbers each time
    told = [event for event in events if event["type"] == "progress"]
    assert [event["fraction"] for event in told] == sorted(event["fraction"] for event in told)
    assert (told[-1]["runs"], told[-1]["runs_ended"], told[-1]["fraction"]) == (5, 5, 1.0)
    assert [one["to"] for one in study.refresh().data["transitions"]] == ["queued", "queued", "running", "succeeded"]
    runs = runs_of(client, study)
    assert sorted(run["job_id"] for run in study.result()["runs"]) == sorted(run["id"] for run in runs)
    taken = [transition["actor"] for run in runs for transition in run["transitions"] if transition["to"] == "running"]
    assert len(taken) == 5
    assert len(set(taken)) == 2  # both workers trained

    arms = {arm["arm"]: arm for arm in undisturbed["arms"]}
    snapshots = next(run for run in runs if run["name"] == "snapshot_ensemble-0")
    measured = client.jobs.get(snapshots["id"]).snapshots()[-1]["ensemble"]
    assert arms["snapshot_ensemble"]["metrics"]["nll"]["per_seed"][0] == pytest.approx(measured["test"]["nll"], rel=1e-9)
    assert arms["snapshot_ensemble"]["num_members"] == [2, 2]
    assert arms["independent"]["deep_ensemble_equivalent"]["networks"] == 2.0
    assert arms["cosine"]["metrics"]["error"]["mean"] < 0.2  # ten digits
    assert arms["independent"]["budget_epochs"] == 12.0


def test_a_killed_worker_changes_no_number(site: Up, client: Client, undisturbed: Json) -> None:
    study = submit(client)
    wait_for_running(client, study, ended=1)
    killed, run_id = wait_for("a worker that is held in the middle of a run", lambda: hold_a_worker(site, client, study))
    os.kill(killed, signal.SIGKILL)
    ended = study.wait()
    assert table(ended) == undisturbed
    (run,) = [run for run in runs_of(client, study) if run["id"] == run_id]
    assert [transition["to"] for transition in run["transitions"]].count("running") >= 2  # it was begun again
    wait_for("another worker", lambda: len(site.pids_of("worker")) == 2 and killed not in site.pids_of("worker"))


def hold_a_worker(site: Up, client: Client, study: Job) -> tuple[int, str] | None:
    """Stops a worker that has a run of the study, and returns both; while it stands still, it cannot end that run."""
    for pid in site.pids_of("worker"):
        os.kill(pid, signal.SIGSTOP)
        held = [run for run in runs_of(client, study) if run["status"] == "running" and f":{pid}:" in owner_of(run)]
        if held:
            return pid, held[0]["id"]
        os.kill(pid, signal.SIGCONT)
    return None


def owner_of(run: Json) -> str:
    """The worker that began it last."""
    return str([transition["actor"] for transition in run["transitions"] if transition["to"] == "running"][-1])


def test_a_wipe_in_the_middle_changes_no_number(tmp_path: Path, undisturbed: Json) -> None:
    with Up(tmp_path / "data", "--workers", "2", environment=QUICK_RECOVERY) as up, Client(up.url) as client:
        study = submit(client)
        wait_for_running(client, study, ended=1)
        wipe(tmp_path / "data")
        ended = study.wait()
        assert table(ended) == undisturbed
        assert "restored from the artifact store" in [one["reason"] for one in ended.data["transitions"]]
        assert len(runs_of(client, study)) == 5


def test_a_run_that_fails_costs_its_arm_and_nothing_else(client: Client, undisturbed: Json) -> None:
    study = submit(client, restart_lr=1000.0).wait()
    found = {arm["arm"]: arm for arm in table(study)["arms"]}
    assert found["snapshot_ensemble"]["metrics"]["error"] is None
    assert [failure["run"] for failure in found["snapshot_ensemble"]["failures"]] == ["snapshot_ensemble-0", "snapshot_ensemble-1"]
    assert "lower max_lr" in found["snapshot_ensemble"]["failures"][0]["reason"]
    assert [found[arm] for arm in ("cosine", "independent")] == [
        arm for arm in undisturbed["arms"] if arm["arm"] in ("cosine", "independent")
    ]
    assert {run["key"]: run["status"] for run in study.result()["runs"]}["snapshot_ensemble-0"] == "failed"


def test_cancelling_and_deleting_a_study_takes_its_runs_along(client: Client) -> None:
    study = submit(client, epochs=200)
    wait_for_running(client, study, ended=0)
    assert study.cancel().status == "cancelled"
    wait_for("end of the runs", lambda: all(run["terminal"] for run in runs_of(client, study)), seconds=20)
    assert {run["status"] for run in runs_of(client, study)} == {"cancelled"}
    study.delete()
    assert runs_of(client, study) == []
    assert study.id not in [job["id"] for job in client.jobs.list()]


def test_the_command_prints_the_table(site: Up, undisturbed: Json) -> None:
    options = ["--seeds", "0,1", "--epochs", "6", "--cycles", "2", "--arms", ",".join(OPTIONS["arms"]), "--max-lr", "0.05"]
    options += ["--batch-size", "16", "--architecture", "mlp", "--param", "hidden=[32]", "--param", "dropout=0.1", "--url", site.url]
    shown = run_command("study", "digits", *options, timeout=110)
    assert shown.returncode == 0, shown.stderr
    error = next(arm for arm in undisturbed["arms"] if arm["arm"] == "cosine")["metrics"]["error"]["mean"]
    line = next(line for line in shown.stdout.splitlines() if line.startswith("cosine "))
    assert f"{100 * error:.2f}" in line
    assert "- mean over 2 seeds, ± half of the 95 % interval" in shown.stdout
    job_id = next(word for word in shown.stdout.split() if word.startswith("job_"))
    again = run_command("show", job_id, "--url", site.url)
    assert line in again.stdout.splitlines()
    planned = json.loads(run_command("study", "digits", *options, "--dry-run", "--json").stdout)
    assert planned["estimate"]["runs"] == 5
    refused = run_command("study", "digits", "--seeds", "0,x", "--url", site.url)
    assert refused.returncode == 1
    assert '--seeds: must be a whole number, got "x"' in refused.stderr
