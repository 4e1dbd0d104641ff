"""Reads a job's spec from the artifact store."""

from pydantic import ValidationError

from worker import records
from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.job_specs import JobSpec, spec_of


def stored_spec(artifacts: ArtifactStore, job_id: str) -> JobSpec:
    """The job as it was accepted.

    Raises:
        ArtifactMissing: There is no such job.
        ArtifactDamaged: Its spec is not what was stored, or belongs to another version of this program.
    """
    key = records.spec_key(job_id)
    document = records.read_document(artifacts, key)
    if document is None:
        raise ArtifactMissing(f"{key} is not in the artifact store: submit the job again")
    try:
        return spec_of(document)
    except ValidationError as error:
        reason = error.errors()[0]
        place = ".".join(map(str, reason["loc"]))
        raise ArtifactDamaged(
            f"{key} is a job of another version of this program ({place}: {reason['msg']}): run it there, or submit it again"
        ) from error
