"""Reads all jobs back from the artifact store, which is the truth, into a database that has lost them."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from worker import records
from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.ids import is_id
from worker.job_specs import read_spec
from worker.job_store import JobStore
from worker.restoration import StoredJob

logger = logging.getLogger(__name__)

READERS = 8
BATCH = 100
"""Jobs between two looks at whether to go on."""

_SNAPSHOT = re.compile(rf"snapshots/(\d+)/{re.escape(records.MANIFEST)}")
_CHECKPOINT = re.compile(rf"checkpoints/(\d+)-\d+/{re.escape(records.MANIFEST)}")


def rebuild(store: JobStore, artifacts: ArtifactStore, *, may_go_on: Callable[[], bool] = lambda: True) -> int | None:
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
    job_ids = sorted(job_id for job_id, names in folders.items() if "spec.json" in names)
    outcomes: list[str] = []
    with ThreadPoolExecutor(READERS, thread_name_prefix="rebuild") as readers:
        for start in range(0, len(job_ids), BATCH):
            if not may_go_on():
                return None
            batch = job_ids[start : start + BATCH]
            outcomes += readers.map(lambda job_id: _restore(store, artifacts, token, job_id, folders[job_id]), batch)
    if "void" in outcomes or not store.end_rebuild(token):
        return None
    num_restored = outcomes.count("restored")
    if num_restored:
        logger.warning("Redis had lost its data: %d jobs were restored from the artifact store", num_restored)
    return num_restored


def remove_half_deleted(artifacts: ArtifactStore) -> list[str]:
    """Removes what is left of jobs without a spec: it is the first object of a job to be made, and the first to go."""
    removed = []
    for job_id, names in job_folders(artifacts).items():
        if "spec.json" not in names and not artifacts.exists(records.spec_key(job_id)):
            artifacts.delete_prefix(records.job_prefix(job_id))
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


def _restore(store: JobStore, artifacts: ArtifactStore, token: str, job_id: str, names: set[str]) -> str:
    try:
        job = _read(artifacts, job_id, names)
    except ArtifactMissing:
        return "deleted"
    except (ArtifactDamaged, ValidationError, KeyError) as error:
        logger.error("job %s: it could not be restored: %s", job_id, error)  # noqa: TRY400  (it says why; a trace would hide it)
        return "damaged"
    return store.restore(token, job)


def _read(artifacts: ArtifactStore, job_id: str, names: set[str]) -> StoredJob:
    cycles = sorted(int(match[1]) for match in map(_SNAPSHOT.fullmatch, names) if match)
    manifests = [records.read_document(artifacts, f"{records.snapshot_prefix(job_id, cycle)}/{records.MANIFEST}") for cycle in cycles]
    return StoredJob(
        spec=read_spec(artifacts.read(records.spec_key(job_id))),
        result=records.read_document(artifacts, records.result_key(job_id)) if "result.json" in names else None,
        manifests=[manifest for manifest in manifests if manifest is not None],
        checkpoint_step=max((int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match), default=0),
    )
