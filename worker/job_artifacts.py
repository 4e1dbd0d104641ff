"""One job's objects in the artifact store: what a supervisor reads before a run and what it commits during it.

Blobs come first and the manifest last: without its manifest nothing exists. No object is overwritten, so everything here can be
repeated after an interruption.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import records
from worker.amendments import Amendment, file_amendments
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.dataset_store import dataset_path, get_dataset
from worker.failpoints import failpoint
from worker.ids import snapshot_id_of
from worker.job_inputs import JobInputs, job_inputs
from worker.job_specs import JobSpec
from worker.job_store import JobStore
from worker.jobs import now_rfc3339
from worker.protocol import CheckpointStaged, SnapshotStaged, StagedFile
from worker.quarantine import set_aside
from worker.stored_results import move_earlier_result, move_lost_failure
from worker.stored_specs import stored_spec

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""The latest one, and the one before it in case the latest is damaged."""


class StagedFileDamaged(ArtifactDamaged):
    """What the trainer wrote is not what it says: this machine's disk or memory is at fault."""


@dataclass(frozen=True)
class Checkpoints:
    """What a job can resume from.

    Attributes:
        paths: Verified local files, the newest first.
        passed_over: Why newer or others cannot be used.
        seconds_run: How long the job had run at the newest of all.
    """

    paths: tuple[Path, ...]
    passed_over: tuple[str, ...]
    seconds_run: float


