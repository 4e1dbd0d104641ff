"""Budgets of minutes in real trainer processes: every cycle whole, within the time, whatever the speed does.

The clock that counts here runs from the job's arrival in the warm trainer to its last word.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clr.builtins import read_builtin
from clr.checkpoints import load_checkpoint
from clr.config import TrainingConfig
from clr.datasets import Dataset, save_dataset
from tests.worker.test_trainer import job, of_type
from worker.protocol import (
    EXIT_DRAINED,
    EXIT_FAILED,
    CheckpointStaged,
    Failed,
    Finished,
    FirstStep,
    Message,
    Progress,
    RateFound,
    Replanned,
    SnapshotStaged,
    Started,
)
from worker.trainer_process import TrainerProcess

STALL_SECONDS = 2.0
"""More than the rest of the budget can vary by, so that the plan must change."""

LARGE = {"architecture": "mlp", "params": {"hidden": [4096, 4096, 4096]}}
"""Ten of its steps take longer than the smallest budget here."""

TOLERANCE_SECONDS = 1.0
"""For a machine that is busy with other tests: a stall within the last moments cannot be made up for."""


@pytest.fixture
def digits_path(tmp_path: Path) -> Path:
    path = tmp_path / "digits.safetensors"
    digits = read_builtin("digits")
    save_dataset(Dataset.from_arrays(digits.x, digits.y), path)
    return path


@contextmanager
def warm_trainer(directory: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess.spawn(directory, device="cpu")
    try:
        next(process.messages())  # ready
        yield process
    finally:
        process.discard()


def config(seconds: float, restarts: dict[str, Any] | None = None, **changes: Any) -> TrainingConfig:
    document: dict[str, Any] = {
        "model": {"architecture": "mlp", "params": {"hidden": [64], "dropout": 0.1}},
        "schedule": {"type": "warm_restarts", "cycles": 3} | (restarts or {}),
        "budget": {"minutes": seconds / 60},
        "batch_size": 32,
    }
    return TrainingConfig.model_validate(document | changes)


def run(trainer: TrainerProcess, config: TrainingConfig, path: Path, **changes: Any) -> tuple[list[Message], float]:
    """All messages of a job, and the seconds that it took."""
    began_at = time.monotonic()
    trainer.send(job(config, path, **changes))
    return list(trainer.messages()), time.monotonic() - began_at


def check_whole(messages: list[Message], *, cycles: int) -> None:
    """All cycles ended at their minima, where the last plan has them, and the history ends with the run."""
    snapshots, changes, progress = of_type(messages, SnapshotStaged), of_type(messages, Replanned), of_type(messages, Progress)
    assert [(each.cycle, each.is_minimum) for each in snapshots] == [(cycle, True) for cycle in range(cycles)]
    assert [each.step for each in snapshots] == list(changes[-1].cycle_ends)
    assert (progress[-1].step, progress[-1].steps, progress[-1].cycles) == (changes[-1].steps, changes[-1].steps, cycles)
    assert messages[-1] == Finished(stop_reason=None)


def test_a_budget_of_seconds_is_used_and_kept(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        messages, seconds = run(trainer, config(5.0), digits_path)
        assert trainer.wait() == 0
    check_whole(messages, cycles=3)
    assert 3.5 < seconds <= 5.0 + TOLERANCE_SECONDS
    first, *_ = of_type(messages, Replanned)
    assert first.subject == "length"
    assert "more steps fit into the" in first.reason
    assert first.evidence["seconds_per_step"] > 0
    before, *_ = of_type(messages, Progress)
    assert (before.steps, before.epochs, before.eta_seconds) == (None, None, None)
    assert before.learning_rate == pytest.approx(0.1)


def test_a_single_annealing_ends_at_its_minimum_in_time(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        messages, seconds = run(trainer, config(4.0, schedule={"type": "cosine"}), digits_path)
    check_whole(messages, cycles=1)
    assert seconds <= 4.0 + TOLERANCE_SECONDS
    (snapshot,) = of_type(messages, SnapshotStaged)
    assert snapshot.learning_rate < 0.0245 * 0.1  # sin²(π/20), if the very last estimate still shortened it


def test_automatic_cycles_are_decided_within_the_budget(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        messages, seconds = run(trainer, config(6.0, {"cycles": "auto", "max_lr": 0.2}), digits_path)
    changes = of_type(messages, Replanned)
    check_whole(messages, cycles=changes[-1].cycles)
    assert seconds <= 6.0 + TOLERANCE_SECONDS
    (decided,) = [change for change in changes if change.subject == "cycles"]
    assert decided.cycles == changes[-1].cycles
    assert of_type(messages, SnapshotStaged)[-1].ensemble_reason


def test_a_trainer_that_stood_still_plans_anew_and_ends_whole_in_time(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        began_at = time.monotonic()
        trainer.send(job(config(6.0), digits_path))
        messages: list[Message] = []
        is_stopped = False
        for message in trainer.messages():
            messages.append(message)
            if isinstance(message, Progress) and message.cycle == 1 and not is_stopped:
                is_stopped = True
                os.kill(trainer.pid, signal.SIGSTOP)
                time.sleep(STALL_SECONDS)
                os.kill(trainer.pid, signal.SIGCONT)
        seconds = time.monotonic() - began_at
    check_whole(messages, cycles=3)
    assert seconds <= 6.0 + TOLERANCE_SECONDS
    lost = [
        earlier.evidence["seconds_left"] - later.evidence["seconds_left"] - (later.step - earlier.step) * later.evidence["seconds_per_step"]
        for earlier, later in pairwise(of_type(messages, Replanned))
    ]
    assert max(lost) > 0.75 * STALL_SECONDS  # the plan after the stall has so much less time than its steps explain


@pytest.mark.slow
def test_a_drained_run_goes_on_with_the_time_that_is_left(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        first: list[Message] = []
        began_at = time.monotonic()
        trainer.send(job(config(6.0), digits_path))
        for message in trainer.messages():
            first.append(message)
            if isinstance(message, SnapshotStaged):
                trainer.drain()
        before = time.monotonic() - began_at
        assert trainer.wait() == EXIT_DRAINED
        checkpoint_path = trainer.directory / of_type(first, CheckpointStaged)[-1].file.name
        assert load_checkpoint(checkpoint_path).caller_state["used_seconds"] == pytest.approx(before, abs=0.5)
        with warm_trainer(tmp_path) as resumed:
            second, after = run(resumed, config(6.0), digits_path, checkpoint_path=str(checkpoint_path))
            assert resumed.wait() == 0
    (started,) = of_type(second, Started)
    assert [change["reason"] for change in started.plan] == [change.reason for change in of_type(first, Replanned)][: len(started.plan)]
    assert started.plan
    snapshots = of_type([*first, *second], SnapshotStaged)
    assert [(each.cycle, each.is_minimum) for each in snapshots] == [(0, True), (1, True), (2, True)]
    assert 4.2 < before + after <= 6.0 + TOLERANCE_SECONDS


@pytest.mark.slow
def test_the_search_for_a_rate_is_part_of_the_budget(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        messages, seconds = run(trainer, config(12.0, {"max_lr": "auto", "cycles": 2}), digits_path)
    (found,) = of_type(messages, RateFound)
    starts = of_type(messages, FirstStep)
    assert [start.phase for start in starts] == ["finding_learning_rate"]
    fractions = [progress.phase_fraction for progress in of_type(messages, Progress) if progress.phase_fraction is not None]
    assert fractions == sorted(fractions)
    assert found.config["schedule"]["max_lr"] == found.max_lr
    check_whole(messages, cycles=2)
    assert seconds <= 12.0 + TOLERANCE_SECONDS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (config(0.6, model=LARGE), "the budget of 0.01 minutes is too small for one cycle"),
        (config(0.6, {"max_lr": "auto"}, model=LARGE), "the range test for max_lr alone needs more than the budget of 0.01 minutes"),
    ],
)
def test_a_budget_that_is_too_small_is_the_users_to_raise(given: TrainingConfig, message: str, tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        messages, _ = run(trainer, given, digits_path)
        assert trainer.wait() == EXIT_FAILED
    failed = messages[-1]
    assert isinstance(failed, Failed)
    assert failed.category == "user"
    assert failed.message.startswith(message)
    assert failed.suggestion.startswith("raise budget.minutes")
    assert of_type(messages, SnapshotStaged) == []


def test_a_search_that_begins_again_after_a_drain_has_the_rest_of_the_time(tmp_path: Path, digits_path: Path) -> None:
    """A drained search leaves no checkpoint that would know what it has used."""
    with warm_trainer(tmp_path) as trainer:
        trainer.send(job(config(600.0, {"max_lr": "auto"}), digits_path, seconds_drained=600.0))
        messages = list(trainer.messages())
    assert isinstance(messages[-1], Failed)
    assert messages[-1].message.startswith("the range test for max_lr alone needs more than the budget of 10 minutes")


@pytest.mark.slow
def test_a_cycle_ends_where_it_did_when_the_trainer_is_killed_after_its_snapshot(tmp_path: Path, digits_path: Path) -> None:
    with warm_trainer(tmp_path) as trainer:
        first: list[Message] = []
        trainer.send(job(config(6.0), digits_path))
        for message in trainer.messages():
            first.append(message)
            if isinstance(message, SnapshotStaged):
                trainer.kill()
                break
        (snapshot,) = of_type(first, SnapshotStaged)
        checkpoint = of_type(first, CheckpointStaged)[-1]
        assert checkpoint.step == snapshot.step  # told before the snapshot
        with warm_trainer(tmp_path) as resumed:
            second, _ = run(resumed, config(6.0), digits_path, checkpoint_path=str(trainer.directory / checkpoint.file.name))
    check_whole(second, cycles=3)
    assert of_type(second, SnapshotStaged)[0] == snapshot
