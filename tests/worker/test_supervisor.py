"""Supervisors in this process, with a real job store and real trainers: every way in which an attempt can end."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.job_stores import complete_store, emptied_store
from tests.worker.training_jobs import process_is_gone, record_of, snapshot_sha256s, status_of, submit, tiny_config, wait_until
from tests.worker.workshops import Workshop
from worker.artifacts import ArtifactStore, ArtifactUnavailable
from worker.job_store import Claim
from worker.jobs import Action, JobStatus
from worker.rebuild import rebuild
from worker.reconciler import reconcile_once
from worker.records import checkpoints_prefix, result_key, snapshot_prefix
from worker.redis_connection import connect
from worker.supervisor import Bench, Outcome, supervise
from worker.trainer_process import TrainerProcess, WarmTrainers
from worker.valkey_server import ValkeyServer

LONG = tiny_config(cycles=4, epochs_per_cycle=15)
"""About a second of training, and four snapshots."""

ENDLESS = tiny_config(cycles=2, epochs_per_cycle=50_000)


@dataclass(frozen=True)
class Oracle:
    """What LONG leaves behind where nothing disturbs it."""

    sha256s: list[str]
    rows: list[list[float | None]]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> Oracle:
    """LONG, undisturbed."""
    directory = tmp_path_factory.mktemp("oracle")
    with connect(valkey.url) as client:
        store, artifacts = emptied_store(client, prefix="oracle:"), ArtifactStore.open(directory / "artifacts")
        trainers = WarmTrainers(partial(TrainerProcess.spawn, directory, device="cpu"))
        bench = Bench("oracle", store, artifacts, trainers, print, lambda: False, 30, 5, 3600, 15, 3)
        job_id = submit(store, artifacts, LONG, directory)
        assert supervise(job_id, bench) == Outcome.FINISHED
        trainers.close()
        return Oracle(snapshot_sha256s(store, job_id), store.metrics(job_id).rows)


def test_a_job_is_trained_to_its_end(workshop: Workshop) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    job_id = workshop.submit(tiny_config(cycles=3))
    assert workshop.supervise(job_id) == Outcome.FINISHED

    record = workshop.record(job_id)
    assert (record.status, record.phase, record.stop_reason, record.error) == (JobStatus.SUCCEEDED, None, None, None)
    assert (record.snapshot_count, record.progress["fraction"], record.progress["cycle"]) == (3, 1.0, 2)
    assert record.config["precision"] == "fp32"
    assert record.started_at <= record.training_started_at <= record.finished_at
    assert set(record.progress) == {
        "fraction", "cycle", "cycles", "epoch", "epochs", "step", "steps", "eta_seconds", "samples_per_second"
    }  # fmt: skip

    manifests = store.snapshots(job_id)
    assert [manifest["cycle"] for manifest in manifests] == [0, 1, 2]
    for manifest in manifests:
        weights = manifest["files"]["weights"]
        assert weights["key"] == f"{snapshot_prefix(job_id, manifest['cycle'])}/weights.safetensors"
        assert artifacts.local_path(weights["key"], weights["sha256"], weights["size_bytes"]).is_file()
        assert manifest["ensemble"]["members"] == manifest["ensemble"]["version"] == manifest["cycle"] + 1
    losses = [manifest["metrics"]["validation"]["loss"] for manifest in manifests]
    assert record.best["cycle"] == losses.index(min(losses))

    steps = record.progress["steps"]
    assert [row[0] for row in store.metrics(job_id).rows] == list(range(1, steps + 1))
    result = json.loads(artifacts.read(result_key(job_id)))
    assert (result["status"], result["stop_reason"], result["error"]) == ("succeeded", None, None)
    assert result["snapshots"] == [{"cycle": m["cycle"], "snapshot_id": m["id"], "metrics": m["metrics"]} for m in manifests]
    assert result["ensemble"] == [manifest["ensemble"] for manifest in manifests]
    assert result["history"]["columns"] == ["step", "epoch", "cycle", "learning_rate", "train_loss"]
    assert result["history"]["rows"] == store.metrics(job_id).rows
    assert result["config"] == record.config

    events = store.events(job_id, limit=1000)
    assert [event.data["cycle"] for event in events if event.type == "snapshot"] == [0, 1, 2]
    assert (events[-2].type, events[-2].data["status"], events[-1].type) == ("state", "succeeded", "end")
    assert {"learning_rate", "train_loss", "step"} <= set(next(event for event in events if event.type == "progress").data)
    assert artifacts.list_names(checkpoints_prefix(job_id))[0].startswith(f"{steps * 2 // 3:010d}-")
    assert len(artifacts.list_names(checkpoints_prefix(job_id))) == 2


def test_the_next_trainer_is_warmed_after_a_job_that_is_alone_and_beside_one_that_is_waited_for(workshop: Workshop) -> None:
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id)
    workshop.wait_for_training(job_id)
    seen = workshop.record(job_id).progress.get("step", 0)
    wait_until(lambda: workshop.record(job_id).progress.get("step", 0) > seen + 1000)  # some beats later
    assert len(workshop.spawned) == 1
    waiting = workshop.submit(tiny_config(cycles=2))
    wait_until(lambda: len(workshop.spawned) == 2)
    workshop.bench.store.request(job_id, Action.CANCEL)
    assert run.result() == Outcome.FINISHED
    assert workshop.supervise(waiting) == Outcome.FINISHED
    assert len(workshop.spawned) == 3, "one for each job and a spare"


def test_a_second_message_is_dropped(workshop: Workshop) -> None:
    job_id = workshop.submit(LONG)
    first = workshop.start(job_id)
    workshop.wait_for_training(job_id)
    assert workshop.supervise(job_id, worker_id="another") == Outcome.REFUSED
    assert first.result() == Outcome.FINISHED
    assert workshop.supervise(job_id) == Outcome.REFUSED
    assert workshop.record(job_id).attempt == 1


def test_a_killed_trainer_costs_a_crash_and_no_bit(workshop: Workshop, oracle: Oracle) -> None:
    job_id = workshop.submit(LONG)
    run = workshop.start(job_id)
    trainer = workshop.wait_for_training(job_id)
    workshop.wait_for_snapshots(job_id, 1)
    os.kill(trainer.pid, signal.SIGKILL)
    assert run.result() == Outcome.REQUEUED
    assert workshop.published == [job_id]
    record = workshop.record(job_id)
    assert (record.status, record.crashes) == (JobStatus.QUEUED, 1)
    assert "signal 9" in record.transitions[-1]["reason"]

    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert snapshot_sha256s(workshop.bench.store, job_id) == oracle.sha256s
    assert workshop.bench.store.metrics(job_id).rows == oracle.rows


def test_the_third_crash_without_progress_fails_the_job(workshop: Workshop) -> None:
    job_id = workshop.submit(ENDLESS)
    outcomes = []
    for _ in range(3):
        run = workshop.start(job_id)
        os.kill(workshop.wait_for_training(job_id).pid, signal.SIGKILL)
        outcomes.append(run.result())
    assert outcomes == [Outcome.REQUEUED, Outcome.REQUEUED, Outcome.FINISHED]
    record = workshop.record(job_id)
    assert (record.status, record.error["category"]) == (JobStatus.FAILED, "worker_lost")


def test_a_drain_checkpoints_gives_the_job_back_and_costs_no_crash(workshop: Workshop, oracle: Oracle) -> None:
    job_id = workshop.submit(LONG)
    run = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 1)
    workshop.is_draining = True
    assert run.result(timeout=5) == Outcome.RELEASED
    record = workshop.record(job_id)
    assert (record.status, record.crashes, workshop.published) == (JobStatus.QUEUED, 0, [job_id])

    workshop.is_draining = False
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert snapshot_sha256s(workshop.bench.store, job_id) == oracle.sha256s
    assert workshop.bench.store.metrics(job_id).rows == oracle.rows
    assert workshop.record(job_id).attempt == 2


def test_a_trainer_that_does_not_drain_in_time_is_killed(workshop: Workshop) -> None:
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id, drain_seconds=0.5)
    trainer = workshop.wait_for_training(job_id)
    os.kill(trainer.pid, signal.SIGSTOP)
    workshop.is_draining = True
    assert run.result(timeout=5) == Outcome.RELEASED
    assert workshop.record(job_id).crashes == 0


def test_a_cancelled_job_is_dead_at_once(workshop: Workshop) -> None:
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id)
    trainer = workshop.wait_for_training(job_id)
    os.kill(trainer.pid, signal.SIGSTOP)  # also one that doesn't listen
    workshop.bench.store.request(job_id, Action.CANCEL)
    wait_until(lambda: process_is_gone(trainer.pid), seconds=5)  # a second, and the machine's own delays
    assert run.result(timeout=20) == Outcome.FINISHED
    assert workshop.record(job_id).status == JobStatus.CANCELLED
    assert json.loads(workshop.bench.artifacts.read(result_key(job_id)))["status"] == "cancelled"


@pytest.mark.parametrize(("action", "is_minimum"), [(Action.STOP_NOW, False), (Action.STOP_CYCLE_END, True)])
def test_a_stopped_job_has_succeeded(workshop: Workshop, action: Action, is_minimum: bool) -> None:
    config = ENDLESS if action == Action.STOP_NOW else tiny_config(cycles=500, epochs_per_cycle=25)
    job_id = workshop.submit(config)
    run = workshop.start(job_id)
    workshop.wait_for_training(job_id)
    workshop.bench.store.request(job_id, action)
    assert run.result(timeout=30) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.stop_reason) == (JobStatus.SUCCEEDED, "stopped")
    assert workshop.bench.store.snapshots(job_id)[-1]["is_minimum"] is is_minimum


def test_a_job_that_was_asked_to_stop_before_a_crash_stops_after_it(workshop: Workshop) -> None:
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id)
    trainer = workshop.wait_for_training(job_id)
    os.kill(trainer.pid, signal.SIGSTOP)
    workshop.bench.store.request(job_id, Action.STOP_NOW)
    os.kill(trainer.pid, signal.SIGKILL)
    assert run.result() == Outcome.REQUEUED
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert workshop.record(job_id).stop_reason == "stopped"


def test_a_fenced_supervisor_kills_its_trainer_and_changes_nothing(workshop: Workshop) -> None:
    store = workshop.bench.store
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id)
    trainer = workshop.wait_for_training(job_id)
    store.expire_owner("worker")
    assert store.requeue_expired(job_id, 3) == "requeued"
    claim = store.claim(job_id, "another", 30_000, 3)
    assert run.result(timeout=5) == Outcome.FENCED
    assert not trainer.is_alive()
    record = workshop.record(job_id)
    assert (record.status, record.owner, record.epoch) == (JobStatus.RUNNING, "another", claim.epoch)  # type: ignore[union-attr]  # claimed
    assert workshop.published == []


def test_a_job_goes_on_after_redis_has_lost_everything(workshop: Workshop, oracle: Oracle, redis_client: redis.Redis) -> None:
    store = workshop.bench.store
    job_id = workshop.submit(LONG)
    run = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 2)
    redis_client.flushdb()
    assert run.result(timeout=5) == Outcome.FENCED
    assert rebuild(store, workshop.bench.artifacts) == 1
    assert workshop.record(job_id).snapshot_count >= 2
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert snapshot_sha256s(store, job_id) == oracle.sha256s
    assert store.metrics(job_id).rows == oracle.rows


def damage(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [damage, remove])
def test_a_dataset_that_is_lost_or_damaged_fails_the_job(workshop: Workshop, harm: Callable[[Path], None]) -> None:
    job_id = workshop.submit(LONG)
    harm(workshop.directory / "artifacts" / "datasets" / workshop.record(job_id).dataset_id / "data.safetensors")
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.error["category"]) == (JobStatus.FAILED, "data")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(workshop: Workshop, oracle: Oracle) -> None:
    job_id = workshop.submit(LONG)
    run = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 2)
    workshop.is_draining = True
    assert run.result() == Outcome.RELEASED
    workshop.is_draining = False
    folder = workshop.directory / "artifacts" / checkpoints_prefix(job_id)
    newest = sorted(folder.iterdir())[-1]
    damage(newest / "checkpoint.safetensors")
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert snapshot_sha256s(workshop.bench.store, job_id) == oracle.sha256s


class AwayStore(ArtifactStore):
    """A store that can be read from, but takes nothing."""

    def create(self, key: str, data: bytes | Path) -> str:
        raise ArtifactUnavailable(f"the store does not take {key} from {data!r}")


def test_a_cancel_is_obeyed_while_the_artifact_store_is_away(workshop: Workshop) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    job_id = workshop.submit(tiny_config(cycles=500, epochs_per_cycle=25))
    run = workshop.start(job_id, artifacts=AwayStore.open(workshop.directory / "artifacts"))
    trainer = workshop.wait_for_training(job_id)
    wait_until(lambda: trainer.directory.joinpath("snapshot-1.safetensors").exists())
    store.request(job_id, Action.CANCEL)
    assert run.result(timeout=20) == Outcome.FINISHED  # the store never comes back
    assert (workshop.record(job_id).status, workshop.record(job_id).snapshot_count) == (JobStatus.CANCELLED, 0)
    assert reconcile_once(store, artifacts, print, max_crashes=3).filed == [job_id]


def test_training_goes_on_while_the_job_store_is_away(workshop: Workshop, tmp_path: Path, oracle: Oracle) -> None:
    with ValkeyServer(tmp_path / "own-valkey") as server, connect(server.url) as client:
        store = complete_store(client)
        job_id = submit(store, workshop.bench.artifacts, LONG, workshop.directory)
        run = workshop.start(job_id, store=store)
        wait_until(lambda: record_of(store, job_id).snapshot_count >= 1)
        server.stop()
        trainer = next(trainer for trainer in workshop.spawned if trainer.is_alive())
        wait_until(lambda: trainer.directory.joinpath("snapshot-3.safetensors").exists())
        assert not run.done()
        server.start()
        assert run.result(timeout=30) == Outcome.FINISHED
        assert status_of(store, job_id) == JobStatus.SUCCEEDED
        assert snapshot_sha256s(store, job_id) == oracle.sha256s


def test_a_job_that_the_kernel_kills_for_its_memory_gets_one_more_try(workshop: Workshop) -> None:
    job_id = workshop.submit(tiny_config(cycles=3, epochs_per_cycle=500))
    outcomes = []
    for attempt in (1, 2):
        kills = iter((attempt, attempt + 1))  # what the kernel has counted when the trainer starts, and at its end
        future = workshop.start(job_id, kernel_kills=lambda kills=kills: next(kills))
        os.kill(workshop.wait_for_training(job_id).pid, signal.SIGKILL)
        outcomes.append(future.result(30))
    assert outcomes == [Outcome.REQUEUED, Outcome.FINISHED]
    record = workshop.record(job_id)
    assert (record.status, record.error["category"]) == (JobStatus.FAILED, "out_of_memory")
    assert "smaller network" in record.error["suggestion"]
    assert [transition["to"] for transition in record.transitions] == ["queued", "running", "queued", "running", "failed"]


class SlowArtifactStore:
    """An artifact store whose first call of each kind takes a while, as a remote one's may."""

    def __init__(self, artifacts: ArtifactStore, *, seconds: float) -> None:
        self._artifacts, self._seconds = artifacts, seconds
        self.slow: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._artifacts, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            if name not in self.slow:
                self.slow.add(name)
                time.sleep(self._seconds)
            return call(*args, **kwargs)

        return slow


def test_an_artifact_store_that_takes_longer_than_the_lease_costs_no_attempt(workshop: Workshop) -> None:
    job_id = workshop.submit(tiny_config(cycles=1))
    slow = SlowArtifactStore(workshop.bench.artifacts, seconds=2.5)
    outcome = workshop.start(job_id, artifacts=slow, lease_seconds=1.5, beat_seconds=0.2)
    refused = 0
    wait_until(lambda: workshop.record(job_id).status == JobStatus.RUNNING)
    while not outcome.done():
        claim = workshop.bench.store.claim(job_id, "another worker", 60_000, 3)
        assert not isinstance(claim, Claim)
        refused += 1
        time.sleep(0.05)
    assert outcome.result() == Outcome.FINISHED
    assert refused > 20
    assert len(slow.slow) > 2
    record = workshop.record(job_id)
    assert (record.status, record.attempt, record.crashes) == (JobStatus.SUCCEEDED, 1, 0)
