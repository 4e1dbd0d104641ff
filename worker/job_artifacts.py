"""One job's objects in the artifact store: what a supervisor reads before a run and what it commits during it.

Blobs come first and the manifest last: without its manifest nothing exists. No object is overwritten, so everything here can be
repeated after an interruption.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker import records
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.dataset_store import dataset_path, get_dataset
from worker.ids import snapshot_id_of
from worker.job_inputs import JobInputs, job_inputs
from worker.job_specs import JobSpec, read_spec
from worker.jobs import now_rfc3339
from worker.protocol import CheckpointStaged, SnapshotStaged, StagedFile

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""The latest one, and the one before it in case the latest is damaged."""


class JobArtifacts:
    """The objects of one job, as the holder of one epoch reads and writes them."""

    def __init__(self, artifacts: ArtifactStore, job_id: str, epoch: int) -> None:
        self._artifacts = artifacts
        self._job_id = job_id
        self._epoch = epoch

    def spec(self) -> JobSpec:
        """The job as it was accepted."""
        return read_spec(self._artifacts.read(records.spec_key(self._job_id)))

    def dataset_path(self, dataset_id: str) -> Path:
        """A verified local file with the job's data.

        Raises:
            ArtifactMissing: There is no such dataset.
            ArtifactDamaged: Its file is not what was uploaded.
        """
        manifest = get_dataset(self._artifacts, dataset_id)
        if manifest is None:
            raise ArtifactMissing(f"there is no dataset {dataset_id}: upload it again and submit a new job")
        return dataset_path(self._artifacts, manifest)

    def inputs(self, spec: JobSpec) -> JobInputs:
        """What the job needs of other jobs.

        Raises:
            ArtifactMissing, ArtifactDamaged: It cannot be had.
        """
        return job_inputs(self._artifacts, spec)

    def checkpoint_path(self) -> Path | None:
        """A verified local file with the newest checkpoint that is intact; None where there is none."""
        for folder in reversed(self._checkpoints()):
            try:
                manifest = records.read_document(self._artifacts, f"{folder}/{records.MANIFEST}")
                if manifest is not None:
                    return records.file_path(self._artifacts, manifest["files"]["checkpoint"])
            except (ArtifactMissing, ArtifactDamaged) as error:
                logger.warning("job %s: %s was passed over: %s", self._job_id, folder, error)
        return None

    def snapshots(self) -> dict[int, dict[str, Any]]:
        """The manifests of the stored snapshots by cycle, ascending."""
        names = self._artifacts.list_names(f"{records.job_prefix(self._job_id)}/snapshots")
        manifests = {cycle: self._snapshot(cycle) for cycle in sorted(map(int, names))}
        return {cycle: manifest for cycle, manifest in manifests.items() if manifest is not None}

    def put_checkpoint(self, staged: CheckpointStaged, directory: Path) -> None:
        """Stores a checkpoint, then removes those that are no longer needed."""
        folder = records.checkpoint_prefix(self._job_id, staged.step, self._epoch)
        entry = self._store(f"{folder}/checkpoint.safetensors", staged.file, directory)
        self._create_document(
            f"{folder}/{records.MANIFEST}", {"step": staged.step, "created_at": now_rfc3339(), "files": {"checkpoint": entry}}
        )
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            self._artifacts.delete_prefix(old)

    def put_snapshot(self, staged: SnapshotStaged, directory: Path, *, check_ours: Callable[[], None]) -> dict[str, Any]:
        """Stores a snapshot and returns its manifest; of two attempts' snapshots of one cycle the first that is complete stays.

        Args:
            staged: The snapshot in the trainer's directory.
            directory: That directory.
            check_ours: Raises where the job is no longer ours; asked before what an earlier attempt left is replaced.
        """
        existing = self._snapshot(staged.cycle)
        if existing is not None:
            return existing
        folder = records.snapshot_prefix(self._job_id, staged.cycle)
        files = {}
        for name, file in (("weights", staged.weights), ("outputs", staged.outputs)):
            key = f"{folder}/{name}.safetensors"
            try:
                files[name] = self._store(key, file, directory)
            except AlreadyExists:  # without a manifest it is nobody's: an attempt on a device with other bits was interrupted here
                check_ours()
                self._artifacts.delete(key)
                files[name] = self._store(key, file, directory)
        return self._create_document(f"{folder}/{records.MANIFEST}", _snapshot_manifest(self._job_id, staged, files))

    def learning_rate(self) -> dict[str, Any] | None:
        """What the job's own range test has found; None where there was none, or it isn't over."""
        return records.read_document(self._artifacts, records.learning_rate_key(self._job_id))

    def put_learning_rate(self, document: dict[str, Any]) -> None:
        """Stores what the job's own range test has found.

        Call it while the job is ours: what an earlier attempt has left there meanwhile, on a device with other bits, is replaced.
        """
        key = records.learning_rate_key(self._job_id)
        try:
            records.write_document(self._artifacts, key, document)
        except AlreadyExists:
            self._artifacts.delete(key)
            records.write_document(self._artifacts, key, document)

    def put_result(self, result: dict[str, Any]) -> dict[str, Any]:
        """Stores how the job ended and returns that; the first result stays."""
        return self._create_document(records.result_key(self._job_id), result)

    def _checkpoints(self) -> list[str]:
        """The folders of the checkpoints by step, then epoch."""
        prefix = records.checkpoints_prefix(self._job_id)
        return [f"{prefix}/{name}" for name in self._artifacts.list_names(prefix)]

    def _snapshot(self, cycle: int) -> dict[str, Any] | None:
        return records.read_document(self._artifacts, f"{records.snapshot_prefix(self._job_id, cycle)}/{records.MANIFEST}")

    def _store(self, key: str, file: StagedFile, directory: Path) -> dict[str, Any]:
        entry = records.store_file(self._artifacts, key, directory / file.name)
        if entry["sha256"] != file.sha256:
            raise ArtifactDamaged(f"{key} has sha256 {entry['sha256']}, but the trainer wrote {file.sha256}")
        return entry

    def _create_document(self, key: str, document: dict[str, Any]) -> dict[str, Any]:
        """Stores a document, or returns the one that stands there already."""
        try:
            records.write_document(self._artifacts, key, document)
        except AlreadyExists:
            existing = records.read_document(self._artifacts, key)
            assert existing is not None, f"{key} was there and is gone: objects are never removed under a running job"
            return existing
        return document


def _snapshot_manifest(job_id: str, staged: SnapshotStaged, files: dict[str, Any]) -> dict[str, Any]:
    """The public snapshot object with its files and the ensemble that it completes."""
    return {
        "object": "snapshot",
        "id": snapshot_id_of(job_id, staged.cycle),
        "job_id": job_id,
        "cycle": staged.cycle,
        "step": staged.step,
        "epoch": staged.epoch,
        "learning_rate": staged.learning_rate,
        "next_learning_rate": staged.next_learning_rate,
        "is_minimum": staged.is_minimum,
        "metrics": {"validation": staged.validation, "test": staged.test},
        "ensemble": {
            "members": staged.ensemble_members,
            "reason": staged.ensemble_reason,
            "version": staged.cycle + 1,
            "validation": staged.ensemble_validation,
            "test": staged.ensemble_test,
        },
        "format": "safetensors",
        "sha256": files["weights"]["sha256"],
        "size_bytes": files["weights"]["size_bytes"],
        "created_at": now_rfc3339(),
        "files": files,
    }
