"""Reads all jobs back from the artifact store, which is the truth, into a database that has lost them."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from worker import records
from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.failpoints import failpoint
from worker.ids import is_id, unix_ms_of
from worker.job_store import JobStore
from worker.jobs import IDEMPOTENCY_SECONDS
from worker.stored_jobs import read_job
from worker.stored_specs import stored_spec

logger = logging.getLogger(__name__)

DELETED = "deleted.json"
READERS = 8
BATCH = 100
"""Jobs between two looks at whether to go on."""

STANDING_BATCH = 1000

SECOND_LOOK_SECONDS = 1.0
"""A submission's spec is stored some milliseconds before Redis knows it: what is missing a second time is lost."""

MayGoOn = Callable[[], bool]
SubmissionKey = tuple[str, str]
"""Tenant, and hash of the Idempotency-Key."""


def rebuild(store: JobStore, artifacts: ArtifactStore, *, may_go_on: MayGoOn = lambda: True) -> int | None:
    """Restores every stored job that the database lacks, and then declares it complete.

    Args:
        store: The job store.
        artifacts: The artifact store.
        may_go_on: Asked from time to time; False ends the rebuild, and another one begins anew.

    Returns:
        The number of jobs that were restored; None where the database was complete, or the rebuild did not come to its end.
    """
    token = store.begin_rebuild()
    if token is None:
        return None
    folders = job_folders(artifacts)
    for job_id in sorted(job_id for job_id, names in folders.items() if not {"spec.json", DELETED} & names):
        logger.error("job %s: its spec is lost, so it cannot be restored; what else there is of it stays in the artifact store", job_id)
    num_restored = _read_back(store, artifacts, token, folders, may_go_on=may_go_on, others=lambda _: None)
    if num_restored:
        logger.warning("Redis had lost its data: %d jobs were restored from the artifact store", num_restored)
    return num_restored


def recheck(
    store: JobStore, artifacts: ArtifactStore, *, may_go_on: MayGoOn = lambda: True, wait: Callable[[float], object] = time.sleep
) -> list[str] | None:
    """Reads back the stored jobs that a database lacks though it says that it has all; returns their ids.

    A server comes back without its latest writes where the end of its log was lost, or a replica took over that lagged behind. And a
    process dies between the spec of a submission and its record. Meanwhile the database answers for no job that it lacks.

    Args:
        store: The job store.
        artifacts: The artifact store.
        may_go_on: As for ``rebuild``.
        wait: Lets the seconds pass after which a submission that was under way has come to its end.

    Returns:
        None where the jobs were not read back to the end: a rebuild has to follow.
    """
    missing = _missing(store, [name for name in artifacts.list_names("jobs") if is_id("job", name)])
    if missing:
        wait(SECOND_LOOK_SECONDS)
        missing = _missing(store, missing)
    folders = {job_id: set(_names(artifacts, job_id)) for job_id in missing}
    lost = sorted(job_id for job_id, names in folders.items() if "spec.json" in names and DELETED not in names)
    if not lost:
        return []
    logger.error("Redis lacks %d jobs that are stored, such as %s: they are read back", len(lost), lost[0])
    token = store.doubt()
    if token is None:
        return None
    found = {job_id: folders[job_id] for job_id in lost}
    return None if _read_back(store, artifacts, token, found, may_go_on=may_go_on, others=store.submission_of) is None else lost


def _missing(store: JobStore, job_ids: Sequence[str]) -> list[str]:
    """Those that the database doesn't have."""
    missing: list[str] = []
    for start in range(0, len(job_ids), STANDING_BATCH):
        batch = job_ids[start : start + STANDING_BATCH]
        missing += [job_id for job_id, stands in zip(batch, store.standing(batch), strict=True) if stands is None]
    return missing


