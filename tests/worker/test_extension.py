"""Training jobs that get more cycles: after their end, while they run, and with the database lost in between."""

from typing import Any

import pytest
import torch
from safetensors.torch import load

from tests.worker.training_jobs import tiny_config
from tests.worker.workshops import Workshop
from worker.amendments import amended, file_amendments, list_amendments, num_extensions, with_cycles
from worker.job_specs import TrainSpec
from worker.job_store import ExtendedMeanwhile, IdempotencyMismatch, InvalidState
from worker.jobs import Action, JobStatus
from worker.rebuild import rebuild
from worker.records import read_document, result_key
from worker.stored_specs import stored_spec
from worker.supervisor import Outcome

SHORT = tiny_config(cycles=2, epochs_per_cycle=10)


def extend(workshop: Workshop, job_id: str, cycles: int = 2, *, key: str | None = None) -> bool:
    """As the service does it, but for what it refuses."""
    store, record = workshop.bench.store, workshop.record(job_id)
    spec = amended(stored_spec(workshop.bench.artifacts, job_id), list_amendments(store, job_id))
    assert isinstance(spec, TrainSpec)
    longer = with_cycles(spec, cycles)
    config, progress = longer.config.model_dump(mode="json"), record.progress | {"cycles": longer.num_cycles}
    replayed = store.extend(record, cycles, config=config, progress=progress, idempotency_key=key, body_sha256=f"{job_id} {cycles}")
    file_amendments(store, workshop.bench.artifacts, job_id)
    return replayed


def weights(workshop: Workshop, job_id: str) -> list[dict[str, torch.Tensor]]:
    manifests = workshop.bench.store.snapshots(job_id)
    return [load(workshop.bench.artifacts.read(manifest["files"]["weights"]["key"])) for manifest in manifests]


def assert_same_weights(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("is_wiped", [False, True], ids=["kept", "wiped"])
def test_an_extended_job_is_the_one_that_had_the_cycles_from_the_start(workshop: Workshop, is_wiped: bool) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    whole = workshop.submit(tiny_config(cycles=4, epochs_per_cycle=10))
    assert workshop.supervise(whole) == Outcome.FINISHED

    job_id = workshop.submit(SHORT)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    first_two = store.snapshots(job_id)
    assert not extend(workshop, job_id, key="k1")
    if is_wiped:
        store._redis.flushall()
        rebuild(store, artifacts)
    assert extend(workshop, job_id, key="k1")
    record = workshop.record(job_id)
    assert (record.status, record.extensions, record.finished_at, record.position) == (JobStatus.QUEUED, 1, None, 1)
    assert record.config["schedule"]["cycles"] == 4
    if not is_wiped:
        assert [(change["to"], change["reason"]) for change in record.transitions][-1] == ("queued", "extend")

    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.snapshot_count, record.extensions) == (JobStatus.SUCCEEDED, 4, 1)
    assert store.snapshots(job_id)[:2] == first_two
    assert_same_weights(weights(workshop, job_id), weights(workshop, whole))
    results: list[Any] = [read_document(artifacts, key) for key in (result_key(job_id), f"jobs/{job_id}/results/0.json")]
    assert [len(result["snapshots"]) for result in results] == [4, 2]
    store._redis.flushall()
    rebuild(store, artifacts)
    restored = workshop.record(job_id)
    assert (restored.status, restored.snapshot_count, restored.extensions) == (JobStatus.SUCCEEDED, 4, 1)


@pytest.mark.slow
def test_a_running_job_goes_on_after_its_planned_end(workshop: Workshop) -> None:
    whole = workshop.submit(tiny_config(cycles=4, epochs_per_cycle=10))
    assert workshop.supervise(whole) == Outcome.FINISHED
    job_id = workshop.submit(SHORT)
    run = workshop.start(job_id)
    workshop.wait_for_training(job_id)
    extend(workshop, job_id)
    assert run.result(timeout=30) == Outcome.RELEASED
    assert workshop.published == [job_id]
    assert workshop.record(job_id).status == JobStatus.QUEUED
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert workshop.record(job_id).snapshot_count == 4
    assert_same_weights(weights(workshop, job_id), weights(workshop, whole))


def test_a_job_that_failed_or_was_stopped_is_not_extended(workshop: Workshop) -> None:
    job_id = workshop.submit(SHORT)
    run = workshop.start(job_id)
    workshop.wait_for_training(job_id)
    workshop.bench.store.request(job_id, Action.STOP_NOW)
    with pytest.raises(InvalidState, match="extend is not possible"):
        extend(workshop, job_id)
    assert run.result(timeout=30) == Outcome.FINISHED
    with pytest.raises(InvalidState, match="extend is not possible"):
        extend(workshop, job_id)
    assert workshop.record(job_id).status == JobStatus.SUCCEEDED


def test_two_extensions_at_the_same_moment_are_told_apart(workshop: Workshop) -> None:
    job_id = workshop.submit(SHORT)
    store = workshop.bench.store
    store.claim(job_id, "worker-1", 30_000, 3)
    seen = workshop.record(job_id)
    extend(workshop, job_id, key="k1")
    with pytest.raises(ExtendedMeanwhile):
        store.extend(seen, 1, config={}, progress={}, idempotency_key="k2", body_sha256="")
    with pytest.raises(IdempotencyMismatch):
        extend(workshop, job_id, 1, key="k1")
    extend(workshop, job_id, 1)
    amendments = list_amendments(store, job_id)
    assert (num_extensions(amendments), [each.n for each in amendments], workshop.record(job_id).extensions) == (2, [1, 2], 2)
