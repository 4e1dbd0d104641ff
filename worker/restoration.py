"""How a database that has lost its data gets its jobs back; worker.rebuild reads them from the artifact store."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import orjson

from worker.job_specs import JobSpec
from worker.jobs import IDEMPOTENCY_SECONDS, JobStatus
from worker.redis_connection import Scripts
from worker.results import best_snapshot, end_reason, snapshot_event

Json = dict[str, Any]


@dataclass(frozen=True)
class StoredJob:
    """What the artifact store has of a job.

    Attributes:
        spec: The job as it was accepted.
        result: What came of it; None where it has not ended.
        manifests: Its snapshots, in the order of their cycles.
        checkpoint_step: Steps that its newest checkpoint has completed.
    """

    spec: JobSpec
    result: Json | None
    manifests: Sequence[Json]
    checkpoint_step: int

    @property
    def rows(self) -> list[list[float | None]]:
        """Its history, which for a job that has not ended comes from the checkpoint when it resumes."""
        return cast("list[list[float | None]]", (self.result or {}).get("history", {}).get("rows", []))

    def progress(self) -> Json:
        """How far it had come, as far as that is stored."""
        step = max([self.checkpoint_step, *(manifest["step"] for manifest in self.manifests), *(row[0] or 0 for row in self.rows[-1:])])
        progress = self.spec.progress_at(int(step))
        return progress | ({"cycle": min(len(self.manifests), progress["cycles"] - 1)} if progress["cycles"] else {})


class Restoration:
    """The part of the job store that brings jobs back."""

    _scripts: Scripts

    def begin_rebuild(self) -> str | None:
        """The token with which jobs can be restored, until someone else has a later one; None where nothing is lost."""
        token = secrets.token_hex(8)
        return token if self._scripts.run("begin_rebuild", token) else None

    def restore(self, token: str, job: StoredJob) -> Literal["restored", "exists", "void"]:
        """Makes a job's record anew: ended, or queued at its old place. void: the token is out of date."""
        spec, result = job.spec, job.result or {}
        error, stop_reason = result.get("error"), result.get("stop_reason")
        fields = spec.record_fields() | {"snapshot_count": str(len(job.manifests)), "progress": _json(job.progress())}
        fields |= {name: _json(value) for name, value in (("config", result.get("config")), ("error", error)) if value is not None}
        if job.manifests:
            fields["best"] = _json(best_snapshot(job.manifests))
        if stop_reason is not None:
            fields["stop_reason"] = stop_reason
        flat = [text for pair in fields.items() for text in pair]
        snapshots = [(str(each["cycle"]), _json(each), _json(snapshot_event(each))) for each in job.manifests]
        status = JobStatus(result["status"]) if result else None
        outcome: Literal["restored", "exists", "void"] = self._scripts.run(
            "restore",
            token,
            spec.id,
            spec.kind,
            spec.dataset_id,
            _unix_ms(spec.created_at),
            spec.idempotency_key_sha256 or "",
            spec.body_sha256,
            IDEMPOTENCY_SECONDS * 1000,
            status or "",
            end_reason(status, error, stop_reason) if status else "",
            _unix_ms(result.get("finished_at") or spec.created_at),
            "\n".join(map(_json, job.rows)),
            int(spec.waits_for_runs),
            len(flat),
            *flat,
            *(text for snapshot in snapshots for text in snapshot),
        )
        return outcome

    def end_rebuild(self, token: str) -> bool:
        """Declares the database complete; False where the token is out of date."""
        return bool(self._scripts.run("end_rebuild", token))


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _unix_ms(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
