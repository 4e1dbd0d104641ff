"""The stored snapshots of a train job as local, verified files, by the names that trainers know them by. No torch here."""

from collections.abc import Sequence
from pathlib import Path

from worker import records
from worker.artifacts import ArtifactMissing, ArtifactStore

WEIGHTS, OUTPUTS = "weights", "outputs"


def file_name(kind: str, cycle: int) -> str:
    """The name of one file among a trainer's."""
    return f"{kind}/{cycle}"


def own_members(artifacts: ArtifactStore, job_id: str, kinds: Sequence[str]) -> dict[str, Path]:
    """The files of all snapshots that the job has so far.

    Raises:
        ArtifactMissing, ArtifactDamaged: A file that a manifest names cannot be had.
    """
    cycles = sorted(map(int, artifacts.list_names(f"{records.job_prefix(job_id)}/snapshots")))
    return {name: path for cycle in cycles for name, path in _files(artifacts, job_id, cycle, kinds).items()}


def chosen_members(artifacts: ArtifactStore, job_id: str, cycles: Sequence[int], kinds: Sequence[str]) -> dict[str, Path]:
    """The files of the snapshots of ``cycles``.

    Raises:
        ArtifactMissing, ArtifactDamaged: One of them cannot be had.
    """
    found: dict[str, Path] = {}
    for cycle in cycles:
        files = _files(artifacts, job_id, cycle, kinds)
        if not files:
            raise ArtifactMissing(f"snapshot {cycle} of {job_id} is gone, since the job was deleted: evaluate another job")
        found |= files
    return found


def _files(artifacts: ArtifactStore, job_id: str, cycle: int, kinds: Sequence[str]) -> dict[str, Path]:
    """One snapshot's files; empty where it has no manifest."""
    manifest = records.read_document(artifacts, f"{records.snapshot_prefix(job_id, cycle)}/{records.MANIFEST}")
    if manifest is None:
        return {}
    return {file_name(kind, cycle): records.file_path(artifacts, manifest["files"][kind]) for kind in kinds}