def _read_back(
    store: JobStore,
    artifacts: ArtifactStore,
    token: str,
    folders: Mapping[str, set[str]],
    *,
    may_go_on: MayGoOn,
    others: Callable[[SubmissionKey], str | None],
) -> int | None:
    """Restores these jobs and ends the rebuild; returns how many were restored, or None where the token is out of date.

    Args:
        store: The job store.
        artifacts: The artifact store.
        token: That of the rebuild.
        folders: The names of each job's objects.
        may_go_on: As for ``rebuild``.
        others: The job that the database has for the key of a submission.
    """
    failpoint("rebuild.begun")
    job_ids = sorted(job_id for job_id, names in folders.items() if "spec.json" in names and DELETED not in names)
    outcomes: list[str] = []
    with ThreadPoolExecutor(READERS, thread_name_prefix="rebuild") as readers:
        abandoned = _abandoned(artifacts, readers, {job_id: folders[job_id] for job_id in job_ids}, others)
        for job_id in abandoned:
            logger.warning("job %s: removed, since its submission was repeated under another id before anyone had its answer", job_id)
            artifacts.delete_prefix(records.job_prefix(job_id))
        job_ids = [job_id for job_id in job_ids if job_id not in abandoned]
        for start in range(0, len(job_ids), BATCH):
            if not may_go_on():
                return None
            batch = job_ids[start : start + BATCH]
            failpoint("rebuild.batch")
            outcomes += readers.map(lambda job_id: _restore(store, artifacts, token, job_id, folders[job_id]), batch)
    if "void" in outcomes or not store.end_rebuild(token):
        return None
    failpoint("rebuild.ended")
    return outcomes.count("restored")


def remove_half_deleted(artifacts: ArtifactStore) -> list[str]:
    """Removes what is left of jobs whose deletion was interrupted. (One that merely lacks its spec was damaged: it is left alone.)"""
    removed = []
    for job_id, names in job_folders(artifacts).items():
        if DELETED in names:
            artifacts.delete_prefix(records.job_prefix(job_id), last=records.deleted_key(job_id))
            removed.append(job_id)
    return removed


def job_folders(artifacts: ArtifactStore) -> dict[str, set[str]]:
    """The names of each job's objects, below its folder."""
    folders: dict[str, set[str]] = defaultdict(set)
    for key in artifacts.list_keys("jobs"):
        job_id, _, name = key.removeprefix("jobs/").partition("/")
        if is_id("job", job_id):
            folders[job_id].add(name)
    return folders


def _names(artifacts: ArtifactStore, job_id: str) -> list[str]:
    """The names of a job's objects, below its folder."""
    prefix = records.job_prefix(job_id)
    return [key.removeprefix(prefix).removeprefix("/") for key in artifacts.list_keys(prefix)]


def _abandoned(
    artifacts: ArtifactStore,
    readers: ThreadPoolExecutor,
    folders: Mapping[str, set[str]],
    others: Callable[[SubmissionKey], str | None],
) -> set[str]:
    """Specs of submissions that came no further, and were repeated with their key: of several tries the last one became the job.

    Where the database has a job for the key, that one is it.
    """
    bare = {job_id for job_id, names in folders.items() if all(name.startswith("spec.") for name in names)}
    if not bare:
        return set()
    tries: dict[SubmissionKey, list[str]] = defaultdict(list)
    for job_id, key in zip(sorted(folders), readers.map(lambda job_id: _submission_key(artifacts, job_id), sorted(folders)), strict=True):
        if key is not None:
            tries[key].append(job_id)
    repeated = {earlier: later for ids in tries.values() for earlier, later in pairwise(ids)}
    repeated |= {job_id: known for key, ids in tries.items() if (known := others(key)) is not None for job_id in ids}
    return {one for one, other in repeated.items() if one in bare and one != other and _within_life_of_key(one, other)}


def _within_life_of_key(one: str, other: str) -> bool:
    return abs(unix_ms_of(one) - unix_ms_of(other)) < IDEMPOTENCY_SECONDS * 1000


def _submission_key(artifacts: ArtifactStore, job_id: str) -> SubmissionKey | None:
    """Tenant and hash of the Idempotency-Key that a job was submitted with."""
    try:
        spec = stored_spec(artifacts, job_id)
    except (ArtifactMissing, ArtifactDamaged):  # it is told where the job is restored
        return None
    return (spec.tenant, spec.idempotency_key_sha256) if spec.idempotency_key_sha256 else None


def _restore(store: JobStore, artifacts: ArtifactStore, token: str, job_id: str, names: set[str]) -> str:
    try:
        job = read_job(artifacts, job_id, names)
    except ArtifactMissing:
        return "deleted"
    except (ArtifactDamaged, ValueError, KeyError, TypeError) as error:
        logger.error("job %s: it could not be restored: %s", job_id, error)  # noqa: TRY400  (it says why; a trace would hide it)
        return "damaged"
    return store.restore(token, job)
