"""Fixtures for the tests of the worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.training_jobs import process_is_gone, wait_until
from tests.worker.workshops import Site, Workshop, children_of
from worker.artifacts import ArtifactStore
from worker.job_store import JobStore
from worker.settings import Settings
from worker.supervisor import Bench
from worker.trainer_process import TrainerProcess, WarmTrainers
from worker.valkey_server import ValkeyServer


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_trainer() -> Iterator[None]:
    """Gives trainers one thread each: on a busy machine two that wait for each other at every step take many times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def workshop(job_store: JobStore, artifacts: ArtifactStore, tmp_path: Path) -> Iterator[Workshop]:
    spawn_into = tmp_path / "scratch"
    spawn_into.mkdir()
    published: list[str] = []

    def spawn() -> TrainerProcess:
        shop.spawned.append(TrainerProcess.spawn(spawn_into, device="cpu"))
        return shop.spawned[-1]

    bench = Bench(
        worker_id="worker",
        store=job_store,
        artifacts=artifacts,
        trainers=WarmTrainers(spawn),
        publish=published.append,
        is_draining=lambda: shop.is_draining,
        lease_seconds=30,
        beat_seconds=0.2,
        checkpoint_seconds=3600,
        drain_seconds=15,
        max_crashes=3,
    )
    shop = Workshop(bench, tmp_path, published=published)
    yield shop
    bench.trainers.close()
    shop.threads.shutdown()
    assert not any(trainer.is_alive() for trainer in shop.spawned)
    assert list(spawn_into.iterdir()) == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ValkeyServer(tmp_path / "valkey") as server:
        site = Site(server, Settings(redis_url=server.url, data_dir=tmp_path), tmp_path)
        yield site
        for worker in site.workers:
            worker.kill()
            trainers = children_of(worker.pid)
            worker.wait()
            wait_until(lambda pids=trainers: all(map(process_is_gone, pids)))  # type: ignore[misc]  # a lambda's default
