"""Landscapes on workers: in a job of their own, after a training, and whatever interrupts them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clr.datasets import save_dataset
from clr.landscape_config import LandscapeSettings
from clr.snapshots import save_snapshot
from clr.training import CycleEnd, train
from tests.worker.test_trainer import of_type
from tests.worker.training_jobs import status_of, submit, tiny_config, tiny_dataset, tiny_spec, wait_until
from tests.worker.workshops import Workshop
from worker.deletion import delete_job
from worker.evaluate_config import EvaluateConfig
from worker.ids import new_id
from worker.job_specs import EvaluateSpec, TrainSpec
from worker.jobs import Action, JobKind, JobStatus, Phase, now_rfc3339
from worker.protocol import EXIT_DRAINED, Finished, FirstStep, Message, Progress, Ready, ResultStaged, Started, StopRequest, TrainerJob
from worker.records import result_key, spec_key, write_document
from worker.supervisor import Outcome
from worker.trainer_process import TrainerProcess

Json = dict[str, Any]

QUICK = LandscapeSettings(num_directions=2, ascent_steps=1, num_hessian_rows=64, max_iterations=3, num_lambdas=3)
SLOW = QUICK.model_copy(update={"num_directions": 600})
"""Seconds for each snapshot, so that something can happen in between."""


def evaluation(config: EvaluateConfig, cycles: tuple[int, ...], dataset_id: str) -> EvaluateSpec:
    fields: Json = {"id": new_id("job"), "name": None, "dataset_id": dataset_id, "metadata": {}, "created_at": now_rfc3339()}
    return EvaluateSpec(**fields, config=config, cycles=cycles)


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess.spawn(tmp_path, device="cpu")
    yield process
    process.discard()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The weights of a run of three cycles, by the names that an evaluation's trainer knows them by."""
    directory = tmp_path_factory.mktemp("snapshots")
    ends = [event for event in train(tiny_config(cycles=3), tiny_dataset()) if isinstance(event, CycleEnd)]
    for end in ends:
        save_snapshot(end.snapshot, directory / f"{end.cycle}.safetensors")
    return {f"weights/{end.cycle}": str(directory / f"{end.cycle}.safetensors") for end in ends}


def evaluation_job(directory: Path, files: dict[str, str], settings: LandscapeSettings) -> TrainerJob:
    save_dataset(tiny_dataset(), directory / "dataset.safetensors")
    spec = evaluation(EvaluateConfig(job_id=new_id("job"), landscape=settings), (0, 1, 2), new_id("ds"))
    fields = {"dataset_path": str(directory / "dataset.safetensors"), "checkpoint_path": None, "checkpoint_seconds": 3600.0}
    return TrainerJob(spec=spec, files=files, **fields)


def test_an_evaluation_is_told_from_ready_to_finished(trainer: TrainerProcess, tmp_path: Path, files: dict[str, str]) -> None:
    job = evaluation_job(tmp_path, files, QUICK)
    trainer.send(job)
    messages = list(trainer.messages())
    assert trainer.wait() == 0
    assert [type(message) for message in messages[:4]] == [Ready, Started, FirstStep, Progress]
    assert of_type(messages, Started)[0].config == job.spec.config.model_dump(mode="json")
    assert of_type(messages, FirstStep)[0].phase == Phase.MEASURING
    last = of_type(messages, Progress)[-1]
    assert (last.step, last.steps, last.eta_seconds) == (10, job.spec.initial_progress()["steps"], 0)
    (result,) = of_type(messages, ResultStaged)
    assert set(result.document) == {"landscape"}
    assert result.document["landscape"]["num_rows"] == 324
    assert len(result.document["landscape"]["basins"]["lines"]) == 3
    assert messages[-1] == Finished(stop_reason=None)


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_an_interrupted_evaluation_stages_nothing(trainer: TrainerProcess, tmp_path: Path, files: dict[str, str], how: str) -> None:
    trainer.send(evaluation_job(tmp_path, files, SLOW))
    messages: list[Message] = []
    for message in trainer.messages():
        if isinstance(message, FirstStep) and how == "drain":
            trainer.drain()
        elif isinstance(message, FirstStep):
            trainer.send(StopRequest(when="now"))
        messages.append(message)
    assert trainer.wait() == (EXIT_DRAINED if how == "drain" else 0)
    assert of_type(messages, ResultStaged) == []
    assert of_type(messages, Finished) == ([] if how == "drain" else [Finished(stop_reason="stopped")])


def train_with(workshop: Workshop, settings: LandscapeSettings | None, *, cycles: int = 3) -> str:
    """Queues a training that measures its landscape."""
    store, artifacts, directory = workshop.bench.store, workshop.bench.artifacts, workshop.directory
    plain = submit(store, artifacts, tiny_config(cycles=cycles), directory)
    dataset_id = workshop.record(plain).dataset_id
    store.request(plain, Action.CANCEL)
    spec = tiny_spec(tiny_config(cycles=cycles), dataset_id)
    assert isinstance(spec, TrainSpec)
    return submit_spec(workshop, spec.model_copy(update={"landscape": settings}))


