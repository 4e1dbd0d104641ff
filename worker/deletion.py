"""The deletion of a job, in steps that can be repeated until all are done."""

from contextlib import suppress

from worker.artifacts import ArtifactStore
from worker.job_store import JobMissing, JobStore
from worker.records import job_prefix, spec_key


def delete_job(store: JobStore, artifacts: ArtifactStore, job_id: str) -> None:
    """Removes a job that has ended, with everything that the artifact store has of it.

    The record is the last to go: as long as it is there, the deletion can be asked for again, and the reconciler will finish it.
    The spec is the first, because a rebuild brings back what has one.

    Raises:
        JobMissing: There is no such job.
        InvalidState: It has not ended.
    """
    store.begin_delete(job_id)
    artifacts.delete(spec_key(job_id))
    artifacts.delete_prefix(job_prefix(job_id))
    with suppress(JobMissing):  # the reconciler, or a second request, was faster
        store.delete(job_id)
