"""What a trainer process can reach and take: no secrets, bounded memory and files, no new privileges."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clr.datasets import save_dataset
from tests.worker.training_jobs import tiny_config, tiny_dataset, tiny_spec, wait_until
from worker.protocol import EXIT_FAILED, Failed, Finished, Message, Ready, TrainerJob
from worker.sandbox import MAX_OPEN_FILES, Bounds, kernel_kills, machine_memory_bytes
from worker.trainer_process import ScratchDirectory, TrainerProcess

MIB = 2**20
WIDE = {"architecture": "mlp", "params": {"hidden": [8192, 8192]}}
"""A network whose weights, gradients and momentum take 800 MB."""


@pytest.fixture
def trainers(tmp_path: Path) -> Iterator[list[TrainerProcess]]:
    started: list[TrainerProcess] = []
    yield started
    for trainer in started:
        trainer.discard()


@pytest.fixture
def dataset_path(tmp_path: Path) -> Path:
    path = tmp_path / "dataset.safetensors"
    save_dataset(tiny_dataset(), path)
    return path


def bounds(*, memory_bytes: int = 512 * MIB, file_bytes: int = 64 * MIB, user_id: int | None = None) -> Bounds:
    return Bounds(memory_bytes=memory_bytes, file_bytes=file_bytes, user_id=user_id)


def run(trainer: TrainerProcess, dataset_path: Path, **changes: Any) -> list[Message]:
    spec = tiny_spec(tiny_config(**changes))
    trainer.send(TrainerJob(spec=spec, dataset_path=str(dataset_path), checkpoint_path=None, checkpoint_seconds=3600))
    return list(trainer.messages())


def proc(pid: int, name: str) -> dict[str, list[str]]:
    """The lines of a /proc file by their first words."""
    lines = (Path("/proc") / str(pid) / name).read_text().splitlines()
    return {line.split("  ")[0].partition(":")[0]: line.replace(":", " ").split() for line in lines}


def test_a_running_trainer_has_no_secret_in_its_environment(
    trainers: list[TrainerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("SNAPCYCLE_REDIS_URL", "SNAPCYCLE_KEY_PEPPER", "SNAPCYCLE_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "a-secret-value")
    trainers.append(TrainerProcess.spawn(tmp_path, device="cpu", bounds=bounds()))
    assert next(trainers[0].messages()) == Ready()
    environment = (Path("/proc") / str(trainers[0].pid) / "environ").read_bytes()
    assert b"PYTHONHASHSEED=0" in environment, "else it was not the trainer's that was read"
    assert b"a-secret-value" not in environment
    assert not any(name.encode() in environment for name in secrets)
    assert b"SNAPCYCLE_" not in environment


def test_a_warm_trainer_is_confined(trainers: list[TrainerProcess], tmp_path: Path) -> None:
    trainers.append(TrainerProcess.spawn(tmp_path, device="cpu", bounds=bounds()))
    trainer = trainers[0]
    assert next(trainer.messages()) == Ready()
    limits, status = proc(trainer.pid, "limits"), proc(trainer.pid, "status")
    assert limits["Max core file size"][4:6] == ["0", "0"]
    assert limits["Max open files"][3:5] == [str(MAX_OPEN_FILES)] * 2
    assert limits["Max file size"][3:5] == [str(64 * MIB)] * 2
    assert status["NoNewPrivs"][1] == "1"
    assert status["Umask"][1] == "0077"
    soft, hard = (int(value) for value in limits["Max address space"][3:5])
    assert soft == hard
    size_when_warm = soft - 512 * MIB
    assert abs(size_when_warm - 1024 * int(status["VmSize"][1])) < 64 * MIB, "the bound counts from the warm process"
    assert (Path("/proc") / str(trainer.pid) / "cwd").readlink() == trainer.directory


def test_memory_beyond_the_bound_ends_the_job_in_words(trainers: list[TrainerProcess], tmp_path: Path, dataset_path: Path) -> None:
    trainers.append(TrainerProcess.spawn(tmp_path, device="cpu", bounds=bounds(memory_bytes=256 * MIB)))
    messages = run(trainers[0], dataset_path, model=WIDE)
    assert trainers[0].wait() == EXIT_FAILED
    failed = messages[-1]
    assert isinstance(failed, Failed), failed
    assert failed.category == "out_of_memory"
    assert failed.suggestion == "lower batch_size, or take a smaller network"


def test_a_file_beyond_the_bound_ends_the_job_in_words(trainers: list[TrainerProcess], tmp_path: Path, dataset_path: Path) -> None:
    trainers.append(TrainerProcess.spawn(tmp_path, device="cpu", bounds=bounds(file_bytes=20_000)))
    messages = run(trainers[0], dataset_path, model={"architecture": "mlp", "params": {"hidden": [256, 64]}})
    failed = messages[-1]
    assert isinstance(failed, Failed), failed
    assert failed.category == "disk_full"
    assert "SNAPCYCLE_TRAINER_FILE_BYTES" in failed.suggestion
    assert list(trainers[0].directory.glob("*.part")) == []


def test_a_spare_is_untouched_by_another_ones_end(trainers: list[TrainerProcess], tmp_path: Path, dataset_path: Path) -> None:
    trainers += [TrainerProcess.spawn(tmp_path, device="cpu", bounds=bounds(memory_bytes=256 * MIB)) for _ in range(2)]
    assert isinstance(run(trainers[0], dataset_path, model=WIDE)[-1], Failed)
    assert run(trainers[1], dataset_path)[-1] == Finished(stop_reason=None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_trainer_can_be_another_user(trainers: list[TrainerProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Path(tempfile.mkdtemp(prefix="snapcycle-user-"))  # pytest's own directories are closed to others
    try:
        parent.chmod(0o755)
        # In place of Python, which may lie where only root can read it.
        program = parent / "program"
        program.write_text("#!/bin/sh\necho made > staged\nexec sleep 60\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        scratch = ScratchDirectory(parent / "scratch", trainers_have_own_user=True)
        trainer = TrainerProcess.spawn(scratch.path, device="cpu", bounds=bounds(user_id=12_345))
        trainers.append(trainer)
        staged = trainer.directory / "staged"
        wait_until(staged.exists)
        assert (staged.stat().st_uid, staged.stat().st_gid) == (12_345, 12_345)
        status = proc(trainer.pid, "status")
        assert status["Uid"][1:5] == status["Gid"][1:5] == ["12345"] * 4
        assert status["Groups"][1:] == []
        trainer.discard()
        scratch.remove()
    finally:
        shutil.rmtree(parent)


def test_the_machines_memory_is_known() -> None:
    assert 2**28 < machine_memory_bytes() < 2**50
    assert Bounds.of_machine().memory_bytes == machine_memory_bytes()


def test_kills_by_the_kernel_are_counted() -> None:
    assert kernel_kills() >= 0
