"""What the trainer of a study needs of the study's runs. No torch here."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clr.studies import plan_study
from worker import records
from worker.artifacts import ArtifactMissing, ArtifactStore
from worker.job_specs import StudySpec
from worker.jobs import JobStatus
from worker.sealed_json import sealed
from worker.study_runs import run_spec

Json = dict[str, Any]


def study_inputs(artifacts: ArtifactStore, spec: StudySpec) -> tuple[dict[str, Path], dict[str, Json]]:
    """Files and documents of every run, by its key.

    The files are its result, as ``<key>/result``, and the outputs of its snapshots, as ``<key>/<cycle>``; a run that has not spent its
    whole budget has no outputs here. The document says which job it was.

    Raises:
        ArtifactMissing, ArtifactDamaged: A file of a run that has succeeded cannot be had.
    """
    files: dict[str, Path] = {}
    documents: dict[str, Json] = {}
    for run in plan_study(spec.config).runs:
        child = run_spec(spec, run)
        key = records.result_key(child.id)
        result = records.read_document(artifacts, key)
        if result is None:
            raise ArtifactMissing(f"the result of the run {child.id} is gone: submit the study again")
        content = sealed(result)
        files[f"{run.key}/result"] = artifacts.local_path(key, hashlib.sha256(content).hexdigest(), len(content))
        cycles = [snapshot["cycle"] for snapshot in result["snapshots"]] if _is_whole(result) else []
        for cycle in cycles:
            manifest = records.read_document(artifacts, f"{records.snapshot_prefix(child.id, cycle)}/{records.MANIFEST}")
            if manifest is None:
                raise ArtifactMissing(f"snapshot {cycle} of the run {child.id} is gone: submit the study again")
            files[f"{run.key}/{cycle}"] = records.file_path(artifacts, manifest["files"]["outputs"])
        documents[run.key] = {"job_id": child.id, "num_steps": child.num_steps, "cycles": cycles}
    return files, documents


def _is_whole(result: Mapping[str, Any]) -> bool:
    """Whether a run has spent its whole budget, so that it can be compared with others."""
    return result["status"] == JobStatus.SUCCEEDED and result["stop_reason"] is None
