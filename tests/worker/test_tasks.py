"""Real worker processes on a real server: what is killed, and what the job has lost by it (nothing)."""

import os
import signal
import socket
import sys
import time

import pytest

from tests.worker.training_jobs import (
    process_is_gone,
    record_of,
    snapshot_sha256s,
    status_of,
    tiny_config,
    wait_until,
)
from tests.worker.workshops import RUN_WORKER, Site, children_of
from worker.celery_app import publish
from worker.jobs import JobStatus
from worker.settings import Settings
from worker.valkey_server import ValkeyServer

LONG = tiny_config(cycles=4, epochs_per_cycle=15)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The hashes of the snapshots of LONG, undisturbed."""
    directory = tmp_path_factory.mktemp("oracle")
    with ValkeyServer(directory / "valkey") as server:
        site = Site(server, Settings(redis_url=server.url, data_dir=directory), directory)
        worker = site.start_worker()
        job_id = site.submit(LONG)
        assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
        worker.terminate()
        assert worker.wait() == 0
        return snapshot_sha256s(site.store, job_id)


def test_a_worker_runs_jobs_one_after_the_other_and_leaves_nothing_behind(site: Site) -> None:
    worker = site.start_worker()
    jobs = [site.submit(tiny_config(), messages=3) for _ in range(2)]
    assert [site.wait_for_end(job_id) for job_id in jobs] == [JobStatus.SUCCEEDED] * 2
    assert [record_of(site.store, job_id).attempt for job_id in jobs] == [1, 1]
    (info,) = wait_until(site.store.workers)
    assert (info["pid"], info["device"]) == (worker.pid, "cpu")
    assert info["id"].startswith(f"{socket.gethostname()}:{worker.pid}:")

    trainers = children_of(worker.pid)
    worker.terminate()
    assert worker.wait(timeout=10) == 0
    assert all(map(process_is_gone, trainers))
    assert site.scratch() == []
    assert site.store.workers() == []


def test_an_idle_worker_hears_of_the_next_job_at_once(site: Site) -> None:
    site.start_worker()
    site.wait_for_end(site.submit(tiny_config()))
    second = site.submit(tiny_config())
    began_at = time.monotonic()
    wait_until(lambda: status_of(site.store, second) != JobStatus.QUEUED)
    assert time.monotonic() - began_at < 0.95  # not at the next timer of Celery's loop, one to ten seconds later


@pytest.mark.slow
def test_a_killed_worker_takes_its_trainers_along_and_another_one_finishes_the_job(site: Site, oracle: list[str]) -> None:
    worker = site.start_worker()
    job_id = site.submit(LONG)
    site.wait_for_snapshots(job_id, 1)
    trainers = children_of(worker.pid)
    assert trainers
    worker.kill()
    worker.wait()
    wait_until(lambda: all(map(process_is_gone, trainers)))  # a spare that still imports torch hears of it late

    owner = str(record_of(site.store, job_id).owner)
    site.start_worker()
    assert site.store.expire_owner(owner) == [job_id]  # as a launcher does that saw it die
    publish(site.app, job_id)
    assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
    assert snapshot_sha256s(site.store, job_id) == oracle


def test_a_worker_that_starts_takes_no_job_of_one_with_the_same_host_name_and_process_id(site: Site) -> None:
    worker = site.start_worker()
    job_id = site.submit(LONG)
    site.wait_for_snapshots(job_id, 1)
    worker.send_signal(signal.SIGSTOP)  # so that no beat hides the loss
    site.start_worker(sys.executable, "-c", f"import os; os.getpid = lambda: {worker.pid}; {RUN_WORKER}")
    wait_until(lambda: (site.directory / "worker.log").read_text().count("is ready") == 2)
    assert site.store.expired_leases() == []
    worker.send_signal(signal.SIGCONT)
    assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
    assert record_of(site.store, job_id).attempt == 1


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_worker_that_is_told_to_end_gives_its_job_back(site: Site, oracle: list[str], signal_number: signal.Signals) -> None:
    worker = site.start_worker()
    job_id = site.submit(LONG)
    site.wait_for_snapshots(job_id, 1)
    worker.send_signal(signal_number)
    assert worker.wait(timeout=10) == 0
    record = record_of(site.store, job_id)
    assert (record.status, record.crashes) == (JobStatus.QUEUED, 0)
    assert site.scratch() == []

    site.start_worker()
    assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
    assert snapshot_sha256s(site.store, job_id) == oracle
    assert record_of(site.store, job_id).attempt == 2


def test_a_killed_server_costs_nothing(site: Site, oracle: list[str]) -> None:
    site.start_worker()
    job_id = site.submit(LONG)
    site.wait_for_snapshots(job_id, 1)
    assert site.server.pid is not None
    os.kill(site.server.pid, signal.SIGKILL)
    wait_until(lambda: not site.server.is_running())
    assert site.server.ensure_running()
    assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
    assert snapshot_sha256s(site.store, job_id) == oracle
    assert record_of(site.store, job_id).attempt == 1
    assert site.wait_for_end(site.submit(tiny_config())) == JobStatus.SUCCEEDED  # Celery has found its way back too


def test_a_frozen_server_costs_nothing(site: Site, oracle: list[str]) -> None:
    site.start_worker()
    job_id = site.submit(LONG)
    site.wait_for_snapshots(job_id, 1)
    assert site.server.pid is not None
    os.kill(site.server.pid, signal.SIGSTOP)
    time.sleep(4)  # longer than the job store's time-outs
    os.kill(site.server.pid, signal.SIGCONT)
    assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
    assert snapshot_sha256s(site.store, job_id) == oracle
    assert record_of(site.store, job_id).attempt == 1


def test_celerys_own_command_starts_a_worker_too(site: Site) -> None:
    worker = site.start_worker(sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker")
    job_id = site.submit(tiny_config())
    assert site.wait_for_end(job_id) == JobStatus.SUCCEEDED
    worker.terminate()
    assert worker.wait(timeout=10) == 0
