"""Where jobs run in tests: a bench in this process (``Workshop``), or worker processes on a server of their own (``Site``)."""

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clr.config import RangeTestConfig, TrainingConfig
from tests.job_stores import complete_store
from tests.worker.training_jobs import record_of, status_of, submit, wait_until
from worker.artifacts import ArtifactStore
from worker.celery_app import create_celery, publish
from worker.job_store import connect
from worker.jobs import JobStatus, Phase
from worker.settings import Settings
from worker.supervisor import Bench, Outcome, supervise
from worker.trainer_process import TrainerProcess
from worker.valkey_server import ValkeyServer

RUN_WORKER = (
    "import sys; from worker.settings import Settings; from worker.tasks import run_worker; sys.exit(run_worker(Settings(), 'cpu'))"
)


@dataclass
class Workshop:
    """A bench, and what happens around it."""

    bench: Bench
    directory: Path
    published: list[str]
    spawned: list[TrainerProcess] = field(default_factory=list)
    is_draining: bool = False
    threads: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)

    def submit(self, config: TrainingConfig | RangeTestConfig) -> str:
        return submit(self.bench.store, self.bench.artifacts, config, self.directory)

    def supervise(self, job_id: str, **changes: Any) -> Outcome:
        return supervise(job_id, replace(self.bench, **changes))

    def start(self, job_id: str, **changes: Any) -> "Future[Outcome]":
        return self.threads.submit(self.supervise, job_id, **changes)

    def record(self, job_id: str) -> Any:
        return record_of(self.bench.store, job_id)

    def wait_for_training(self, job_id: str) -> TrainerProcess:
        """Waits for the job's first step and returns its trainer."""
        wait_until(lambda: self.record(job_id).phase == Phase.TRAINING)
        return next(trainer for trainer in self.spawned if trainer.is_alive())

    def wait_for_snapshots(self, job_id: str, count: int) -> None:
        wait_until(lambda: self.record(job_id).snapshot_count >= count)


@dataclass
class Site:
    """A server, a store, and the worker processes that a test starts."""

    server: ValkeyServer
    settings: Settings
    directory: Path
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = complete_store(connect(self.settings))
        self.artifacts = ArtifactStore.open(self.settings.artifacts_url)
        self.app = create_celery(self.settings)

    def start_worker(self, *command: str) -> "subprocess.Popen[bytes]":
        environ = os.environ | {"SNAPCYCLE_REDIS_URL": self.server.url, "SNAPCYCLE_DATA_DIR": str(self.directory)}
        with (self.directory / "worker.log").open("ab") as log:
            command = command or (sys.executable, "-c", RUN_WORKER)
            self.workers.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log))
        return self.workers[-1]

    def submit(self, config: TrainingConfig | RangeTestConfig, *, messages: int = 1) -> str:
        job_id = submit(self.store, self.artifacts, config, self.directory)
        for _ in range(messages):
            assert publish(self.app, job_id)
        return job_id

    def wait_for_end(self, job_id: str) -> JobStatus:
        wait_until(lambda: status_of(self.store, job_id).is_terminal)
        return status_of(self.store, job_id)

    def wait_for_snapshots(self, job_id: str, count: int) -> None:
        wait_until(lambda: record_of(self.store, job_id).snapshot_count >= count)

    def scratch(self) -> list[Path]:
        return list(self.settings.staging_dir.iterdir())


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
