"""What an attempt keeps of a job in the artifact store, and what it does with an earlier attempt's leavings."""

import hashlib
from pathlib import Path

import pytest

from worker.artifacts import ArtifactDamaged, ArtifactStore
from worker.job_artifacts import JobArtifacts
from worker.protocol import CheckpointStaged, SnapshotStaged, StagedFile
from worker.records import checkpoints_prefix, lost_result_key, read_document, result_key, snapshot_prefix

JOB_ID = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def staged_file(directory: Path, name: str, content: bytes) -> StagedFile:
    (directory / name).write_bytes(content)
    return StagedFile(name=name, sha256=hashlib.sha256(content).hexdigest())


def snapshot(directory: Path, weights: bytes, cycle: int = 0) -> SnapshotStaged:
    metrics = {"loss": 0.5, "accuracy": 0.75}
    return SnapshotStaged(
        cycle=cycle,
        step=10,
        epoch=1.0,
        learning_rate=1e-3,
        next_learning_rate=0.1,
        is_minimum=True,
        validation=metrics,
        test=metrics,
        ensemble_members=cycle + 1,
        ensemble_validation=metrics,
        ensemble_test=metrics,
        weights=staged_file(directory, "weights", weights),
        outputs=staged_file(directory, "outputs", b"outputs"),
    )


def checkpoint(directory: Path, step: int) -> CheckpointStaged:
    return CheckpointStaged(step=step, file=staged_file(directory, f"checkpoint-{step}", b"at %d" % step))


@pytest.fixture
def attempt(artifacts: ArtifactStore) -> JobArtifacts:
    return JobArtifacts(artifacts, JOB_ID, 5)


def test_a_snapshot_gets_the_public_manifest(attempt: JobArtifacts, artifacts: ArtifactStore, tmp_path: Path) -> None:
    manifest = attempt.put_snapshot(snapshot(tmp_path, b"weights", cycle=2), tmp_path)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert (manifest["object"], manifest["id"], manifest["job_id"]) == ("snapshot", "snap_01ARZ3NDEKTSV4RRFFQ69G5FAV_2", JOB_ID)
    assert (manifest["sha256"], manifest["size_bytes"], manifest["format"]) == (sha256, 7, "safetensors")
    assert manifest["files"]["weights"] == {"key": f"jobs/{JOB_ID}/snapshots/2/weights.safetensors", "sha256": sha256, "size_bytes": 7}
    assert manifest["ensemble"]["members"] == 3
    assert artifacts.read(manifest["files"]["outputs"]["key"]) == b"outputs"
    assert attempt.snapshots() == {2: manifest}


def test_of_two_complete_snapshots_of_a_cycle_the_first_stays(attempt: JobArtifacts, artifacts: ArtifactStore, tmp_path: Path) -> None:
    first = attempt.put_snapshot(snapshot(tmp_path, b"first"), tmp_path)
    assert JobArtifacts(artifacts, JOB_ID, 6).put_snapshot(snapshot(tmp_path, b"other"), tmp_path) == first
    assert artifacts.read(first["files"]["weights"]["key"]) == b"first"


def test_weights_without_a_manifest_stay_beside_those_of_a_later_attempt(
    attempt: JobArtifacts, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    key = f"{snapshot_prefix(JOB_ID, 0)}/weights.safetensors"
    artifacts.create(key, b"of an interrupted attempt")
    manifest = attempt.put_snapshot(snapshot(tmp_path, b"mine"), tmp_path)
    assert artifacts.read(key) == b"of an interrupted attempt", "its manifest may still come"
    assert manifest["files"]["weights"]["key"] == f"{snapshot_prefix(JOB_ID, 0)}/weights-000000000000005.safetensors"
    assert artifacts.read(manifest["files"]["weights"]["key"]) == b"mine"
    assert attempt.snapshots() == {0: manifest}


def test_a_learning_rate_is_replaced_by_later_claims_alone(attempt: JobArtifacts, artifacts: ArtifactStore) -> None:
    assert attempt.put_learning_rate({"max_lr": 0.1})
    later = JobArtifacts(artifacts, JOB_ID, 6)
    assert later.put_learning_rate({"max_lr": 0.2})
    assert not attempt.put_learning_rate({"max_lr": 0.3})
    assert later.learning_rate() == {"max_lr": 0.2}


def test_a_failure_of_an_attempt_that_had_lost_the_job_gives_way(attempt: JobArtifacts, artifacts: ArtifactStore) -> None:
    failure = {"status": "failed", "record": {"epoch": 5}}
    success = {"status": "succeeded", "record": {"epoch": 6}}
    assert attempt.put_result(failure) == failure
    assert JobArtifacts(artifacts, JOB_ID, 6).put_result(success) == success
    assert read_document(artifacts, result_key(JOB_ID)) == success
    assert read_document(artifacts, lost_result_key(JOB_ID, 5)) == failure
    assert attempt.put_result(failure) == success, "the one that woke up late changes nothing"


def test_a_staged_file_that_changed_is_not_committed(attempt: JobArtifacts, tmp_path: Path) -> None:
    staged = snapshot(tmp_path, b"weights")
    (tmp_path / "weights").write_bytes(b"flipped")
    with pytest.raises(ArtifactDamaged, match="the trainer wrote"):
        attempt.put_snapshot(staged, tmp_path)
    assert attempt.snapshots() == {}


def test_two_checkpoints_are_kept_and_the_newest_is_found(attempt: JobArtifacts, artifacts: ArtifactStore, tmp_path: Path) -> None:
    assert attempt.checkpoints().paths == ()
    for step in (5, 20, 100):
        attempt.put_checkpoint(checkpoint(tmp_path, step), tmp_path)
    names = artifacts.list_names(checkpoints_prefix(JOB_ID))
    assert [int(name.partition("-")[0]) for name in names] == [20, 100]
    assert [path.read_bytes() for path in attempt.checkpoints().paths] == [b"at 100", b"at 20"]


def test_of_two_claims_checkpoints_of_one_step_the_later_claims_is_taken(artifacts: ArtifactStore, tmp_path: Path) -> None:
    for epoch in (9, 10):
        JobArtifacts(artifacts, JOB_ID, epoch).put_checkpoint(checkpoint(tmp_path, 7), tmp_path)
    newest = JobArtifacts(artifacts, JOB_ID, 11).checkpoints().paths[0]
    assert newest.parent.name.endswith("-000000000000010")


def test_a_checkpoint_without_a_manifest_does_not_exist(attempt: JobArtifacts, artifacts: ArtifactStore, tmp_path: Path) -> None:
    attempt.put_checkpoint(checkpoint(tmp_path, 5), tmp_path)
    artifacts.create(f"{checkpoints_prefix(JOB_ID)}/0000000009-000000000000005/checkpoint.safetensors", b"torn")
    assert [path.read_bytes() for path in attempt.checkpoints().paths] == [b"at 5"]


def test_the_first_result_holds(attempt: JobArtifacts) -> None:
    assert attempt.put_result({"status": "succeeded"}) == {"status": "succeeded"}
    assert attempt.put_result({"status": "cancelled"}) == {"status": "succeeded"}
