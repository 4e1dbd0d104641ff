"""The API as users meet it: a uvicorn server on a free port, a real Valkey, a real artifact store, snapshots of a real run.

There is no worker: tests carry jobs forward themselves, by the calls that a supervisor makes.
"""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import numpy as np
import pytest
import uvicorn

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.snapshots import save_outputs, save_snapshot
from clr.training import CycleEnd, train
from service.app import create_app
from service.dependencies import Services
from service.prediction_protocol import http_protocol
from worker.artifacts import ArtifactStore
from worker.ids import snapshot_id_of
from worker.job_store import Claim, Commit, JobStore
from worker.jobs import JobStatus, Phase, now_rfc3339
from worker.records import MANIFEST, snapshot_prefix, store_file, write_document
from worker.settings import Settings
from worker.valkey_server import ValkeyServer

Json = dict[str, Any]
Array = np.ndarray[Any, Any]

TRAINING: Json = {
    "model": {"architecture": "mlp", "params": {"hidden": [8]}},
    "schedule": {"type": "warm_restarts", "max_lr": 0.1, "cycles": 3, "epochs_per_cycle": 1},
    "batch_size": 16,
}
"""The configuration of every job here: three cycles on 120 rows."""


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Returns as soon as ``condition`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


class Server:
    """uvicorn in a thread, on a free port."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = create_app(settings)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self.app,
                log_level="critical",
                access_log=False,  # as without DEBUG; with it predictions go the long way, which writes one
                http=http_protocol(settings),
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._thread = threading.Thread(target=self._uvicorn.run, args=([self._socket],), daemon=True)

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def stop(self) -> None:
        """Begins to shut down, as at SIGTERM."""
        self._uvicorn.should_exit = True

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._uvicorn.started, seconds=30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._thread.join(10)
        self._socket.close()


@dataclass(frozen=True)
class Trained:
    """A finished run: its data, its cycle ends, the snapshots' files."""

    x: Array
    y: Array
    ends: tuple[CycleEnd, ...]
    directory: Path

    def weights(self, cycle: int) -> Path:
        """The snapshot's file."""
        return self.directory / f"weights-{cycle}.safetensors"


class Worker:
    """Does for a job what a supervisor does, with the snapshots of ``Trained``."""

    def __init__(self, server: Server, trained: Trained) -> None:
        self.store: JobStore = server.services.store
        self.artifacts: ArtifactStore = server.services.artifacts
        self.trained = trained
        self.epochs: dict[str, int] = {}

    def claim(self, job_id: str) -> None:
        """Takes the job and begins to train."""
        claim = self.store.claim(job_id, "worker_test", 60_000, 3)
        assert isinstance(claim, Claim)
        self.epochs[job_id] = claim.epoch
        self.store.report(job_id, claim.epoch, phase=Phase.TRAINING, training_started=True)

    def progress(self, job_id: str, step: int) -> None:
        """Reports a step, as an event and a metrics row."""
        row = [step, step / 6, 0, 0.1, 1.0 / step]
        assert self.store.report(job_id, self.epochs[job_id], event=("progress", {"step": step}), metrics_rows=[row])

    def snapshot(self, job_id: str, cycle: int, *, members: int | None = None) -> None:
        """Stores and commits the snapshot of a cycle; its ensemble takes the last ``members``, or all."""
        end = self.trained.ends[cycle]
        snapshot, prefix = end.snapshot, snapshot_prefix(job_id, cycle)
        files = {
            name: store_file(self.artifacts, f"{prefix}/{name}.safetensors", self.trained.directory / f"{name}-{cycle}.safetensors")
            for name in ("weights", "outputs")
        }
        ensemble = {"members": members or cycle + 1, "version": cycle + 1}
        manifest = {
            "id": snapshot_id_of(job_id, cycle),
            "job_id": job_id,
            "cycle": cycle,
            "step": end.step,
            "epoch": end.epoch,
            "learning_rate": snapshot.learning_rate,
            "next_learning_rate": snapshot.next_learning_rate,
            "is_minimum": snapshot.is_minimum,
            "metrics": snapshot.metrics,
            "ensemble": ensemble | {"validation": end.ensemble.validation, "test": end.ensemble.test},
            "created_at": now_rfc3339(),
            "files": files,
        }
        write_document(self.artifacts, f"{prefix}/{MANIFEST}", manifest)
        assert self.store.commit_snapshot(job_id, self.epochs[job_id], cycle, manifest) is Commit.COMMITTED

    def finish(self, job_id: str) -> None:
        """Ends the job as succeeded."""
        assert self.store.finish(job_id, self.epochs[job_id], JobStatus.SUCCEEDED)

    def run(self, job_id: str) -> None:
        """Carries the job from the queue to its end."""
        self.claim(job_id)
        for cycle in range(3):
            self.snapshot(job_id, cycle)
        self.finish(job_id)


def make_settings(valkey: ValkeyServer, directory: Path, **limits: Any) -> Settings:
    """Settings for a server of its own."""
    return Settings(redis_url=valkey.url, data_dir=directory, **limits)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of three cycles on three clouds of points."""
    directory = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (random.normal(size=(120, 4)) + 2.0 * y[:, None]).astype(np.float32)
    config = TrainingConfig.model_validate(TRAINING)
    ends = tuple(event for event in train(config, Dataset.from_arrays(x, y)) if isinstance(event, CycleEnd))
    for end in ends:
        save_snapshot(end.snapshot, directory / f"weights-{end.cycle}.safetensors")
        save_outputs(end.snapshot, directory / f"outputs-{end.cycle}.safetensors")
    return Trained(x, y, ends, directory)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server for these tests alone: others empty theirs, and these share jobs."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def redis_client() -> None:
    """None here: it would empty the server that these tests share."""
    pytest.fail("tests of the service share a Valkey: start a ValkeyServer of your own")


@pytest.fixture(scope="session")
def server(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave its settings and its Valkey alone."""
    with Server(make_settings(valkey, tmp_path_factory.mktemp("server"), max_upload_bytes=4 << 20, max_predict_rows=1000)) as running:
        yield running


@pytest.fixture(scope="session")
def api(server: Server) -> Iterator[httpx2.Client]:
    """A client of ``server``."""
    with httpx2.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def worker(server: Server, trained: Trained) -> Worker:
    """Carries ``server``'s jobs forward."""
    return Worker(server, trained)


def npz_bytes(**arrays: Any) -> bytes:
    """The arrays as an npz file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def upload(api: httpx2.Client, content: bytes, filename: str = "data.npz", **fields: str) -> httpx2.Response:
    """Uploads a file as a dataset."""
    return api.post("/v1/datasets", files={"file": (filename, content)}, data=fields)


@pytest.fixture(scope="session")
def dataset_id(api: httpx2.Client, trained: Trained) -> str:
    """The data of ``trained``, uploaded."""
    response = upload(api, npz_bytes(x=trained.x, y=trained.y), name="clouds")
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


@pytest.fixture
def submit(api: httpx2.Client, dataset_id: str) -> Callable[..., str]:
    """Submits a job like ``trained`` and returns its id."""

    def submit_job(**fields: Any) -> str:
        response = api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING, **fields})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    return submit_job


@pytest.fixture(scope="session")
def finished_job(api: httpx2.Client, dataset_id: str, worker: Worker) -> str:
    """A job that has succeeded with three snapshots."""
    job_id = str(api.post("/v1/jobs", json={"dataset_id": dataset_id, **TRAINING}).json()["id"])
    worker.run(job_id)
    return job_id


def problem(response: httpx2.Response, status: int, code: str) -> Json:
    """The problem document of a response, after the checks that hold for all of them."""
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    assert response.headers["content-type"] == "application/problem+json"
    document: Json = response.json()
    assert document["code"] == code, document
    assert document["status"] == status
    assert document["type"] == f"/problems/{code}"
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["detail"]
    return document


def field_error(response: httpx2.Response, place: str) -> Json:
    """The one error of a 422, at a pointer or parameter."""
    (error,) = problem(response, 422, "validation_error")["errors"]
    assert place in (error.get("pointer"), error.get("parameter")), error
    found: Json = error
    return found
