"""A job as the artifact store knows it, read back for a database that has lost it. What is damaged is set aside and done without."""

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from worker import records
from worker.amendments import amended, num_extensions, read_amendments
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactStore
from worker.job_specs import JobSpec
from worker.jobs import ErrorCategory, JobStatus, now_rfc3339
from worker.restoration import Past, StoredJob
from worker.results import result_document
from worker.stored_results import is_current, is_lost_failure
from worker.stored_specs import stored_spec

logger = logging.getLogger(__name__)

Json = dict[str, Any]

MAX_ATTEMPTS = 50
"""Attempts whose claims are told again: the latest ones."""

_SNAPSHOT = re.compile(rf"snapshots/(\d+)/{re.escape(records.MANIFEST)}")
_CHECKPOINT = re.compile(rf"checkpoints/(\d+)-(\d+)/{re.escape(records.MANIFEST)}")
_AMENDMENT = re.compile(r"amendments/(\d+)\.json")
_ATTEMPT = re.compile(r"attempts/(\d+)\.json")


def read_job(artifacts: ArtifactStore, job_id: str, names: Iterable[str]) -> StoredJob:
    """The job with all that is intact of it.

    Args:
        artifacts: The artifact store.
        job_id: The job.
        names: The names of its objects, below its folder.

    Raises:
        ArtifactMissing: It was deleted meanwhile.
        ArtifactDamaged: Its spec is, without which nothing else says what it was.
    """
    names = set(names)
    amendments = read_amendments(artifacts, job_id, [int(match[1]) for match in map(_AMENDMENT.fullmatch, names) if match])
    spec = amended(stored_spec(artifacts, job_id), amendments)
    cycles = sorted(int(match[1]) for match in map(_SNAPSHOT.fullmatch, names) if match)
    manifests = [_intact(artifacts, f"{records.snapshot_prefix(job_id, cycle)}/{records.MANIFEST}") for cycle in cycles]
    found = [manifest for manifest in manifests if manifest is not None]
    result = _result(artifacts, spec, found, extensions=num_extensions(amendments)) if "result.json" in names else None
    found = _with_those_of(result, artifacts, job_id, found)
    checkpoints = sorted((int(match[2]), int(match[1])) for match in map(_CHECKPOINT.fullmatch, names) if match)
    claims = sorted(int(match[1]) for match in map(_ATTEMPT.fullmatch, names) if match)
    if result is not None and is_lost_failure(result, epoch=max([0, *claims, *(epoch for epoch, _ in checkpoints)])):
        result = None
    return StoredJob(
        spec=spec,
        result=result if result is not None and is_current(result, extensions=num_extensions(amendments)) else None,
        amendments=amendments,
        manifests=found,
        checkpoint_step=max((step for _, step in checkpoints), default=0),
        past=_past(artifacts, spec, result, claims, checkpoints),
        rate=_rate(artifacts, job_id) if "learning_rate.json" in names else None,
    )


def _rate(artifacts: ArtifactStore, job_id: str) -> Json | None:
    document = _intact(artifacts, records.learning_rate_key(job_id))
    return None if document is None else records.without_claim(document)


def _result(artifacts: ArtifactStore, spec: JobSpec, manifests: list[Json], *, extensions: int) -> Json | None:
    """What came of the job. Of a damaged result only that is sure: the job has ended, so it isn't run again unasked."""
    key = records.result_key(spec.id)
    try:
        return records.read_document(artifacts, key)
    except ArtifactDamaged as error:
        failed = {
            "category": ErrorCategory.DATA,
            "message": f"the job has ended, but its result is damaged and was set aside: {error}",
            "suggestion": "restore the file from a backup, or submit the job again; its snapshots stay usable",
        }
        document = result_document(
            JobStatus.FAILED,
            stop_reason=None,
            error=failed,
            finished_at=now_rfc3339(),
            manifests=manifests,
            rows=[],
            config=spec.model_dump(mode="json")["config"],
            output={},
        ) | {"extensions": extensions}
        records.write_document(artifacts, key, document)
        return document


def _with_those_of(result: Json | None, artifacts: ArtifactStore, job_id: str, found: list[Json]) -> list[Json]:
    """The snapshots with those that the result has besides, whose manifests were lost: an ensemble must not shrink unnoticed."""
    by_cycle = {manifest["cycle"]: manifest for manifest in found}
    for manifest in (result or {}).get("manifests", []):
        if manifest["cycle"] not in by_cycle:
            by_cycle[manifest["cycle"]] = manifest
            logger.warning("job %s: the manifest of snapshot %d was lost and is made again", job_id, manifest["cycle"])
            with suppress(AlreadyExists):
                records.write_document(artifacts, f"{records.snapshot_prefix(job_id, manifest['cycle'])}/{records.MANIFEST}", manifest)
    return [by_cycle[cycle] for cycle in sorted(by_cycle)]


def _past(artifacts: ArtifactStore, spec: JobSpec, result: Json | None, epochs: list[int], checkpoints: list[tuple[int, int]]) -> Past:
    """What is known of the attempts: from the result, else from the claims, by their epochs, and the newest checkpoint."""
    last_epoch = max([0, *epochs, *(epoch for epoch, _ in checkpoints)])
    record = (result or {}).get("record")
    if record is not None:
        transitions = [each for each in record["transitions"] if not JobStatus(each["to"]).is_terminal]
        return Past(
            attempt=record["attempt"],
            epoch=max(last_epoch, record["epoch"]),
            started_at=record["started_at"],
            training_started_at=record["training_started_at"],
            transitions=transitions,
        )
    claims = [_intact(artifacts, records.attempt_key(spec.id, epoch)) for epoch in epochs[-MAX_ATTEMPTS:]]
    known = [claim for claim in claims if claim is not None]
    submitted = {"to": JobStatus.QUEUED, "at": spec.created_at, "reason": "submitted", "actor": "client"}
    newest = f"{records.checkpoint_prefix(spec.id, checkpoints[-1][1], checkpoints[-1][0])}/{records.MANIFEST}" if checkpoints else None
    checkpoint = _intact(artifacts, newest) if newest else None
    return Past(
        attempt=known[-1]["attempt"] if known else 0,
        epoch=last_epoch,
        started_at=known[0]["started_at"] if known else None,
        training_started_at=None,
        transitions=[
            submitted,
            *({"to": JobStatus.RUNNING, "at": claim["at"], "reason": "claimed", "actor": claim["owner"]} for claim in known),
        ],
        seconds_run=max(each.get("seconds_run", 0.0) for each in (checkpoint or {}, *known)),
    )


def _intact(artifacts: ArtifactStore, key: str) -> Json | None:
    """A document; None where it is gone or damaged."""
    try:
        return records.read_document(artifacts, key)
    except ArtifactDamaged as error:
        logger.error("done without: %s", error)  # noqa: TRY400  (it says why; a trace would hide it)
        return None
