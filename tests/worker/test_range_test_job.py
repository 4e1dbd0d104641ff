"""Range tests on workers: what the trainer says, what is stored, and every way in which they can end."""

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clr.datasets import Dataset, save_dataset
from clr.errors import RateNotFoundError
from clr.range_answer import conclude
from clr.range_test import finish_sweep, range_test
from tests.worker.test_trainer import job, of_type
from tests.worker.training_jobs import record_of, status_of, submit, tiny_dataset, tiny_range_test, wait_until
from tests.worker.workshops import Site, Workshop
from worker.celery_app import publish
from worker.job_specs import RangeTestSpec
from worker.jobs import Action, JobKind, JobStatus, Phase
from worker.protocol import (
    EXIT_DRAINED,
    EXIT_FAILED,
    Failed,
    Finished,
    FirstStep,
    Message,
    Progress,
    Ready,
    ResultStaged,
    Started,
    StopRequest,
)
from worker.range_test_job import range_test_document
from worker.rebuild import rebuild
from worker.records import result_key
from worker.supervisor import Outcome
from worker.trainer_failures import failure_of
from worker.trainer_process import TrainerProcess

CONFIG = tiny_range_test()
ENDLESS = tiny_range_test(num_rates=10_000, repeats=100, end_lr=1e-4, start_lr=1e-5)
"""Rates so small that no sweep ends early."""


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess.spawn(tmp_path, device="cpu")
    yield process
    process.discard()


@pytest.fixture
def dataset_path(tmp_path: Path) -> Path:
    path = tmp_path / "dataset.safetensors"
    save_dataset(tiny_dataset(), path)
    return path


def test_the_trainer_tells_every_sweep_and_stages_the_answer_of_the_library(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(CONFIG, dataset_path))
    messages = list(trainer.messages())
    assert trainer.wait() == 0
    assert [type(message) for message in messages[:3]] == [Ready, Started, FirstStep]
    (first,), (started,) = of_type(messages, FirstStep), of_type(messages, Started)
    assert (first.phase, started.config["num_rates"], started.config["precision"]) == (Phase.MEASURING, 60, "fp32")
    assert messages[-1] == Finished(stop_reason=None)
    (staged,) = of_type(messages, ResultStaged)
    assert staged.document == json.loads(json.dumps(range_test_document(range_test(CONFIG, tiny_dataset()))))
    assert staged.document["max_lr"] > staged.document["min_lr"] > 0
    progress = of_type(messages, Progress)
    assert [each.step for each in progress] == sorted(each.step for each in progress)
    assert progress[-1].eta_seconds == 0
    assert all(each.step <= each.steps for each in progress)


def test_a_drained_test_leaves_nothing_and_says_so(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(ENDLESS, dataset_path))
    messages: list[Message] = []
    for message in trainer.messages():
        if isinstance(message, FirstStep):
            trainer.drain()
        messages.append(message)
    assert trainer.wait() == EXIT_DRAINED
    assert of_type(messages, ResultStaged) == of_type(messages, Finished) == []


def test_a_test_that_is_stopped_keeps_its_complete_sweeps(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_range_test(repeats=100), dataset_path))
    messages: list[Message] = []
    for message in trainer.messages():
        if isinstance(message, Progress) and message.step > 60 and message.train_loss is not None:
            trainer.send(StopRequest(when="cycle_end"))
        messages.append(message)
    assert trainer.wait() == 0
    assert messages[-1] == Finished(stop_reason="stopped")
    (staged,) = of_type(messages, ResultStaged)
    assert 2 <= len(staged.document["sweeps"]) < 100
    assert staged.document["reason"].startswith("the test was stopped, so this rests on the curves of ")
    assert staged.document["max_lr"] is not None


def test_data_of_one_batch_are_the_users_to_change(capfd: pytest.CaptureFixture[str], trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_range_test(batch_size=1000), dataset_path))
    failed = list(trainer.messages())[-1]
    assert trainer.wait() == EXIT_FAILED
    assert isinstance(failed, Failed)
    assert failed.category == "user"
    assert "set batch_size to " in failed.message
    assert "Traceback" not in capfd.readouterr().err, "it is no defect"


def test_a_run_without_a_rate_fails_with_one_remedy_that_it_has_a_field_for() -> None:
    failed = failure_of(RateNotFoundError("the range test found no max_lr: none of 5 short trainings learns"))
    assert failed is not None
    assert (failed.category, failed.message) == ("user", "the range test found no max_lr: none of 5 short trainings learns")
    assert failed.suggestion == "give max_lr a number, for example 0.1"


