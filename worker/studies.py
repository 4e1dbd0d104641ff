"""Studies in the job system: the runs of a study are train jobs of its own, and come first; then it joins the queue itself.

Ids and specs of the runs are functions of the study's spec, so everything here can be done by anyone, at any time, and again.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

from clr.studies import plan_study
from worker import records
from worker.artifacts import AlreadyExists, ArtifactError, ArtifactMissing, ArtifactStore
from worker.ids import derived_id
from worker.job_specs import StudySpec, TrainSpec
from worker.job_store import InvalidState, JobMissing, JobStore, StudyOver
from worker.jobs import Action, JobKind
from worker.run_queries import Standing
from worker.stored_specs import stored_spec
from worker.study_runs import run_spec

logger = logging.getLogger(__name__)

RUNS_PER_WORKER = 2
LEAST_RUNS = 2
"""A study has so many unfinished runs at a time: one to run and one to follow it. More would hold up the jobs of others."""

Publish = Callable[[str], object]
Json = dict[str, Any]


def advance_studies(store: JobStore, artifacts: ArtifactStore, publish: Publish) -> list[str]:
    """Takes every waiting study as far as it can go now, and ends runs that no study needs; returns the studies that were queued."""
    woken = []
    for study_id in store.waiting():
        try:
            if advance_study(store, artifacts, publish, study_id):
                woken.append(study_id)
        except ArtifactError as error:
            logger.warning("study %s: it could not go on yet: %s", study_id, error)
    cancel_stray_runs(store)
    return woken


def advance_study(store: JobStore, artifacts: ArtifactStore, publish: Publish, study_id: str) -> bool:
    """Submits runs that are missing, a few at a time, notes how far the others are, and queues the study when all have ended.

    Returns:
        Whether the study was queued.

    Raises:
        ArtifactError: The artifact store is away, or full.
    """
    spec = _study_spec(artifacts, study_id)
    if spec is None:
        return False
    plan = plan_study(spec.config)
    ids = [derived_id(study_id, run.key) for run in plan.runs]
    standing = store.standing(ids)
    num_unfinished = sum(stands is not None and not stands.status.is_terminal for stands in standing)
    room = max(LEAST_RUNS, RUNS_PER_WORKER * len(store.workers())) - num_unfinished
    missing = [run for run, stands in zip(plan.runs, standing, strict=True) if stands is None]
    for run in missing[: max(room, 0)]:
        if not _submit_run(store, artifacts, publish, run_spec(spec, run)):
            return False
    progress, event = _progress(spec, standing)
    if not store.note_runs(study_id, progress, event):
        return False
    # The table is made of stored results; of a run that ended without a worker the reconciler stores it later.
    has_ended = all(stands is not None and stands.status.is_terminal for stands in standing)
    if not has_ended or not all(artifacts.exists(records.result_key(job_id)) for job_id in ids):
        return False
    if not store.wake(study_id, "its runs have ended"):
        return False
    publish(study_id)
    return True


def advance_study_of(store: JobStore, artifacts: ArtifactStore, publish: Publish, run_id: str) -> None:
    """Takes the study on to which a job belongs, if it does: the job may have been the run that it has waited for.

    Raises:
        StoreUnavailable: The job store is away.
    """
    record = store.get(run_id)
    if record is None or record.kind is not JobKind.TRAIN or record.parent_id is None:
        return
    try:
        advance_study(store, artifacts, publish, record.parent_id)
    except ArtifactError as error:
        logger.warning("study %s: it could not go on yet: %s", record.parent_id, error)


def cancel_stray_runs(store: JobStore) -> None:
    """Ends the runs of studies that were cancelled, or are gone."""
    for job_id in store.stray_runs():
        with suppress(JobMissing, InvalidState):  # it has just ended by itself
            store.request(job_id, Action.CANCEL)


def _study_spec(artifacts: ArtifactStore, study_id: str) -> StudySpec | None:
    """The spec of a study; None where it is being deleted."""
    try:
        spec = stored_spec(artifacts, study_id)
    except ArtifactMissing:
        return None
    assert isinstance(spec, StudySpec), "only studies wait for runs"
    return spec


def _submit_run(store: JobStore, artifacts: ArtifactStore, publish: Publish, spec: TrainSpec) -> bool:
    """Makes a run durable and queues it; False where its study does not wait any more."""
    with suppress(AlreadyExists):  # by an earlier version of this program: what stands there is what runs
        records.write_document(artifacts, records.spec_key(spec.id), spec.model_dump(mode="json"))
    try:
        store.submit(spec, idempotency_key=None, body_sha256="")
    except StudyOver:
        artifacts.delete_prefix(records.job_prefix(spec.id))  # else a rebuild would bring it back
        return False
    publish(spec.id)
    return True


def _progress(spec: StudySpec, standing: Sequence[Standing | None]) -> tuple[Json, Json]:
    """The study's progress, the mean of its runs', and the event that tells it."""
    num_ended = sum(one is not None and one.status.is_terminal for one in standing)
    fraction = fmean(0.0 if one is None else 1.0 if one.status.is_terminal else one.fraction for one in standing)
    step = sum(one.step for one in standing if one is not None)
    progress = spec.initial_progress() | {"fraction": fraction, "step": step}
    return progress, progress | {"learning_rate": None, "train_loss": None, "runs": len(standing), "runs_ended": num_ended}
