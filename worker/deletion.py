"""The deletion of a job, in steps that can be repeated until all are done."""

from contextlib import suppress

from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.failpoints import failpoint
from worker.job_specs import StudySpec
from worker.job_store import JobMissing, JobStore, RunGoesOn, RunInUse
from worker.jobs import JobKind
from worker.records import deleted_key, job_prefix, spec_key, write_document
from worker.stored_specs import stored_spec
from worker.study_runs import run_ids


def delete_job(store: JobStore, artifacts: ArtifactStore, job_id: str) -> None:
    """Removes a job that has ended, with everything that the artifact store has of it; with a study go its runs.

    The record is the last to go: as long as it is there, the deletion can be asked for again, and the reconciler will finish it.
    A mark comes first, because a rebuild brings back what has none. A study's own spec stays until its runs are gone: it names them.

    Raises:
        JobMissing: There is no such job.
        InvalidState: It has not ended, or a run of it (RunGoesOn).
        RunInUse: It is a run of a study that is there.
    """
    record = store.get(job_id)
    if record is None:
        raise JobMissing(f"there is no job {job_id}")
    if record.kind is JobKind.TRAIN and record.parent_id is not None:
        study = store.get(record.parent_id)
        if study is not None and {job_id, study.id}.isdisjoint(store.deleting()):
            raise RunInUse(job_id, study.id, has_ended=study.status.is_terminal)
    runs = _runs_of(artifacts, job_id) if record.kind is JobKind.STUDY else []
    for run_id, run in zip(runs, store.standing(runs), strict=True):
        if run is not None and not run.status.is_terminal:
            raise RunGoesOn(record, run_id)
    store.begin_delete(job_id)
    failpoint("delete.marked")
    for run_id in runs:
        with suppress(JobMissing):  # it was never made, or deleted before an interruption
            store.begin_delete(run_id)
            _remove(store, artifacts, run_id)
    _remove(store, artifacts, job_id)


def _remove(store: JobStore, artifacts: ArtifactStore, job_id: str) -> None:
    write_document(artifacts, deleted_key(job_id), {})  # tells what is left half-way from a job whose spec was lost
    artifacts.delete(spec_key(job_id))
    failpoint("delete.spec_removed")
    artifacts.delete_prefix(job_prefix(job_id), last=deleted_key(job_id))
    failpoint("delete.files_removed")
    with suppress(JobMissing):  # the reconciler, or a second request, was faster
        store.delete(job_id)


def _runs_of(artifacts: ArtifactStore, study_id: str) -> list[str]:
    """The ids of a study's runs; none where its spec is gone, which goes after them."""
    try:
        spec = stored_spec(artifacts, study_id)
    except (ArtifactMissing, ArtifactDamaged):
        return []
    assert isinstance(spec, StudySpec), "the kind of a job never changes"
    return list(run_ids(spec).values())
