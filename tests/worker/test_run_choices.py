"""What a training job decides on its way, as its stores know it: its highest rate, and its changes of plan."""

import json
from typing import Any

import pytest

from clr.config import TrainingConfig
from tests.worker.training_jobs import snapshot_sha256s, tiny_config, wait_until
from tests.worker.workshops import Workshop
from worker import records
from worker.jobs import Action, JobStatus, Phase
from worker.rebuild import rebuild
from worker.records import read_document, result_key
from worker.supervisor import Outcome


def auto_rate(**changes: Any) -> TrainingConfig:
    """A short run that searches for its rate first."""
    schedule = {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 2, "max_lr": "auto"}
    model = {"architecture": "mlp", "params": {"hidden": [16], "dropout": 0.1}}
    document: dict[str, Any] = {"schedule": schedule, "model": model, "batch_size": 34}
    return tiny_config(**document | changes)


def output_of(workshop: Workshop, job_id: str) -> dict[str, Any]:
    output: dict[str, Any] = json.loads(workshop.bench.artifacts.read(result_key(job_id)))["output"]
    return output


def test_the_rate_that_a_job_finds_stands_in_its_config_its_events_and_its_result(workshop: Workshop) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    job_id = workshop.submit(auto_rate())
    assert workshop.record(job_id).config["schedule"]["max_lr"] == "auto"
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.snapshot_count, record.progress["fraction"]) == (JobStatus.SUCCEEDED, 2, 1.0)
    found = output_of(workshop, job_id)["learning_rate"]
    assert found["max_lr"] == record.config["schedule"]["max_lr"] == found["result"]["max_lr"]
    assert found["epochs"] > 0
    assert found["result"]["reason"]
    events = store.events(job_id, limit=1000)
    (told,) = [event.data for event in events if event.type == "learning_rate"]
    stored = read_document(artifacts, records.learning_rate_key(job_id))
    assert stored is not None
    assert told == found == records.without_claim(stored)
    phases = [event.data["phase"] for event in events if event.type == "state"]
    assert phases.index("finding_learning_rate") < phases.index("training")
    assert store.metrics(job_id).rows[0][3] == found["max_lr"]  # the first step is taken at it

    store._redis.flushall()
    assert rebuild(store, artifacts) == 1
    assert workshop.record(job_id).config["schedule"]["max_lr"] == found["max_lr"]


@pytest.mark.slow
def test_a_crash_after_the_search_repeats_no_search_and_changes_no_bit(workshop: Workshop) -> None:
    long = auto_rate(schedule={"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 150, "max_lr": "auto"})
    undisturbed, killed = workshop.submit(long), workshop.submit(long)
    assert workshop.supervise(undisturbed) == Outcome.FINISHED
    running = workshop.start(killed)
    workshop.wait_for_training(killed).kill()
    assert running.result(timeout=30) == Outcome.REQUEUED
    assert workshop.record(killed).snapshot_count == 0
    assert workshop.supervise(killed) == Outcome.FINISHED
    store = workshop.bench.store
    assert snapshot_sha256s(store, killed) == snapshot_sha256s(store, undisturbed)
    assert output_of(workshop, killed)["learning_rate"] == output_of(workshop, undisturbed)["learning_rate"]
    types = [event.type for event in store.events(killed, limit=1000)]
    assert types.count("learning_rate") == 1
    searches = [event for event in store.events(killed, limit=1000) if event.data.get("phase") == "finding_learning_rate"]
    assert len(searches) == 1


@pytest.mark.slow
def test_a_drain_in_the_middle_of_the_run_keeps_the_rate(workshop: Workshop) -> None:
    long = auto_rate(schedule={"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 150, "max_lr": "auto"})
    job_id = workshop.submit(long)
    running = workshop.start(job_id)
    workshop.wait_for_training(job_id)
    workshop.is_draining = True
    assert running.result(timeout=30) == Outcome.RELEASED
    workshop.is_draining = False
    assert workshop.supervise(job_id) == Outcome.FINISHED
    found = output_of(workshop, job_id)["learning_rate"]
    assert found["max_lr"] == workshop.record(job_id).config["schedule"]["max_lr"]


def test_a_job_stopped_in_its_search_is_cancelled(workshop: Workshop) -> None:
    endless = auto_rate(batch_size=2, optimizer={"type": "sgd", "momentum": 0.0, "nesterov": False})
    job_id = workshop.submit(endless)
    running = workshop.start(job_id)
    wait_until(lambda: workshop.record(job_id).phase == Phase.FINDING_LEARNING_RATE)
    workshop.bench.store.request(job_id, Action.STOP_NOW)
    assert running.result(timeout=30) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.stop_reason, record.config["schedule"]["max_lr"]) == (JobStatus.CANCELLED, "stopped", "auto")
    assert output_of(workshop, job_id)["learning_rate"] is None


def test_a_change_of_plan_is_told_once_and_listed_in_the_result(workshop: Workshop) -> None:
    config = tiny_config(schedule={"type": "warm_restarts", "cycles": 2, "max_lr": 0.05}, budget={"minutes": 0.1})
    job_id = workshop.submit(config)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record, plan = workshop.record(job_id), output_of(workshop, job_id)["plan"]
    assert record.status == JobStatus.SUCCEEDED
    events = [event.data for event in workshop.bench.store.events(job_id, limit=2000) if event.type == "plan"]
    assert len(plan) >= 1
    assert events == plan
    assert {change["subject"] for change in plan} == {"length"}
    assert plan[-1]["steps"] == plan[-1]["cycle_ends"][-1] == record.progress["steps"] == record.progress["step"]
    assert [change["step"] for change in plan] == sorted(change["step"] for change in plan)


@pytest.mark.slow
def test_the_plan_of_a_job_that_goes_on_elsewhere_is_whole(workshop: Workshop) -> None:
    config = tiny_config(schedule={"type": "warm_restarts", "cycles": 2, "max_lr": 0.05}, budget={"minutes": 0.15})
    job_id = workshop.submit(config)
    running = workshop.start(job_id)
    wait_until(lambda: any(event.type == "plan" for event in workshop.bench.store.events(job_id, limit=2000)))
    workshop.is_draining = True
    assert running.result(timeout=30) == Outcome.RELEASED
    workshop.is_draining = False
    assert workshop.supervise(job_id) == Outcome.FINISHED
    plan = output_of(workshop, job_id)["plan"]
    events = [event.data for event in workshop.bench.store.events(job_id, limit=2000) if event.type == "plan"]
    assert plan == events


def test_a_job_without_choices_says_so(workshop: Workshop) -> None:
    job_id = workshop.submit(tiny_config(cycles=1, epochs_per_cycle=1))
    assert workshop.supervise(job_id) == Outcome.FINISHED
    output = output_of(workshop, job_id)
    assert (output["learning_rate"], output["plan"]) == (None, [])
