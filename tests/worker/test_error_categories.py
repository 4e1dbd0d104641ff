"""Every category of failure arises in a real trainer under a real supervisor, and says in words what to do."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.training_jobs import tiny_config, tiny_range_test
from tests.worker.workshops import Workshop
from worker import failpoints
from worker.artifacts import ArtifactStore, StoreFull
from worker.jobs import ErrorCategory, JobStatus
from worker.records import read_document, result_key
from worker.sandbox import Bounds
from worker.supervisor import Outcome
from worker.trainer_process import TrainerProcess, WarmTrainers

ENDLESS = tiny_config(cycles=2, epochs_per_cycle=50_000)
SHORT = tiny_config(cycles=1, epochs_per_cycle=1)


class FullStore(ArtifactStore):
    """A store whose disk is full from the first snapshot on."""

    def create(self, key: str, data: bytes | Path) -> str:
        if "/snapshots/" in key:
            raise StoreFull(f"{key} could not be written: no space left on the device")
        return super().create(key, data)


def of_user(workshop: Workshop) -> str:
    """The sweep needs two batches an epoch, and the data fill one."""
    job_id = workshop.submit(tiny_range_test(batch_size=400))
    assert workshop.supervise(job_id) == Outcome.FINISHED
    return job_id


def of_data(workshop: Workshop) -> str:
    job_id = workshop.submit(SHORT)
    file = workshop.directory / "artifacts" / "datasets" / workshop.record(job_id).dataset_id / "data.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert workshop.supervise(job_id) == Outcome.FINISHED
    return job_id


def of_memory(workshop: Workshop) -> str:
    """Its weights alone are a gigabyte, and its trainer may take a quarter of that."""
    bounds = Bounds(memory_bytes=2**28, file_bytes=2**26)
    trainers = WarmTrainers(lambda: TrainerProcess.spawn(workshop.directory / "scratch", device="cpu", bounds=bounds))
    job_id = workshop.submit(tiny_config(model={"architecture": "mlp", "params": {"hidden": [16_384, 16_384]}}))
    try:
        assert workshop.supervise(job_id, trainers=trainers) == Outcome.FINISHED
    finally:
        trainers.close()
    return job_id


def of_divergence(workshop: Workshop) -> str:
    schedule = {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 50, "max_lr": 1000.0}
    job_id = workshop.submit(tiny_config(schedule=schedule, optimizer={"type": "sgd", "weight_decay": 1.0}))
    assert workshop.supervise(job_id) == Outcome.FINISHED
    return job_id


def of_disk(workshop: Workshop) -> str:
    job_id = workshop.submit(SHORT)
    assert workshop.supervise(job_id, artifacts=FullStore.open(workshop.directory / "artifacts")) == Outcome.FINISHED
    return job_id


def of_crashes(workshop: Workshop) -> str:
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id, max_crashes=1)
    os.kill(workshop.wait_for_training(job_id).pid, signal.SIGKILL)
    assert run.result(timeout=30) == Outcome.FINISHED
    return job_id


def of_time(workshop: Workshop) -> str:
    job_id = workshop.submit(ENDLESS)
    assert workshop.supervise(job_id, max_job_seconds=0.5) == Outcome.FINISHED
    return job_id


def of_defect(workshop: Workshop) -> str:
    """The trainer raises what nobody has foreseen."""
    job_id = workshop.submit(SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(failpoints.VARIABLE, "trainer.loaded=raise")
        assert workshop.supervise(job_id) == Outcome.FINISHED
    return job_id


CASES: dict[ErrorCategory, tuple[Callable[[Workshop], str], str]] = {
    ErrorCategory.USER: (of_user, "change the configuration"),
    ErrorCategory.DATA: (of_data, "upload the dataset again"),
    ErrorCategory.OUT_OF_MEMORY: (of_memory, "lower batch_size, or take a smaller network"),
    ErrorCategory.DIVERGED: (of_divergence, "lower max_lr"),
    ErrorCategory.DISK_FULL: (of_disk, "make room in the artifact store"),
    ErrorCategory.WORKER_LOST: (of_crashes, "Look into the worker's log"),
    ErrorCategory.TIME_LIMIT: (of_time, "raise max_seconds"),
    ErrorCategory.INTERNAL: (of_defect, "this is a defect: report it"),
}


@pytest.mark.parametrize("category", ErrorCategory)
def test_a_job_fails_in_the_category_of_its_cause_with_a_suggestion(workshop: Workshop, category: ErrorCategory) -> None:
    cause, suggestion = CASES[category]
    job_id = cause(workshop)
    record = workshop.record(job_id)
    assert (record.status, record.error["category"]) == (JobStatus.FAILED, category), record.error
    assert suggestion in record.error["suggestion"]
    assert record.error["message"]
    assert record.snapshot_count == 0
    if category != ErrorCategory.WORKER_LOST:  # whose result the reconciler stores
        assert record.crashes == 0
        assert (read_document(workshop.bench.artifacts, result_key(job_id)) or {})["error"] == record.error
