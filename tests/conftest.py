"""Fixtures for all tests: a real Valkey, a job store in it, an artifact store and settings in temporary directories."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from clr.config import TrainingConfig
from tests.job_stores import complete_store
from worker.artifacts import ArtifactStore
from worker.ids import new_id
from worker.job_specs import JobSpec, TrainSpec
from worker.job_store import JobStore
from worker.jobs import now_rfc3339
from worker.redis_connection import connect
from worker.settings import Settings
from worker.valkey_server import ValkeyServer

hypothesis.settings.register_profile("no deadline", deadline=None)  # the machine is shared: a slow example is no failure
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server for the whole session, as `snapcycle up` starts it. Tests that hurt a server start their own."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of an empty database."""
    with connect(valkey.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def job_store(redis_client: redis.Redis) -> JobStore:
    """A job store without jobs, which knows that there are none."""
    return complete_store(redis_client)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    """An artifact store without objects, in ``tmp_path``/artifacts."""
    return ArtifactStore.open(tmp_path / "artifacts")


@pytest.fixture
def settings(valkey: ValkeyServer, tmp_path: Path) -> Settings:
    """Settings that lead to ``redis_client``'s server and to ``artifacts``, with everything else in ``tmp_path``."""
    return Settings(redis_url=valkey.url, data_dir=tmp_path, artifacts=str(tmp_path / "artifacts"))


@pytest.fixture
def new_spec() -> Callable[[], JobSpec]:
    """Makes the spec of a job of 5 cycles and 40 steps, each time with a new id."""

    def make() -> JobSpec:
        return TrainSpec(
            id=new_id("job"),
            name="first run",
            dataset_id="ds_01M84K9HDDAJZAD5F3E26JSCXC",
            metadata={"team": "vision"},
            config=TrainingConfig(),
            created_at=now_rfc3339(),
            num_steps=40,
            num_cycles=5,
            epochs=20.0,
            steps_per_epoch=2,
        )

    return make
