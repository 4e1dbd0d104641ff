"""The trainer process by itself: what it says, what it stages, and that an interruption changes no bit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clr.config import RangeTestConfig, TrainingConfig
from clr.datasets import save_dataset
from clr.snapshots import load_outputs, load_snapshot
from tests.worker.training_jobs import process_is_gone, tiny_config, tiny_dataset, tiny_spec, wait_until
from worker.protocol import (
    EXIT_DRAINED,
    EXIT_FAILED,
    CheckpointStaged,
    Failed,
    Finished,
    FirstStep,
    HistoryRows,
    Message,
    Progress,
    Ready,
    SnapshotStaged,
    Started,
    StopRequest,
    TrainerJob,
)
from worker.trainer_process import TrainerProcess


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess.spawn(tmp_path, device="cpu")
    yield process
    process.discard()


@pytest.fixture
def resumed(tmp_path: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess.spawn(tmp_path, device="cpu")
    yield process
    process.discard()


@pytest.fixture
def dataset_path(tmp_path: Path) -> Path:
    path = tmp_path / "dataset.safetensors"
    save_dataset(tiny_dataset(), path)
    return path


def job(config: TrainingConfig | RangeTestConfig, dataset_path: Path, **changes: Any) -> TrainerJob:
    document = {"spec": tiny_spec(config), "dataset_path": str(dataset_path), "checkpoint_path": None, "checkpoint_seconds": 3600.0}
    return TrainerJob.model_validate(document | changes)


def of_type(messages: list[Message], kind: type) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def test_a_run_is_told_from_ready_to_finished(trainer: TrainerProcess, dataset_path: Path) -> None:
    config = tiny_config(cycles=2, epochs_per_cycle=2)
    trainer.send(job(config, dataset_path))
    messages = list(trainer.messages())
    assert trainer.wait() == 0
    assert [type(message) for message in messages[:4]] == [Ready, Started, FirstStep, HistoryRows]
    assert messages[-1] == Finished(stop_reason=None)
    (started,) = of_type(messages, Started)
    assert (started.step, started.rows, started.differences) == (0, [], [])
    assert started.config == config.model_dump(mode="json") | {"precision": "fp32", "augmentation": "none"}

    rows = [row for message in of_type(messages, HistoryRows) for row in message.rows]
    progress = of_type(messages, Progress)
    num_steps = progress[-1].steps
    assert [row[0] for row in rows] == list(range(1, num_steps + 1))
    assert (progress[0].step, progress[-1].step, progress[-1].eta_seconds) == (1, num_steps, 0)

    snapshots, checkpoints = of_type(messages, SnapshotStaged), of_type(messages, CheckpointStaged)
    assert [(each.cycle, each.is_minimum, each.ensemble_members) for each in snapshots] == [(0, True, 1), (1, True, 2)]
    assert [each.step for each in checkpoints] == [each.step for each in snapshots] == [num_steps // 2, num_steps]
    assert messages.index(snapshots[1]) < messages.index(checkpoints[1])
    for staged in snapshots:
        snapshot = load_snapshot(trainer.directory / staged.weights.name)
        assert (snapshot.cycle, snapshot.step) == (staged.cycle, staged.step)
        assert snapshot.metrics == {"validation": staged.validation, "test": staged.test}
        assert len(load_outputs(trainer.directory / staged.outputs.name).test_targets) == 40


def test_a_drained_run_resumes_with_the_same_bits(trainer: TrainerProcess, resumed: TrainerProcess, dataset_path: Path) -> None:
    config = tiny_config(cycles=3, epochs_per_cycle=20)
    first: list[Message] = []
    trainer.send(job(config, dataset_path))
    for message in trainer.messages():
        if isinstance(message, SnapshotStaged) and message.cycle == 0:
            trainer.drain()
        first.append(message)
    assert trainer.wait() == EXIT_DRAINED
    assert isinstance(first[-1], CheckpointStaged)
    assert not of_type(first, Finished)

    checkpoint_path = trainer.directory / first[-1].file.name
    resumed.send(job(config, dataset_path, checkpoint_path=str(checkpoint_path)))
    second = list(resumed.messages())
    assert resumed.wait() == 0
    (started,) = of_type(second, Started)
    assert (started.step, started.differences) == (first[-1].step, [])
    rows = [row for message in of_type(first, HistoryRows) for row in message.rows]
    assert started.rows == rows

    undisturbed = TrainerProcess.spawn(trainer.directory.parent, device="cpu")
    undisturbed.send(job(config, dataset_path))
    whole = list(undisturbed.messages())
    undisturbed.discard()
    interrupted = [*of_type(first, SnapshotStaged), *of_type(second, SnapshotStaged)]
    assert [each.cycle for each in interrupted] == [0, 1, 2]
    assert interrupted == of_type(whole, SnapshotStaged)
    rows += [row for message in of_type(second, HistoryRows) for row in message.rows]
    assert rows == [row for message in of_type(whole, HistoryRows) for row in message.rows]


def test_checkpoints_come_at_the_asked_pace(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_config(cycles=1, epochs_per_cycle=5), dataset_path, checkpoint_seconds=1e-6))
    messages = list(trainer.messages())
    steps = of_type(messages, Progress)[-1].steps
    assert [each.step for each in of_type(messages, CheckpointStaged)] == list(range(1, steps + 1))


def test_a_trainer_dies_with_its_workers_end_of_the_pipe(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_config(cycles=1, epochs_per_cycle=50_000), dataset_path))
    next(message for message in trainer.messages() if isinstance(message, FirstStep))
    assert trainer._process.stdin is not None
    trainer._process.stdin.close()
    wait_until(lambda: process_is_gone(trainer.pid), seconds=5)


def test_a_spare_trainer_ends_without_a_job(trainer: TrainerProcess) -> None:
    assert next(trainer.messages()) == Ready()
    assert trainer._process.stdin is not None
    trainer._process.stdin.close()
    assert trainer.wait() == 0


def test_stopping_in_the_first_cycle_keeps_the_weights_as_they_are(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_config(cycles=2, epochs_per_cycle=20_000), dataset_path))
    messages = []
    for message in trainer.messages():
        if isinstance(message, FirstStep):
            trainer.send(StopRequest(when="now"))
        messages.append(message)
    assert trainer.wait() == 0
    (snapshot,) = of_type(messages, SnapshotStaged)
    assert (snapshot.cycle, snapshot.is_minimum) == (0, False)
    assert messages[-1] == Finished(stop_reason="stopped")


def test_stopping_at_the_cycle_end_takes_its_minimum(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_config(cycles=50, epochs_per_cycle=20), dataset_path))
    messages = []
    for message in trainer.messages():
        if isinstance(message, SnapshotStaged) and message.cycle == 0:
            trainer.send(StopRequest(when="cycle_end"))
        messages.append(message)
    assert trainer.wait() == 0
    snapshots = of_type(messages, SnapshotStaged)
    assert 1 <= len(snapshots) < 50
    assert all(snapshot.is_minimum for snapshot in snapshots)
    assert messages[-1] == Finished(stop_reason="stopped")


def test_stopping_between_minima_adds_no_snapshot(trainer: TrainerProcess, dataset_path: Path) -> None:
    schedule = {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 2, "cycle_mult": 100, "max_lr": 0.05}
    trainer.send(job(tiny_config(schedule=schedule), dataset_path))
    messages = []
    for message in trainer.messages():
        if isinstance(message, SnapshotStaged):
            trainer.send(StopRequest(when="now"))
        messages.append(message)
    assert trainer.wait() == 0
    assert [snapshot.cycle for snapshot in of_type(messages, SnapshotStaged)] == [0]
    assert messages[-1] == Finished(stop_reason="stopped")


def test_a_diverging_run_fails_and_says_where(trainer: TrainerProcess, dataset_path: Path) -> None:
    schedule = {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 50, "max_lr": 1000.0}
    optimizer = {"type": "sgd", "weight_decay": 1.0}
    trainer.send(job(tiny_config(schedule=schedule, optimizer=optimizer), dataset_path))
    messages = list(trainer.messages())
    assert trainer.wait() == EXIT_FAILED
    failed = messages[-1]
    assert isinstance(failed, Failed)
    assert failed.category == "diverged"
    assert "at step " in failed.message
    assert "max_lr" in failed.suggestion


def test_a_network_that_cannot_take_the_data_is_the_users_to_change(trainer: TrainerProcess, dataset_path: Path) -> None:
    trainer.send(job(tiny_config(model={"architecture": "small_cnn"}), dataset_path))
    failed = list(trainer.messages())[-1]
    assert isinstance(failed, Failed)
    assert failed.category == "user"
    assert "mlp" in failed.message


def test_a_ctrl_c_in_the_workers_terminal_does_not_reach_the_trainer(trainer: TrainerProcess) -> None:
    assert next(trainer.messages()) == Ready()
    assert os.getpgid(trainer.pid) == trainer.pid != os.getpgid(0)
    assert trainer.is_alive()
    os.kill(trainer.pid, signal.SIGTERM)
    assert trainer.wait() == -signal.SIGTERM  # without a job there is nothing to keep
