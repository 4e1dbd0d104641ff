"""``snapcycle up``: a job goes through real processes, and whatever of them is killed in the middle changes no bit of the result."""

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from service.client import Client, Job
from service.client_core import Json
from service.client_requests import TrainOptions
from tests.end_to_end.conftest import QUICK_RECOVERY
from tests.end_to_end.processes import Up, descendants, is_alive, run_command, wait_for

OPTIONS: TrainOptions = {
    "architecture": "mlp",
    "params": {"hidden": [64], "dropout": 0.1},
    "cycles": 4,
    "epochs_per_cycle": 8,
    "batch_size": 16,
    "seed": 7,
}
"""A few seconds, long enough to be killed in the middle; dropout, so that lost randomness would show."""


@pytest.fixture(scope="module")
def undisturbed(up: Up) -> list[str]:
    """The sha256 of every snapshot of the run that nobody disturbs."""
    with Client(up.url) as client:
        return sha256s(submit(client).wait())


def submit(client: Client) -> Job:
    return client.jobs.train(client.datasets.builtin("digits"), **OPTIONS)


def sha256s(job: Job) -> list[str]:
    assert job.status == "succeeded"
    return [snapshot["sha256"] for snapshot in job.snapshots()]


def test_the_ensemble_answers_while_the_job_still_trains(client: Client) -> None:
    job = submit(client)
    first = next(event for event in job.follow() if event["type"] == "snapshot")
    probabilities = job.ensemble.predict(load_digits().images[:5].astype(np.float32))
    assert job.refresh().status == "running"
    assert first["cycle"] == 0
    assert probabilities.shape == (5, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    job.wait()
    assert job.ensemble.describe()["version"] == 4


def test_the_event_stream_has_every_event_once_and_in_order(client: Client) -> None:
    events = list(submit(client).follow())
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["cycle"] for event in events if event["type"] == "snapshot"] == [0, 1, 2, 3]
    assert events[-1]["type"] == "end"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["trainer", "worker", "valkey-server", "api"])
def test_a_kill_in_the_middle_changes_no_snapshot(part: str, up: Up, client: Client, undisturbed: list[str]) -> None:
    job = submit(client)
    seen: list[Json] = []
    for event in job.follow():
        seen.append(event)
        if event["type"] == "snapshot" and event["cycle"] == 1:
            killed = up.pid_of(part)
            running = job.refresh()
            assert running.status == "running"
            if part == "worker":  # the launcher knows its id, and gives its job on
                owner = [one["actor"] for one in running.data["transitions"] if one["to"] == "running"][-1]
                assert f" --word {owner.rpartition(':')[2]} " in descendants(up.process.pid)[killed]
            os.kill(killed, signal.SIGKILL)
    ended = job.refresh()
    assert sha256s(ended) == undisturbed
    assert not is_alive(killed)
    if part in ("trainer", "worker"):  # what trained was lost, so the job was handed on
        assert ended.data["attempt"] >= 2
        assert [one["to"] for one in ended.data["transitions"]] == ["queued", "running", "queued", "running", "succeeded"]
    wait_for(f"another {part}", lambda: set(up.pids_of(part)) - {killed})
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1)), "the stream has gaps or repeats"


def test_the_same_idempotency_key_twice_makes_one_job(client: Client) -> None:
    body = {"kind": "train", "dataset_id": client.datasets.builtin("digits")["id"], "schedule": {"type": "fixed", "epochs": 1}}
    before = len(list(client.jobs.list()))
    answers = [client.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "only-once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert len(list(client.jobs.list())) == before + 1


@pytest.mark.slow
def test_ctrl_c_in_the_middle_leaves_no_process_and_the_job_goes_on_at_the_next_start(tmp_path: Path, undisturbed: list[str]) -> None:
    with Up(tmp_path / "data", environment=QUICK_RECOVERY) as first, Client(first.url) as client:
        job = submit(client)
        events = job.follow()
        next(event for event in events if event["type"] == "snapshot")  # and the stream stays open
        processes = descendants(first.process.pid)
        assert first.interrupt() == 0
        assert "Traceback" not in first.log.read_text()
        assert [command for pid, command in processes.items() if is_alive(pid)] == []
    with Up(tmp_path / "data", environment=QUICK_RECOVERY) as second, Client(second.url) as client:
        resumed = client.jobs.get(job.id).wait()
        assert sha256s(resumed) == undisturbed
        assert [one["to"] for one in resumed.data["transitions"]] == ["queued", "running", "queued", "running", "succeeded"]


def test_a_killed_launcher_takes_everything_with_it(tmp_path: Path) -> None:
    with Up(tmp_path / "data") as launcher:
        processes = descendants(launcher.process.pid)
        assert len(processes) >= 3
        launcher.process.kill()
        launcher.process.wait()
        wait_for("end of the processes", lambda: not any(map(is_alive, processes)), seconds=5)


def test_a_port_in_use_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run_command("up", "--port", str(port), "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use): stop what uses it, or choose others" in refused.stderr
    assert "--port" in refused.stderr


def test_a_data_directory_in_use_is_refused_with_its_owner(up: Up) -> None:
    data_dir = up.log.with_suffix("")
    refused = run_command("up", "--port", "0", "--data-dir", str(data_dir))
    assert refused.returncode == 1
    assert f"in use by the process with pid {up.process.pid}" in refused.stderr


def test_an_address_beyond_this_machine_needs_consent(tmp_path: Path) -> None:
    refused = run_command("up", "--host", "0.0.0.0", "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert "--insecure" in refused.stderr
