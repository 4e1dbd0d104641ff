"""Results in the artifact store. A job that was extended after its end gets another one; the earlier one stays beside it.

A result counts the extensions that the job had had. One that counts fewer than there were is out of date: the job goes on.
"""

from contextlib import suppress
from typing import Any

from worker import records
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactStore
from worker.failpoints import failpoint
from worker.jobs import JobStatus

Json = dict[str, Any]


def has_result(artifacts: ArtifactStore, job_id: str, *, extensions: int) -> bool:
    """Whether the result of a job that was extended so often is stored."""
    if extensions == 0:
        return artifacts.exists(records.result_key(job_id))
    result = _read(artifacts, job_id)
    return result is not None and is_current(result, extensions=extensions)


def is_current(result: Json, *, extensions: int) -> bool:
    """Whether a job that was extended so often has come to this result, and not to that of an earlier end."""
    return bool(result.get("extensions", 0) >= extensions)


def move_earlier_result(artifacts: ArtifactStore, job_id: str, *, extensions: int) -> None:
    """Makes room for the result of a job that was extended so often: an earlier one is filed under its own count."""
    result = _read(artifacts, job_id) if extensions else None
    if result is None or is_current(result, extensions=extensions):
        return
    records.write_document(artifacts, records.earlier_result_key(job_id, result.get("extensions", 0)), result)
    failpoint("result.earlier_kept")
    artifacts.delete(records.result_key(job_id))
    failpoint("result.earlier_removed")


def move_lost_failure(artifacts: ArtifactStore, job_id: str, *, epoch: int) -> None:
    """Makes room for the result of the claim ``epoch`` where an earlier claim has stored a failure.

    That one lost the job before it could tell anybody, and the job was claimed again; else there would be no later claim.
    """
    result = _read(artifacts, job_id)
    if result is not None and is_lost_failure(result, epoch=epoch):
        with suppress(AlreadyExists):
            records.write_document(artifacts, records.lost_result_key(job_id, result["record"]["epoch"]), result)
        artifacts.delete(records.result_key(job_id))


def is_lost_failure(result: Json, *, epoch: int) -> bool:
    """Whether a result is the failure of an earlier claim than ``epoch``."""
    record = result.get("record")
    return result["status"] == JobStatus.FAILED and record is not None and bool(record["epoch"] < epoch)


def _read(artifacts: ArtifactStore, job_id: str) -> Json | None:
    try:
        return records.read_document(artifacts, records.result_key(job_id))
    except ArtifactDamaged:  # it is set aside now
        return None