class JobArtifacts:
    """The objects of one job, as the holder of one epoch reads and writes them."""

    def __init__(self, artifacts: ArtifactStore, job_id: str, epoch: int) -> None:
        self._artifacts = artifacts
        self._job_id = job_id
        self._epoch = epoch

    def spec(self) -> JobSpec:
        """The job as it was accepted."""
        return stored_spec(self._artifacts, self._job_id)

    def file_amendments(self, store: JobStore) -> list[Amendment]:
        """Stores what was changed about the job since, and returns it."""
        return file_amendments(store, self._artifacts, self._job_id)

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

    def checkpoints(self, *, num_snapshots: int | None = None) -> Checkpoints:
        """The checkpoints that are intact, as verified local files, the newest first.

        Args:
            num_snapshots: Snapshots that the job has from cycle 0 on without a gap. A checkpoint that was taken after more of them is
                passed over: a run that resumed from it would not take again what was lost. None: all will do.
        """
        paths: list[Path] = []
        passed_over: list[str] = []
        seconds_run = 0.0
        for folder in reversed(self._checkpoints()):
            try:
                manifest = records.read_document(self._artifacts, f"{folder}/{records.MANIFEST}")
                if manifest is None:
                    continue
                seconds_run = max(seconds_run, manifest.get("seconds_run", 0.0))
                taken = manifest.get("snapshots", 0)
                if num_snapshots is not None and taken > num_snapshots:
                    raise ArtifactMissing(f"it was taken after {taken} snapshots, of which {taken - num_snapshots} or more are lost")
                paths.append(records.file_path(self._artifacts, manifest["files"]["checkpoint"]))
            except (ArtifactMissing, ArtifactDamaged) as error:
                logger.warning("job %s: %s was passed over: %s", self._job_id, folder, error)
                passed_over.append(f"checkpoint {folder.rpartition('/')[2]}: {error}")
        return Checkpoints(tuple(paths), tuple(passed_over), seconds_run)

    def snapshots(self) -> dict[int, dict[str, Any]]:
        """The manifests of the stored snapshots by cycle, ascending."""
        names = self._artifacts.list_names(f"{records.job_prefix(self._job_id)}/snapshots")
        manifests = {cycle: self._snapshot(cycle) for cycle in sorted(map(int, names))}
        return {cycle: manifest for cycle, manifest in manifests.items() if manifest is not None}

    def lost_snapshots(self) -> list[str]:
        """Why snapshots that the job had are lost: a file of theirs is. Their manifests are set aside, so the run takes them again."""
        lost = []
        for cycle, manifest in self.snapshots().items():
            try:
                for entry in manifest["files"].values():
                    records.file_path(self._artifacts, entry)
            except (ArtifactMissing, ArtifactDamaged) as error:
                key = f"{records.snapshot_prefix(self._job_id, cycle)}/{records.MANIFEST}"
                set_aside(self._artifacts, key, f"a file that it names is lost: {error}")
                lost.append(f"snapshot {cycle} is taken again: {error}")
        return lost

    def check_dataset(self, dataset_id: str) -> None:
        """Returns if the dataset is still what was uploaded; cheap where its file has not changed since the last look.

        Raises:
            ArtifactMissing, ArtifactDamaged: It is not: what was trained since may be wrong.
        """
        self.dataset_path(dataset_id)

    def put_attempt(self, document: dict[str, Any]) -> None:
        """Stores what is known of this claim, which a rebuild takes up."""
        self._create_document(records.attempt_key(self._job_id, self._epoch), document)

    def put_checkpoint(self, staged: CheckpointStaged, directory: Path, *, num_snapshots: int = 0, seconds_run: float = 0.0) -> None:
        """Stores a checkpoint, then removes those that are no longer needed.

        Args:
            staged: The checkpoint in the trainer's directory.
            directory: That directory.
            num_snapshots: Snapshots that the job has, from cycle 0 on without a gap.
            seconds_run: How long the job has run, in all its attempts.
        """
        folder = records.checkpoint_prefix(self._job_id, staged.step, self._epoch)
        entry = self._store(f"{folder}/checkpoint.safetensors", staged.file, directory)
        failpoint("checkpoint.blob_stored")
        self._create_document(
            f"{folder}/{records.MANIFEST}",
            {
                "step": staged.step,
                "created_at": now_rfc3339(),
                "files": {"checkpoint": entry},
                "snapshots": num_snapshots,
                "seconds_run": seconds_run,
            },
        )
        failpoint("checkpoint.manifest_stored")
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            self._artifacts.delete_prefix(old)
            failpoint("checkpoint.old_removed")

    def put_snapshot(self, staged: SnapshotStaged, directory: Path) -> dict[str, Any]:
        """Stores a snapshot and returns its manifest; of two attempts' snapshots of one cycle the first that is complete stays.

        Args:
            staged: The snapshot in the trainer's directory.
            directory: That directory.
        """
        existing = self._snapshot(staged.cycle)
        if existing is not None:
            return existing
        folder = records.snapshot_prefix(self._job_id, staged.cycle)
        files = {}
        for name, file in (("weights", staged.weights), ("outputs", staged.outputs)):
            try:
                files[name] = self._store(f"{folder}/{name}.safetensors", file, directory)
            except AlreadyExists:  # by an attempt on a device with other bits; it stays, since that one's manifest may still come
                files[name] = self._store(f"{folder}/{name}-{self._epoch:015d}.safetensors", file, directory)
            if name == "weights":
                failpoint("snapshot.weights_stored")
        failpoint("snapshot.blobs_stored")
        manifest = self._create_document(f"{folder}/{records.MANIFEST}", _snapshot_manifest(self._job_id, staged, files))
        failpoint("snapshot.manifest_stored")
        return manifest

    def learning_rate(self) -> dict[str, Any] | None:
        """What the job's own range test has found; None where there was none, it isn't over, or it was damaged: then it is repeated."""
        found = self._document(records.learning_rate_key(self._job_id))
        return None if found is None else records.without_claim(found)

    def put_learning_rate(self, document: dict[str, Any]) -> bool:
        """Stores what the job's own range test has found, in place of what an earlier attempt has left, on a device with other bits.

        Returns:
            False where what stands there is a later claim's.
        """
        key = records.learning_rate_key(self._job_id)
        document = document | {records.CLAIM: self._epoch}
        try:
            records.write_document(self._artifacts, key, document)
        except AlreadyExists:
            existing = self._document(key) or {}
            if existing.get(records.CLAIM, 0) > self._epoch:
                return False
            self._artifacts.delete(key)
            records.write_document(self._artifacts, key, document)
        return True

    def put_result(self, result: dict[str, Any]) -> dict[str, Any]:
        """Stores how the job ended and returns that.

        The first result stays, unless the job was extended since, or it is the failure of an attempt that lost the job before it was told.
        """
        failpoint("result.before")
        move_earlier_result(self._artifacts, self._job_id, extensions=result.get("extensions", 0))
        move_lost_failure(self._artifacts, self._job_id, epoch=self._epoch)
        stored = self._create_document(records.result_key(self._job_id), result)
        failpoint("result.stored")
        return stored

    def _checkpoints(self) -> list[str]:
        """The folders of the checkpoints by the epoch of the claim, then step: a later attempt may have begun anew."""
        prefix = records.checkpoints_prefix(self._job_id)
        names = sorted(self._artifacts.list_names(prefix), key=lambda name: name.partition("-")[::-2])
        return [f"{prefix}/{name}" for name in names]

    def _snapshot(self, cycle: int) -> dict[str, Any] | None:
        return self._document(f"{records.snapshot_prefix(self._job_id, cycle)}/{records.MANIFEST}")

    def _document(self, key: str) -> dict[str, Any] | None:
        """A document; None where there is none, or it was damaged: it is set aside now, and what it says is made again."""
        try:
            return records.read_document(self._artifacts, key)
        except ArtifactDamaged:
            return None

    def _store(self, key: str, file: StagedFile, directory: Path) -> dict[str, Any]:
        entry = records.store_file(self._artifacts, key, directory / file.name)
        if entry["sha256"] != file.sha256:
            raise StagedFileDamaged(f"{key} has sha256 {entry['sha256']}, but the trainer wrote {file.sha256}")
        return entry

    def _create_document(self, key: str, document: dict[str, Any]) -> dict[str, Any]:
        """Stores a document, or returns the one that stands there already."""
        try:
            records.write_document(self._artifacts, key, document)
        except AlreadyExists:
            existing = self._document(key)
            return existing if existing is not None else self._create_document(key, document)
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
