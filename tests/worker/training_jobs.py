"""Tiny real training jobs for the tests of the worker: a second or two long, with a few cycles."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clr.config import RangeTestConfig, TrainingConfig
from clr.datasets import Dataset, save_dataset
from clr.study_config import StudyConfig
from worker.artifacts import ArtifactStore
from worker.dataset_store import put_dataset
from worker.ids import new_id
from worker.job_specs import JobSpec, RangeTestSpec, StudySpec, TrainSpec
from worker.job_store import JobStore
from worker.jobs import JobRecord, JobStatus, now_rfc3339
from worker.records import spec_key, write_document


def tiny_dataset() -> Dataset:
    """400 rows of 8 features in two classes that a small network tells apart."""
    generator = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = generator.normal(size=(400, 8)).astype(np.float32) + y[:, None].astype(np.float32)
    return Dataset.from_arrays(x, y)


def tiny_config(*, cycles: int = 2, epochs_per_cycle: float = 2, **changes: Any) -> TrainingConfig:
    """A run with dropout and momentum, so that resuming has something to get wrong."""
    document: dict[str, Any] = {
        "model": {"architecture": "mlp", "params": {"hidden": [32, 32], "dropout": 0.1}},
        "schedule": {"type": "warm_restarts", "cycles": cycles, "epochs_per_cycle": epochs_per_cycle, "max_lr": 0.05},
        "batch_size": 17,
    }
    return TrainingConfig.model_validate(document | changes)


def tiny_range_test(**changes: Any) -> RangeTestConfig:
    """Two sweeps of a quarter of a second; with many more rates it lasts as long as a test needs it to."""
    model = {"architecture": "mlp", "params": {"hidden": [16], "dropout": 0.1}}
    document: dict[str, Any] = {"model": model, "batch_size": 17, "num_rates": 60, "repeats": 2}
    return RangeTestConfig.model_validate(document | changes)


def tiny_spec(config: TrainingConfig | RangeTestConfig | StudyConfig, dataset_id: str = "ds_01M84K9HDDAJZAD5F3E26JSCXC") -> JobSpec:
    """The spec of a new job; its lengths stand for no real ones."""
    fields: dict[str, Any] = {"id": new_id("job"), "name": None, "dataset_id": dataset_id, "metadata": {}, "created_at": now_rfc3339()}
    if isinstance(config, RangeTestConfig):
        return RangeTestSpec(**fields, config=config, num_steps=1)
    if isinstance(config, StudyConfig):
        return StudySpec(**fields, config=config, num_steps=140, steps_per_epoch=10)
    return TrainSpec(**fields, config=config, num_steps=1, num_cycles=1, epochs=1, steps_per_epoch=1)


def submit(
    store: JobStore, artifacts: ArtifactStore, config: TrainingConfig | RangeTestConfig, directory: Path, *, dataset: Dataset | None = None
) -> str:
    """Stores a dataset and queues a job on it; returns the job's id."""
    dataset_id = new_id("ds")
    path = directory / f"{dataset_id}.safetensors"
    save_dataset(dataset or tiny_dataset(), path)
    put_dataset(artifacts, dataset_id, path, {"name": "tiny"})
    spec = tiny_spec(config, dataset_id)
    write_document(artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    store.submit(spec, idempotency_key=None, body_sha256="")
    return spec.id


T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, seconds: float = 60) -> T:
    """Waits for a condition and returns its value; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"this did not happen within {seconds} s"
        time.sleep(0.01)


def record_of(store: JobStore, job_id: str) -> JobRecord:
    """The job's record, which exists."""
    record = store.get(job_id)
    assert record is not None
    return record


def status_of(store: JobStore, job_id: str) -> JobStatus:
    """The job's status."""
    return record_of(store, job_id).status


def snapshot_sha256s(store: JobStore, job_id: str) -> list[str]:
    """The hashes of the committed snapshots' weights, in the order of their cycles."""
    return [manifest["sha256"] for manifest in store.snapshots(job_id)]


def process_is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"
