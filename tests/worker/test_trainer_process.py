"""Trainer processes seen from the worker, with ``sleep`` and ``cat`` in place of a trainer where torch isn't the point."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker.training_jobs import process_is_gone, wait_until
from worker.protocol import StopRequest
from worker.trainer_process import ScratchDirectory, TrainerProcess, WarmTrainers, memory_environment, trainer_environment


def start(directory: Path, *command: str) -> TrainerProcess:
    directory.mkdir(parents=True)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory, process_group=0)
    return TrainerProcess(process, directory)


class Spawner:
    """Counts what it starts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[TrainerProcess] = []

    def __call__(self) -> TrainerProcess:
        self.started.append(start(self.directory / str(len(self.started)), "sleep", "60"))
        return self.started[-1]


@pytest.fixture
def spawner(tmp_path: Path) -> Spawner:
    return Spawner(tmp_path)


def test_trainer_learns_nothing_of_its_workers_secrets() -> None:
    environ = {
        "PATH": "/bin",
        "SNAPCYCLE_REDIS_URL": "redis://:secret@host",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/root",
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": "3",
    }
    environment = trainer_environment(Path("/scratch"), environ)
    assert "secret" not in str(environment)
    assert environment["HOME"] == environment["TMPDIR"] == "/scratch"
    assert (environment["PATH"], environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("/bin", "1", "3")
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # else number 1 would be another device than the worker's
    assert (environment["CUBLAS_WORKSPACE_CONFIG"], environment["GOMP_SPINCOUNT"]) == (":4096:8", "1000")


def test_trainers_get_a_fixed_number_of_threads() -> None:
    assert int(trainer_environment(Path("/scratch"), {})["OMP_NUM_THREADS"]) >= 1


@pytest.mark.skipif(not memory_environment(), reason="a setting of glibc from 2.35 on")
def test_trainers_keep_what_they_free_for_the_next_step() -> None:
    program = """
import resource
faults = []
for _ in range(9):
    block = bytearray(64 << 20)
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""
    own, plain = (
        int(subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True).stdout)
        for environment in (trainer_environment(Path("/scratch"), {}), {})
    )
    assert own * 10 < plain


def test_a_worker_s_own_setting_of_its_c_library_goes_before() -> None:
    assert (
        trainer_environment(Path("/scratch"), {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})["GLIBC_TUNABLES"]
        == "glibc.malloc.arena_max=1"
    )


@pytest.mark.parametrize(
    ("version", "is_set"),
    [("glibc 2.34", False), ("glibc 2.35", True), ("glibc 3.0", True), ("musl 1.2", False), (None, False), ("glibc 2.x", False)],
)
def test_only_a_c_library_that_takes_the_whole_setting_gets_it(version: str | None, is_set: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.confstr", lambda _: version)
    assert ("GLIBC_TUNABLES" in memory_environment()) is is_set


def test_discarding_kills_the_whole_process_group_and_removes_the_directory(tmp_path: Path) -> None:
    trainer = start(tmp_path / "trainer", "sh", "-c", "sleep 60 & echo $!; wait")
    assert trainer._process.stdout is not None
    grandchild = int(trainer._process.stdout.readline())
    trainer.discard()
    assert trainer.wait() == -9
    wait_until(lambda: process_is_gone(grandchild), seconds=5)
    assert not trainer.directory.exists()


def test_a_trainer_that_is_gone_hears_nothing(tmp_path: Path) -> None:
    trainer = start(tmp_path / "trainer", "true")
    trainer.wait()
    trainer.send(StopRequest(when="now"))
    assert list(trainer.messages()) == []
    trainer.drain()
    trainer.discard()
    assert trainer.wait() == 0


def test_the_spare_is_handed_over_and_replaced_only_when_asked(spawner: Spawner) -> None:
    trainers = WarmTrainers(spawner)
    trainers.warm()
    trainers.warm()
    assert len(spawner.started) == 1
    taken = trainers.take()
    assert taken is spawner.started[0]
    assert len(spawner.started) == 1
    trainers.warm()
    assert len(spawner.started) == 2
    trainers.close()
    assert taken.is_alive()
    assert not spawner.started[1].is_alive()
    taken.discard()


def test_a_spare_that_died_is_replaced(spawner: Spawner) -> None:
    trainers = WarmTrainers(spawner)
    trainers.warm()
    spawner.started[0].kill()
    spawner.started[0].wait()
    trainers.warm()
    spawner.started[1].kill()
    spawner.started[1].wait()
    assert trainers.take() is spawner.started[2]
    assert not (spawner.directory / "0").exists()
    assert not (spawner.directory / "1").exists()
    trainers.close()
    spawner.started[2].discard()


def test_no_spare_is_started_after_the_end(spawner: Spawner) -> None:
    trainers = WarmTrainers(spawner)
    trainers.close()
    trainers.warm()
    assert spawner.started == []


def test_scratch_of_a_dead_worker_is_swept_and_that_of_a_living_one_is_kept(tmp_path: Path) -> None:
    living = ScratchDirectory(tmp_path)
    abandoned = tmp_path / "worker-of-a-dead-one"
    (abandoned / "trainer-0").mkdir(parents=True)
    starting = tmp_path / "new-worker-that-is-starting"
    starting.mkdir()
    long_ago = time.time() - 3600
    os.utime(living.path, (long_ago, long_ago))
    newcomer = ScratchDirectory(tmp_path)
    assert living.path.exists()
    assert starting.exists()
    assert not abandoned.exists()
    newcomer.remove()
    assert not newcomer.path.exists()
    living.remove()