def submit_spec(workshop: Workshop, spec: TrainSpec | EvaluateSpec) -> str:
    write_document(workshop.bench.artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    workshop.bench.store.submit(spec, idempotency_key=None, body_sha256="")
    return spec.id


def submit_evaluation(workshop: Workshop, job_id: str, settings: LandscapeSettings) -> str:
    cycles = tuple(snapshot["cycle"] for snapshot in workshop.bench.store.snapshots(job_id))
    config = EvaluateConfig(job_id=job_id, landscape=settings)
    return submit_spec(workshop, evaluation(config, cycles, workshop.record(job_id).dataset_id))


def output_of(workshop: Workshop, job_id: str) -> Json:
    output: Json = json.loads(workshop.bench.artifacts.read(result_key(job_id)))["output"]
    return output


def test_a_training_leaves_diversity_sizes_and_the_landscape(workshop: Workshop) -> None:
    job_id = train_with(workshop, QUICK)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record, output = workshop.record(job_id), output_of(workshop, job_id)
    assert (record.status, record.progress["fraction"], record.progress["cycle"]) == (JobStatus.SUCCEEDED, 1.0, 2)
    assert len(output["diversity"]["correlation"]) == len(output["landscape"]["snapshots"]) == 3
    manifests = workshop.bench.store.snapshots(job_id)
    for part in ("validation", "test"):
        first = output["ensemble_sizes"][part]["first"]
        assert [each["nll"] for each in first] == pytest.approx([each["ensemble"][part]["nll"] for each in manifests], rel=1e-6)
    assert [each["step"] for each in output["landscape"]["snapshots"]] == [each["step"] for each in manifests]
    assert output["landscape"]["diversity"]["correlation"][0] == pytest.approx(output["diversity"]["correlation"][0])


def test_an_evaluation_of_a_finished_training_finds_the_same(workshop: Workshop) -> None:
    trained = train_with(workshop, QUICK)
    assert workshop.supervise(trained) == Outcome.FINISHED
    job_id = submit_evaluation(workshop, trained, QUICK)
    assert workshop.record(job_id).progress["steps"] == 10
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.kind, record.status, record.progress["fraction"]) == (JobKind.EVALUATE, JobStatus.SUCCEEDED, 1.0)
    assert output_of(workshop, job_id)["landscape"] == output_of(workshop, trained)["landscape"]


def test_a_training_without_a_landscape_has_diversity_all_the_same(workshop: Workshop) -> None:
    job_id = train_with(workshop, None, cycles=2)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    output = output_of(workshop, job_id)
    assert len(output["diversity"]["disagreement"]) == 2
    assert "landscape" not in output


def test_a_training_that_is_drained_while_it_measures_goes_on_with_all_snapshots(workshop: Workshop) -> None:
    job_id = train_with(workshop, SLOW)
    running = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 3)
    wait_until(lambda: workshop.record(job_id).phase == Phase.EVALUATING)
    workshop.is_draining = True
    assert running.result(timeout=60) == Outcome.RELEASED
    workshop.is_draining = False
    assert status_of(workshop.bench.store, job_id) == JobStatus.QUEUED
    assert workshop.supervise(job_id) == Outcome.FINISHED
    output = output_of(workshop, job_id)
    assert [each["cycle"] for each in output["landscape"]["snapshots"]] == [0, 1, 2]
    assert len(output["ensemble_sizes"]["test"]["last"]) == 3
    assert workshop.record(job_id).crashes == 0


def test_a_training_that_is_stopped_while_it_measures_keeps_what_it_has(workshop: Workshop) -> None:
    job_id = train_with(workshop, SLOW)
    running = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 3)
    wait_until(lambda: workshop.record(job_id).phase == Phase.EVALUATING)
    workshop.bench.store.request(job_id, Action.STOP_NOW)
    assert running.result(timeout=60) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.stop_reason, record.snapshot_count) == (JobStatus.SUCCEEDED, "stopped", 3)
    output = output_of(workshop, job_id)
    assert "landscape" not in output
    assert len(output["diversity"]["correlation"]) == 3


def test_a_cancelled_evaluation_ends_at_once(workshop: Workshop) -> None:
    trained = train_with(workshop, None, cycles=2)
    assert workshop.supervise(trained) == Outcome.FINISHED
    job_id = submit_evaluation(workshop, trained, SLOW)
    running = workshop.start(job_id)
    wait_until(lambda: workshop.record(job_id).phase == Phase.MEASURING)
    workshop.bench.store.request(job_id, Action.CANCEL)
    assert running.result(timeout=10) == Outcome.FINISHED
    assert workshop.record(job_id).status == JobStatus.CANCELLED


def test_an_evaluation_whose_training_was_deleted_says_so(workshop: Workshop) -> None:
    trained = train_with(workshop, None, cycles=2)
    assert workshop.supervise(trained) == Outcome.FINISHED
    job_id = submit_evaluation(workshop, trained, QUICK)
    delete_job(workshop.bench.store, workshop.bench.artifacts, trained)
    assert workshop.supervise(job_id) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.error["category"]) == (JobStatus.FAILED, "data")
    assert record.error["message"] == f"snapshot 0 of {trained} is gone, since the job was deleted: evaluate another job"
