"""Where everything is in the artifact store. A manifest is written after the files that it names: without it they don't exist.

datasets/<dataset>/data.safetensors, manifest.json
jobs/<job>/spec.json, learning_rate.json, result.json, deleted.json (while it is being deleted)
jobs/<job>/attempts/<epoch of the claim>.json
jobs/<job>/amendments/<number>.json, results/<extensions>.json (what an extended job had come to before),
    results/claim-<epoch of the claim>.json (a failure that was stored after its attempt had lost the job)
jobs/<job>/snapshots/<cycle>/weights.safetensors, outputs.safetensors, manifest.json
jobs/<job>/checkpoints/<step>-<epoch of the claim>/checkpoint.safetensors, manifest.json
ensembles/<ensemble>.json
aliases/<tenant>/<name>/<number>.json, <number>.twin.json
quarantine/<time>-<word>/note.json and a damaged object

Every JSON document has its own checksum (worker.sealed_json); what turns out to be damaged is moved to the quarantine.
"""

from pathlib import Path
from typing import Any

from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.quarantine import set_aside, verified_again
from worker.sealed_json import SealBrokenError, sealed, unsealed

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


def deleted_key(job_id: str) -> str:
    """Says that the job is being deleted: what is left of it goes, and nothing brings it back."""
    return f"jobs/{job_id}/deleted.json"


def attempt_key(job_id: str, epoch: int) -> str:
    """What is known of one claim: epoch, attempt, owner, at."""
    return f"jobs/{job_id}/attempts/{epoch:015d}.json"


def earlier_result_key(job_id: str, extensions: int) -> str:
    """What had come of a job before it was extended once more."""
    return f"jobs/{job_id}/results/{extensions}.json"


def lost_result_key(job_id: str, epoch: int) -> str:
    """The failure that an attempt stored after it had lost the job, by the epoch of its claim."""
    return f"jobs/{job_id}/results/claim-{epoch:015d}.json"


def amendments_prefix(job_id: str) -> str:
    """The folder of what was changed about a job since it was accepted: worker.amendments.Amendment, numbered from 1."""
    return f"jobs/{job_id}/amendments"


def learning_rate_key(job_id: str) -> str:
    """The ``max_lr`` that a training job has found for itself, with its range test."""
    return f"jobs/{job_id}/learning_rate.json"


CLAIM = "claim"
"""In a learning rate's document: the epoch of the claim that found it."""


def without_claim(document: dict[str, Any]) -> dict[str, Any]:
    """What a learning rate's document says of the rate."""
    return {name: value for name, value in document.items() if name != CLAIM}


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


def alias_prefix(tenant: str, name: str) -> str:
    """The folder of an alias' changes."""
    return f"aliases/{tenant}/{name}"


def alias_key(tenant: str, name: str, number: int, *, is_twin: bool = False) -> str:
    """One change of an alias, or its second copy."""
    return f"{alias_prefix(tenant, name)}/{number:09d}{'.twin' if is_twin else ''}.json"


def store_file(artifacts: ArtifactStore, key: str, path: Path) -> dict[str, Any]:
    """Stores a file, which may be there with the same bytes, and returns its entry for a manifest."""
    return {"key": key, "sha256": artifacts.create_or_same(key, path), "size_bytes": path.stat().st_size}


def file_path(artifacts: ArtifactStore, entry: dict[str, Any]) -> Path:
    """A local, verified file for a manifest's entry.

    Raises:
        ArtifactMissing: There is none.
        ArtifactDamaged: It is not what was stored; it is in the quarantine now.
    """
    try:
        return artifacts.local_path(entry["key"], entry["sha256"], entry["size_bytes"])
    except ArtifactDamaged as error:
        verified_again(artifacts, entry["key"], entry["sha256"], error)
        raise


def create_document(artifacts: ArtifactStore, key: str, document: dict[str, Any]) -> str:
    """Stores a JSON document that didn't exist and returns its sha256.

    Raises:
        AlreadyExists: The key is taken.
    """
    return artifacts.create(key, sealed(document))


def write_document(artifacts: ArtifactStore, key: str, document: dict[str, Any]) -> str:
    """Stores a JSON document, which may be there with the same content, and returns its sha256."""
    return artifacts.create_or_same(key, sealed(document))


def read_document(artifacts: ArtifactStore, key: str) -> dict[str, Any] | None:
    """A JSON document; None where there is none.

    Raises:
        ArtifactDamaged: It is not what was stored; it is in the quarantine now.
    """
    try:
        content = artifacts.read(key)
    except ArtifactMissing:
        return None
    try:
        return unsealed(content)
    except SealBrokenError as error:
        set_aside(artifacts, key, str(error))
        raise ArtifactDamaged(f"{key} is damaged: {error}; restore it from a backup, or delete what it belongs to") from error
