"""Trainers that say nothing, and jobs that run for too long."""

import os
import signal
from typing import Any

import pytest

from tests.worker.training_jobs import tiny_config, tiny_range_test, wait_until
from tests.worker.workshops import Workshop
from worker.jobs import Action, JobStatus, Phase
from worker.protocol import TrainerJob
from worker.records import read_document, spec_key, write_document
from worker.stored_specs import stored_spec
from worker.supervisor import Outcome
from worker.trainer_process import TrainerProcess
from worker.watchdog import Watchdog

ENDLESS = tiny_config(cycles=2, epochs_per_cycle=50_000)


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_time_spent_listening_counts_as_silence() -> None:
    clock = Clock()
    watchdog = Watchdog(3.0, clock=clock)
    watchdog.note(has_spoken=True)
    for seconds in (0.5, 1000.0, 0.5):  # in the second turn the machine slept: that counts for a second
        clock.now += seconds
        watchdog.note(has_spoken=False)
        assert watchdog.finding is None
    clock.now += 1.0
    watchdog.note(has_spoken=False)
    assert watchdog.finding == "the trainer said nothing for 3 s (SNAPCYCLE_STALL_SECONDS) and was killed"
    watchdog.note(has_spoken=True)
    assert watchdog.finding is None


def test_a_trainer_may_take_its_time_to_start() -> None:
    clock = Clock()
    watchdog = Watchdog(3.0, clock=clock)
    for _ in range(299):
        clock.now += 1.0
        watchdog.note(has_spoken=False)
    assert watchdog.finding is None
    clock.now += 1.0
    watchdog.note(has_spoken=False)
    assert watchdog.finding is not None


def test_a_stopped_trainer_is_killed_and_counts_as_a_crash(workshop: Workshop) -> None:
    job_id = workshop.submit(ENDLESS)
    run = workshop.start(job_id, stall_seconds=2.0)
    trainer = workshop.wait_for_training(job_id)
    os.kill(trainer.pid, signal.SIGSTOP)
    assert run.result(timeout=30) == Outcome.REQUEUED
    record = workshop.record(job_id)
    assert (record.status, record.crashes) == (JobStatus.QUEUED, 1)
    assert record.transitions[-1]["reason"] == "the trainer said nothing for 2 s (SNAPCYCLE_STALL_SECONDS) and was killed"


def limit(workshop: Workshop, job_id: str, seconds: float) -> None:
    """Gives a submitted job a longest running time."""
    artifacts = workshop.bench.artifacts
    spec = stored_spec(artifacts, job_id)
    artifacts.delete(spec_key(job_id))
    write_document(artifacts, spec_key(job_id), spec.model_copy(update={"max_seconds": seconds}).model_dump(mode="json"))


def test_running_time_counts_across_attempts_and_snapshots_stay(workshop: Workshop) -> None:
    job_id = workshop.submit(tiny_config(cycles=1000, epochs_per_cycle=5))
    run = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 1)
    workshop.is_draining = True
    assert run.result(timeout=30) == Outcome.RELEASED
    before = workshop.bench.store.seconds_run(job_id)
    assert before > 0
    allowed = before + 3
    limit(workshop, job_id, allowed)
    workshop.is_draining = False
    assert workshop.start(job_id).result(timeout=60) == Outcome.FINISHED
    record = workshop.record(job_id)
    assert (record.status, record.error["category"]) == (JobStatus.FAILED, "time_limit")
    assert record.error["message"].endswith(f"and {allowed:g} s were allowed")
    assert "max_seconds" in record.error["suggestion"]
    assert record.snapshot_count >= 1
    assert workshop.bench.store.seconds_run(job_id) > allowed


def test_the_next_attempt_is_told_how_long_the_drained_ones_ran(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[TrainerJob] = []
    send = TrainerProcess.send

    def recorded(self: TrainerProcess, message: Any) -> None:
        sent.extend([message] if isinstance(message, TrainerJob) else [])
        send(self, message)

    monkeypatch.setattr(TrainerProcess, "send", recorded)
    job_id = workshop.submit(tiny_range_test(num_rates=10_000, repeats=20))  # an interrupted one has no checkpoint
    run = workshop.start(job_id)
    wait_until(lambda: workshop.record(job_id).phase == Phase.MEASURING)
    workshop.is_draining = True
    assert run.result(timeout=30) == Outcome.RELEASED
    drained = workshop.bench.store.seconds_run(job_id)
    workshop.is_draining = False
    run = workshop.start(job_id)
    wait_until(lambda: len(sent) == 2 and workshop.record(job_id).phase == Phase.MEASURING)
    next(trainer for trainer in workshop.spawned if trainer.is_alive()).kill()  # the others are spares
    wait_until(lambda: workshop.record(job_id).crashes == 1)
    lost = workshop.bench.store.seconds_run(job_id)
    run.result(timeout=30)
    attempt = workshop.start(job_id)
    wait_until(lambda: len(sent) == 3)
    workshop.bench.store.request(job_id, Action.CANCEL)
    attempt.result(timeout=30)
    assert [each.seconds_drained for each in sent] == [0.0, pytest.approx(drained, abs=0.01), pytest.approx(drained, abs=0.01)]
    assert lost > drained > 0
    artifacts = workshop.bench.artifacts
    claims = [read_document(artifacts, key) or {} for key in sorted(artifacts.list_keys(f"jobs/{job_id}/attempts"))]
    assert [each["seconds_run"] for each in claims[:2]] == [0.0, drained], "a rebuilt database knows it from there"
