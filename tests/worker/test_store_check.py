"""A whole artifact store is verified, and mended as far as it can be."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clr.datasets import save_dataset
from tests.worker.test_job_artifacts import checkpoint, snapshot
from tests.worker.training_jobs import tiny_dataset
from worker import quarantine, records
from worker.artifacts import ArtifactDamaged, ArtifactStore
from worker.dataset_store import put_dataset
from worker.job_artifacts import JobArtifacts
from worker.job_specs import JobSpec
from worker.records import read_document, spec_key, write_document
from worker.store_check import Trouble, check_store


@pytest.fixture
def job_id(artifacts: ArtifactStore, new_spec: Callable[[], JobSpec], tmp_path: Path) -> str:
    """A store with a dataset and a job that has a snapshot and a checkpoint."""
    spec = new_spec()
    path = tmp_path / "dataset.safetensors"
    save_dataset(tiny_dataset(), path)
    put_dataset(artifacts, spec.dataset_id, path, {"name": "tiny"})
    write_document(artifacts, spec_key(spec.id), spec.model_dump(mode="json"))
    attempt = JobArtifacts(artifacts, spec.id, 5)
    attempt.put_snapshot(snapshot(tmp_path, b"weights"), tmp_path)
    attempt.put_checkpoint(checkpoint(tmp_path, 8), tmp_path)
    return spec.id


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_sound_store_is_found_sound(artifacts: ArtifactStore, job_id: str) -> None:
    report = check_store(artifacts)
    assert (report.jobs, report.documents, report.files, report.findings) == (1, 4, 4, [])
    assert report.is_sound
    assert report.verified_bytes > 0


def test_whichever_file_is_damaged_or_lost_is_named(artifacts: ArtifactStore, job_id: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(files) == 8
    for path in files:
        content, key = path.read_bytes(), str(path.relative_to(root))
        flip(path)
        found = check_store(artifacts)
        assert {finding.key for finding in found.findings if finding.trouble.is_harm} >= {key}, key
        assert path.exists(), "without repair nothing is moved"
        path.write_bytes(content)
    for path in [path for path in files if path.name != "manifest.json"]:  # without its manifest nothing exists
        content = path.read_bytes()
        path.unlink()
        assert not check_store(artifacts).is_sound, path
        path.write_bytes(content)
    assert check_store(artifacts).is_sound


def test_what_is_damaged_goes_to_the_quarantine_with_a_note(artifacts: ArtifactStore, job_id: str, tmp_path: Path) -> None:
    key = f"{records.snapshot_prefix(job_id, 0)}/weights.safetensors"
    flip(tmp_path / "artifacts" / key)
    (found,) = check_store(artifacts, repair=True).findings
    assert (found.trouble, found.key, found.mended) == (Trouble.DAMAGED, key, "moved to the quarantine")
    assert not artifacts.exists(key)
    (note,) = quarantine.notes(artifacts)
    assert (note["key"], artifacts.exists(f"{note['folder']}/{key}")) == (key, True)
    assert note["reason"].startswith("found by doctor: it has sha256")


def test_left_overs_of_interrupted_work_are_removed_once_they_are_old(artifacts: ArtifactStore, job_id: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    orphan, draft = root / f"jobs/{job_id}/snapshots/7/weights.safetensors", root / f"jobs/{job_id}/spec.json#12"
    orphan.parent.mkdir(parents=True)
    for path in (orphan, draft):
        path.write_bytes(b"half")
    assert check_store(artifacts, repair=True).findings == []
    for path in (orphan, draft):
        os.utime(path, (1, 1))
    write_document(artifacts, records.deleted_key("job_01M84K9HDDAJZAD5F3E26JSCXC"), {})
    found = check_store(artifacts, repair=True)
    assert sorted(finding.trouble for finding in found.findings) == ["draft", "half_deleted", "orphan"]
    assert found.is_sound
    assert check_store(artifacts).findings == []
    assert not orphan.exists()


def test_a_damaged_document_is_set_aside_when_it_is_read(artifacts: ArtifactStore, job_id: str, tmp_path: Path) -> None:
    flip(tmp_path / "artifacts" / spec_key(job_id))
    with pytest.raises(ArtifactDamaged, match=r"spec\.json is damaged"):
        read_document(artifacts, spec_key(job_id))
    assert [note["key"] for note in quarantine.notes(artifacts)] == [spec_key(job_id)]
    (found,) = check_store(artifacts).findings
    assert (found.trouble, found.key) == (Trouble.LOST, spec_key(job_id))