def test_a_job_ends_with_a_result_that_outlives_redis(workshop: Workshop) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    job_id = submit(store, artifacts, CONFIG, workshop.directory)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.kind, record.status, record.stop_reason, record.error) == (JobKind.RANGE_TEST, JobStatus.SUCCEEDED, None, None)
    assert (record.progress["fraction"], record.progress["cycle"], record.snapshot_count) == (1.0, None, 0)
    assert record.config["precision"] == "fp32"
    result = json.loads(artifacts.read(result_key(job_id)))
    assert (result["status"], result["snapshots"], result["history"]["rows"]) == ("succeeded", [], [])
    assert [len(sweep["loss"]) for sweep in result["output"]["sweeps"]] == [len(s["learning_rate"]) for s in result["output"]["sweeps"]]

    store._redis.flushall()
    assert rebuild(store, artifacts) == 1
    restored = workshop.record(job_id)
    assert (restored.kind, restored.status, restored.config) == (JobKind.RANGE_TEST, JobStatus.SUCCEEDED, record.config)


def test_a_constant_loss_succeeds_with_the_reason_why_there_is_no_suggestion(workshop: Workshop) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    generator = np.random.default_rng(0)
    constant = Dataset.from_arrays(generator.normal(size=(200, 4)).astype(np.float32), np.zeros(200, np.float32))
    job_id = submit(store, artifacts, tiny_range_test(optimizer={"type": "sgd"}), workshop.directory, dataset=constant)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    output = json.loads(artifacts.read(result_key(job_id)))["output"]
    assert workshop.record(job_id).status == JobStatus.SUCCEEDED
    assert (output["min_lr"], output["max_lr"], output["suggestions"], output["level"]) == (None, None, {}, "refused")
    assert output["reason"].startswith("no suggestion: ")


def test_stopped_before_the_first_answer_a_test_is_cancelled(workshop: Workshop) -> None:
    store, artifacts = workshop.bench.store, workshop.bench.artifacts
    job_id = submit(store, artifacts, ENDLESS, workshop.directory)
    running = workshop.start(job_id)
    wait_until(lambda: workshop.record(job_id).phase == Phase.MEASURING)
    store.request(job_id, Action.STOP_NOW)
    assert running.result(timeout=30) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.stop_reason) == (JobStatus.CANCELLED, "stopped")
    assert store.request(job_id, Action.STOP_NOW).status == JobStatus.CANCELLED  # once more changes nothing


def test_a_cancelled_test_ends_at_once(workshop: Workshop) -> None:
    job_id = submit(workshop.bench.store, workshop.bench.artifacts, ENDLESS, workshop.directory)
    running = workshop.start(job_id)
    wait_until(lambda: workshop.record(job_id).phase == Phase.MEASURING)
    workshop.bench.store.request(job_id, Action.CANCEL)
    assert running.result(timeout=5) == Outcome.FINISHED
    assert workshop.record(job_id).status == JobStatus.CANCELLED


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_costs_nothing(site: Site) -> None:
    slow = tiny_range_test(num_rates=1500, repeats=2)
    worker = site.start_worker()
    job_id = submit(site.store, site.artifacts, slow, site.directory)
    assert publish(site.app, job_id)
    wait_until(lambda: record_of(site.store, job_id).progress["step"] > 1)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not status_of(site.store, job_id).is_terminal
    owner = str(record_of(site.store, job_id).owner)
    site.start_worker()
    assert site.store.expire_owner(owner) == [job_id]  # as a launcher does that saw it die
    publish(site.app, job_id)
    wait_until(lambda: status_of(site.store, job_id).is_terminal)
    record = record_of(site.store, job_id)
    assert (record.status, record.attempt) == (JobStatus.SUCCEEDED, 2)
    output = json.loads(site.artifacts.read(result_key(job_id)))["output"]
    assert output == json.loads(json.dumps(range_test_document(range_test(slow, tiny_dataset()))))


def test_losses_that_are_not_finite_are_null_in_the_document() -> None:
    document = range_test_document(conclude(CONFIG, [finish_sweep(CONFIG, 0, [*([[1.0]] * 11), [2.0, math.inf]])]))
    assert document["sweeps"][0]["loss"] == [*([1.0] * 11), None]
    assert document["sweeps"][0]["batch_loss"] == [*([[1.0]] * 11), [2.0, None]]
    assert document["sweeps"][0]["stop_reason"] == "not_finite"
    assert (document["max_lr"], document["level"]) == (None, "refused")


def test_a_spec_begins_with_the_steps_that_it_will_take() -> None:
    spec = RangeTestSpec(
        id="job_1", name=None, dataset_id="ds_1", metadata={}, created_at="2026-01-01T00:00:00.000Z", config=CONFIG, num_steps=220
    )
    assert (spec.initial_progress()["steps"], spec.initial_progress()["fraction"]) == (220, 0.0)
    assert (spec.progress_at(55)["fraction"], spec.progress_at(55)["step"], spec.progress_at(300)["fraction"]) == (0.25, 55, 1.0)
