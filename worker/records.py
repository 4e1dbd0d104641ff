"""Where everything is in the artifact store. A manifest is written after the files that it names: without it they don't exist.

datasets/<dataset>/data.safetensors, manifest.json
jobs/<job>/spec.json, learning_rate.json, result.json
jobs/<job>/snapshots/<cycle>/weights.safetensors, outputs.safetensors, manifest.json
jobs/<job>/checkpoints/<step>-<epoch of the claim>/checkpoint.safetensors, manifest.json
ensembles/<ensemble>.json
"""

from pathlib import Path
from typing import Any

import orjson

from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore

MANIFEST = "manifest.json"


def dataset_prefix(dataset_id: str) -> str:
    """The folder of a dataset: data.safetensors and its manifest."""
    return f"datasets/{dataset_id}"


def job_prefix(job_id: str) -> str:
    """The folder of a job."""
    return f"jobs/{job_id}"


def spec_key(job_id: str) -> str:
    """The job as it was accepted: worker.job_specs.JobSpec."""
    return f"jobs/{job_id}/spec.json"


def result_key(job_id: str) -> str:
    """What came of a job that has ended."""
    return f"jobs/{job_id}/result.json"


def learning_rate_key(job_id: str) -> str:
    """The ``max_lr`` that a training job has found for itself, with its range test."""
    return f"jobs/{job_id}/learning_rate.json"


def snapshot_prefix(job_id: str, cycle: int) -> str:
    """The folder of a snapshot: weights.safetensors, outputs.safetensors and its manifest."""
    return f"jobs/{job_id}/snapshots/{cycle}"


def checkpoints_prefix(job_id: str) -> str:
    """The folder of a job's checkpoints."""
    return f"jobs/{job_id}/checkpoints"


def checkpoint_prefix(job_id: str, step: int, epoch: int) -> str:
    """The folder of one checkpoint: checkpoint.safetensors and its manifest; names sort by step, then by the claim's epoch."""
    return f"{checkpoints_prefix(job_id)}/{step:010d}-{epoch:015d}"


def ensemble_key(ensemble_id: str) -> str:
    """The document of an ensemble that was put together by hand."""
    return f"ensembles/{ensemble_id}.json"


def store_file(artifacts: ArtifactStore, key: str, path: Path) -> dict[str, Any]:
    """Stores a file, which may be there with the same bytes, and returns its entry for a manifest."""
    return {"key": key, "sha256": artifacts.create_or_same(key, path), "size_bytes": path.stat().st_size}


def file_path(artifacts: ArtifactStore, entry: dict[str, Any]) -> Path:
    """A local, verified file for a manifest's entry."""
    return artifacts.local_path(entry["key"], entry["sha256"], entry["size_bytes"])


def write_document(artifacts: ArtifactStore, key: str, document: dict[str, Any]) -> str:
    """Stores a JSON document, which may be there with the same content, and returns its sha256."""
    return artifacts.create_or_same(key, orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


def read_document(artifacts: ArtifactStore, key: str) -> dict[str, Any] | None:
    """A JSON document; None where there is none.

    Raises:
        ArtifactDamaged: It isn't JSON.
    """
    try:
        content = artifacts.read(key)
    except ArtifactMissing:
        return None
    try:
        document: dict[str, Any] = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ArtifactDamaged(f"{key} is not JSON ({error}): restore it from a backup, or delete what it belongs to") from error
    return document
