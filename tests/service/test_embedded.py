"""The launcher's parts that need no processes; ``tests/end_to_end/test_up.py`` has the rest."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from pydantic import SecretStr

from service.children import Child, LaunchError, child_environment, keep_running
from service.cli_processes import guarded
from service.embedded import Stack
from service.predictor import Predictor
from tests.job_stores import complete_store
from worker.artifacts import ArtifactStore
from worker.job_specs import JobSpec
from worker.job_store import Claim, JobStore
from worker.jobs import JobStatus
from worker.redis_connection import connect
from worker.settings import Settings
from worker.valkey_server import ValkeyServer


def ending_process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    process.wait()
    return process


def test_children_get_these_settings_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SNAPCYCLE_ARTIFACTS", "s3://somebody/elses")
    settings = Settings(redis_url="redis://here:1", artifacts=None, data_dir=tmp_path, port=0)
    environment = child_environment(settings, num_workers=1)
    assert environment["SNAPCYCLE_REDIS_URL"] == "redis://here:1"
    assert environment["SNAPCYCLE_DATA_DIR"] == str(tmp_path)
    assert "SNAPCYCLE_ARTIFACTS" not in environment


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    settings = Settings(data_dir=tmp_path)
    assert "OMP_NUM_THREADS" not in child_environment(settings, num_workers=1)
    assert child_environment(settings, num_workers=3)["OMP_NUM_THREADS"] == "2"
    assert child_environment(settings, num_workers=16)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("num_processes", "threads"), [(1, 4), (3, 2), (16, 1)])
def test_api_processes_share_the_cores(num_processes: int, threads: int, artifacts: ArtifactStore) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(8)  # as where a process may use eight cores
    try:
        Predictor(artifacts, num_processes=num_processes).close()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_child_that_keeps_dying_is_restarted_less_and_less_often() -> None:
    child = Child("part", ending_process)
    delays = []
    for _ in range(3):
        child.launch()
        assert child.has_died()
        delays.append(child.restart_at - time.monotonic())
    assert delays == pytest.approx([0.1, 0.2, 0.4], abs=0.05)
    assert not child.has_died(), "a death is told once"


def test_the_job_of_a_worker_that_died_is_given_on_at_once_and_no_other_workers(tmp_path: Path, new_spec: Callable[[], JobSpec]) -> None:
    with ValkeyServer(tmp_path / "valkey") as server, connect(server.url) as client:
        dead_and_living(complete_store(client), Settings(redis_url=server.url, data_dir=tmp_path), new_spec)


def dead_and_living(job_store: JobStore, settings: Settings, new_spec: Callable[[], JobSpec]) -> None:
    """A worker that dies, and one in another container, which has the same host name and process ids."""
    child = Child("worker 1", ending_process, word="ab12")
    child.launch()
    assert child.process is not None
    jobs = {}
    for word in ("ab12", "cd34"):
        spec = new_spec()
        job_store.submit(spec, idempotency_key=None, body_sha256="")
        owner = f"{socket.gethostname()}:{child.process.pid}:{word}"
        assert isinstance(job_store.claim(spec.id, owner, 3_600_000, 3), Claim)
        job_store.register_worker(owner, {}, ttl_ms=60_000)
        jobs[word] = spec.id
    child.failures = 8  # so that it is not started again at once
    keep_running([child], settings)
    records = {word: job_store.get(job_id) for word, job_id in jobs.items()}
    assert {word: record.status for word, record in records.items() if record} == {"ab12": JobStatus.QUEUED, "cd34": JobStatus.RUNNING}
    assert [worker["id"].rpartition(":")[2] for worker in job_store.workers()] == ["cd34"]


def test_an_unknown_address_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"cannot listen on 203\.0\.113\.1 port 8000 .*--port"):
        Stack(Settings(host="203.0.113.1", port=8000, data_dir=tmp_path), num_workers=1)


def test_the_address_of_a_wildcard_host_is_this_machine(tmp_path: Path) -> None:
    stack = Stack(Settings(host="0.0.0.0", port=0, data_dir=tmp_path), num_workers=1)
    try:
        assert stack.url.startswith("http://127.0.0.1:")
        with socket.create_connection(("127.0.0.1", int(stack.url.rsplit(":", 1)[1])), timeout=1):
            pass  # connections wait in the socket's queue until the API takes them
    finally:
        stack.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_address_of_this_machine_alone_needs_no_consent(host: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, host=host)
    assert guarded(settings, is_insecure=False) is settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.internal"])
def test_an_address_that_others_reach_needs_keys_or_consent(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(data_dir=tmp_path, host=host)
    with pytest.raises(typer.Exit):
        guarded(settings, is_insecure=False)
    assert f"{host} can be reached from other machines" in capsys.readouterr().err
    assert guarded(settings, is_insecure=True) is settings


def test_only_the_api_gets_the_pepper(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis://here:1", data_dir=tmp_path, key_pepper=SecretStr("a pepper of the test"))
    assert "a pepper of the test" not in str(child_environment(settings, num_workers=1)) + repr(settings)
