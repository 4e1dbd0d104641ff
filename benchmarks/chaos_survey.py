"""What a run has left on the disk and in the logs: artifacts with their checksums, specs, scratch directories, claims and commits."""

import fcntl
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker import records
from worker.artifacts import ArtifactError, ArtifactStore
from worker.job_specs import read_spec

Json = dict[str, Any]

_CLAIM = re.compile(r"worker\.supervisor: job (job_\w+): claimed with epoch (\d+)")
_COMMIT = re.compile(r"worker\.attempt: job (job_\w+): snapshot (\d+) (\w+) with epoch (\d+)")


@dataclass(frozen=True)
class Commit:
    """A line of the log that says that a snapshot was made visible, or a job claimed (``cycle`` None)."""

    job_id: str
    epoch: int
    cycle: int | None
    outcome: str


@dataclass
class Survey:
    """What was found.

    Attributes:
        specs: The hash of the Idempotency-Key of every job that has a spec.
        results: The status in the stored result of every job that has one.
        snapshots: The cycles that have a valid snapshot, by job.
        damaged: What doesn't have its checksum, cannot be read or is missing although a manifest names it.
        drafts: Half-written files of processes that were killed; invisible to the store.
        old_scratch: Scratch directories of dead workers; the next worker to start removes them.
        log: Claims and commits, in the order of the log.
    """

    specs: dict[str, str | None] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, list[int]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    num_objects: int = 0
    drafts: list[str] = field(default_factory=list)
    old_scratch: list[str] = field(default_factory=list)
    log: list[Commit] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


def survey(artifacts_dir: Path, scratch_dir: Path, log: Path, *, only: Collection[str] | None = None) -> Survey:
    """Looks at everything, or at the jobs of ``only`` and at what belongs to none."""
    found = Survey()
    artifacts = ArtifactStore.open(artifacts_dir)
    keys = [key for key in _keys(artifacts_dir) if only is None or not key.startswith("jobs/") or key.split("/")[1] in only]
    found.num_objects = len(keys)
    found.drafts = [str(path.relative_to(artifacts_dir)) for path in artifacts_dir.rglob("*#*")]
    for key in keys:
        try:
            _look_at(found, artifacts, key)
        except (ArtifactError, ValueError, KeyError) as error:
            found.damaged.append(f"{key}: {error}")
    found.old_scratch = unlocked_scratch(scratch_dir)
    found.log, found.tracebacks = read_log(log.read_text(errors="replace"))
    found.log = [one for one in found.log if only is None or one.job_id in only]
    return found


def read_log(text: str) -> tuple[list[Commit], list[str]]:
    """Claims and commits, and the last line of every traceback."""
    commits = []
    for line in text.splitlines():
        if match := _CLAIM.search(line):
            commits.append(Commit(match[1], int(match[2]), None, "claimed"))
        elif match := _COMMIT.search(line):
            commits.append(Commit(match[1], int(match[4]), int(match[2]), match[3]))
    return commits, re.findall(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)$", text, re.MULTILINE)


def unlocked_scratch(scratch_dir: Path) -> list[str]:
    """The scratch directories of workers that are gone."""
    return [path.name for path in (*scratch_dir.glob("worker-*"), *scratch_dir.glob("new-*")) if not _is_locked(path)]


def _is_locked(directory: Path) -> bool:
    """Whether a living worker has the scratch directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return True  # it was removed just now
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _keys(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "#" not in path.name]


def _look_at(found: Survey, artifacts: ArtifactStore, key: str) -> None:
    parts = key.split("/")
    match parts:
        case ["jobs", job_id, "spec.json"]:
            found.specs[job_id] = read_spec(artifacts.read(key)).idempotency_key_sha256
        case ["jobs", job_id, "result.json"]:
            result = records.read_document(artifacts, key)
            found.results[job_id] = str(result and result["status"])
        case [*_, records.MANIFEST]:
            manifest = records.read_document(artifacts, key) or {}
            for entry in _entries(manifest):
                records.file_path(artifacts, entry)
            if parts[0] == "jobs" and parts[2] == "snapshots":
                found.snapshots.setdefault(parts[1], []).append(int(parts[3]))
        case [*_, name] if name.endswith(".json"):
            records.read_document(artifacts, key)


def _entries(manifest: Json) -> list[Json]:
    """The files that a manifest names."""
    files = manifest.get("files") or {}
    return [entry for entry in files.values() if isinstance(entry, dict) and "key" in entry]
