"""Looks through a whole artifact store: every document, every file that one names, and what nobody names."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker import quarantine, records
from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore
from worker.ids import is_id
from worker.rebuild import DELETED, job_folders, remove_half_deleted
from worker.sealed_json import SealBrokenError, unsealed
from worker.stored_specs import stored_spec

YOUNG_SECONDS = 86_400.0
"""Age below which a file that no manifest names, or a draft, may still be in the hands of its writer."""

Json = dict[str, Any]


class Trouble(StrEnum):
    """What can be wrong with a store."""

    DAMAGED = "damaged"
    """An object is not what was stored."""
    LOST = "lost"
    """A manifest names a file, or a job has objects, and what belongs to it is gone."""
    ORPHAN = "orphan"
    """A file that no manifest names; left by an interrupted write."""
    DRAFT = "draft"
    """A file that was being written when its writer died."""
    HALF_DELETED = "half_deleted"
    """What is left of a deletion that was interrupted."""

    @property
    def is_harm(self) -> bool:
        """Whether something is lost by it, rather than only space."""
        return self in (Trouble.DAMAGED, Trouble.LOST)


@dataclass(frozen=True)
class Finding:
    """One trouble; ``mended`` says what was done about it."""

    trouble: Trouble
    key: str
    detail: str
    mended: str | None = None


@dataclass
class StoreReport:
    """What there is, and what is wrong with it."""

    jobs: int = 0
    documents: int = 0
    files: int = 0
    verified_bytes: int = 0
    in_quarantine: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is lost."""
        return not any(finding.trouble.is_harm for finding in self.findings)


def check_store(artifacts: ArtifactStore, *, repair: bool = False) -> StoreReport:
    """Verifies a whole store.

    Args:
        artifacts: The store. Without ``repair`` nothing in it is changed.
        repair: Moves what is damaged to the quarantine, and removes orphans, drafts and half-deleted jobs. Nothing that is intact
            and named by a manifest is touched.
    """
    report = StoreReport(in_quarantine=len(artifacts.list_names(quarantine.FOLDER)))
    keys = [key for folder in _FOLDERS for key in artifacts.list_keys(folder)]
    half_deleted = {job_id for job_id, names in job_folders(artifacts).items() if DELETED in names}
    named: dict[str, Json] = {}
    for key in sorted(key for key in keys if key.endswith(".json") and not _is_of(key, half_deleted)):
        report.documents += 1
        document = _verified_document(artifacts, key, report, repair=repair)
        named |= {entry["key"]: entry for entry in _entries(document)}
    for key, entry in sorted(named.items()):
        _verify_file(artifacts, key, entry, report, repair=repair)
    for key in sorted(set(keys) - set(named)):
        if not key.endswith(".json") and not _is_of(key, half_deleted):
            _note_orphan(artifacts, key, report, repair=repair)
    _check_jobs(artifacts, half_deleted, report, repair=repair)
    _check_drafts(artifacts, report, repair=repair)
    return report


_FOLDERS = ("datasets", "jobs", "ensembles", "aliases", "keys", "idempotency")


def _is_of(key: str, jobs: set[str]) -> bool:
    return key.startswith("jobs/") and key.split("/")[1] in jobs


def _entries(document: Json | None) -> Iterator[Json]:
    """The files that a manifest names."""
    files = (document or {}).get("files")
    if isinstance(files, dict):
        yield from (entry for entry in files.values() if isinstance(entry, dict) and {"key", "sha256", "size_bytes"} <= entry.keys())


def _verified_document(artifacts: ArtifactStore, key: str, report: StoreReport, *, repair: bool) -> Json | None:
    try:
        return unsealed(artifacts.read(key))
    except ArtifactMissing:  # deleted meanwhile
        return None
    except SealBrokenError as error:
        mended = None
        if repair and key.startswith(quarantine.MOVABLE):
            quarantine.set_aside(artifacts, key, f"found by doctor: {error}")
            mended = "moved to the quarantine"
        report.findings.append(Finding(Trouble.DAMAGED, key, str(error), mended))
        return None


def _verify_file(artifacts: ArtifactStore, key: str, entry: Json, report: StoreReport, *, repair: bool) -> None:
    report.files += 1
    try:
        found = artifacts.stored_sha256(key)
    except ArtifactMissing:
        report.findings.append(Finding(Trouble.LOST, key, "its manifest names it, and it is not there"))
        return
    if found == entry["sha256"]:
        report.verified_bytes += entry["size_bytes"]
        return
    detail = f"it has sha256 {found} instead of {entry['sha256']}"
    if repair:
        quarantine.set_aside(artifacts, key, f"found by doctor: {detail}")
    report.findings.append(Finding(Trouble.DAMAGED, key, detail, "moved to the quarantine" if repair else None))


def _note_orphan(artifacts: ArtifactStore, key: str, report: StoreReport, *, repair: bool) -> None:
    age = artifacts.age_seconds(key)
    if age is None or age < YOUNG_SECONDS:
        return
    if repair:
        artifacts.delete(key)
    report.findings.append(Finding(Trouble.ORPHAN, key, f"no manifest names it, {age / 3600:.0f} hours old", "removed" if repair else None))


def _check_jobs(artifacts: ArtifactStore, half_deleted: set[str], report: StoreReport, *, repair: bool) -> None:
    """Whether every job has a spec that can be read, and what it names."""
    users: dict[str, str] = {}
    damaged = {finding.key for finding in report.findings}
    for job_id, names in sorted(job_folders(artifacts).items()):
        if job_id in half_deleted:
            continue
        report.jobs += 1
        if "spec.json" not in names:
            detail = "the job has other objects, but no spec: it cannot be rebuilt"
            report.findings.append(Finding(Trouble.LOST, records.spec_key(job_id), detail))
            continue
        if records.spec_key(job_id) in damaged:
            continue
        try:
            users[stored_spec(artifacts, job_id).dataset_id] = job_id
        except ArtifactMissing:
            continue
        except ArtifactDamaged as error:
            report.findings.append(Finding(Trouble.DAMAGED, records.spec_key(job_id), str(error)))
    present = {name for name in artifacts.list_names("datasets") if is_id("ds", name)}
    for dataset_id, job_id in sorted(users.items()):
        if dataset_id not in present:
            detail = f"{job_id} was trained on it, and it is not there"
            report.findings.append(Finding(Trouble.LOST, records.dataset_prefix(dataset_id), detail))
    mended = "removed" if repair else None
    for job_id in sorted(half_deleted):
        report.findings.append(Finding(Trouble.HALF_DELETED, records.job_prefix(job_id), "its deletion was interrupted", mended))
    if repair and half_deleted:
        remove_half_deleted(artifacts)


def _check_drafts(artifacts: ArtifactStore, report: StoreReport, *, repair: bool) -> None:
    for name in artifacts.drafts(older_than_seconds=YOUNG_SECONDS):
        report.findings.append(Finding(Trouble.DRAFT, name, "it was being written when its writer died", "removed" if repair else None))
    if repair:
        artifacts.remove_drafts(older_than_seconds=YOUNG_SECONDS)
