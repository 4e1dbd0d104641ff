"""How a database that has lost its data gets its jobs back; worker.rebuild reads them from the artifact store."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import orjson
import redis

from worker.amendments import Amendment, AmendmentKind, is_paused, num_extensions
from worker.job_specs import JobSpec, TrainSpec
from worker.jobs import IDEMPOTENCY_SECONDS, JobStatus
from worker.redis_connection import Scripts, translated_errors
from worker.results import best_snapshot, end_reason, snapshot_event

Json = dict[str, Any]


@dataclass(frozen=True)
class Past:
    """What is known of a job's attempts; transitions are those before its end, oldest first."""

    attempt: int = 0
    epoch: int = 0
    started_at: str | None = None
    training_started_at: str | None = None
    transitions: Sequence[Json] = ()
    seconds_run: float = 0.0

    def fields(self) -> dict[str, str]:
        """Its part of the live record."""
        moments = {"started_at": self.started_at, "training_started_at": self.training_started_at}
        numbers = {"attempt": self.attempt, "epoch": self.epoch, "ran_ms": int(1000 * self.seconds_run)}
        known = {name: str(number) for name, number in numbers.items() if number}
        return known | {name: str(_unix_ms(at)) for name, at in moments.items() if at is not None}


NOTHING_PAST = Past()


@dataclass(frozen=True)
class StoredJob:
    """What the artifact store has of a job.

    Attributes:
        spec: The job as it was accepted.
        result: What came of it; None where it has not ended.
        manifests: Its snapshots, in the order of their cycles.
        checkpoint_step: Steps that its newest checkpoint has completed.
        amendments: What was changed about it since; ``spec`` has them already.
        past: What is known of its attempts.
        rate: The highest rate that it has found for itself, with the range test.
    """

    spec: JobSpec
    result: Json | None
    manifests: Sequence[Json]
    checkpoint_step: int
    amendments: Sequence[Amendment] = ()
    past: Past = NOTHING_PAST
    rate: Json | None = None

    @property
    def rows(self) -> list[list[float | None]]:
        """Its history, which for a job that has not ended comes from the checkpoint when it resumes."""
        return cast("list[list[float | None]]", (self.result or {}).get("history", {}).get("rows", []))

    def config(self) -> Json | None:
        """The configuration as far as it was resolved: the result's, or the spec's with the rate that the job has found."""
        if self.result is not None and self.result.get("config") is not None:
            return dict(self.result["config"])
        if isinstance(self.spec, TrainSpec) and self.rate is not None:
            return dict(self.spec.with_max_lr(self.rate["max_lr"]).model_dump(mode="json")["config"])
        return None

    def earlier(self) -> list[tuple[str, str, str]]:
        """What restore.lua is told of the time before the snapshots: transitions, the latest first, and the rate that was found."""
        told = [("transition", _json({**each, "at": _unix_ms(each["at"])}), "") for each in reversed(self.past.transitions)]
        return told + ([("event", "learning_rate", _json(self.rate))] if self.rate is not None else [])

    def plan_events(self) -> list[tuple[str, str, str]]:
        """The changes of plan that the result tells of, as events."""
        return [("event", "plan", _json(change)) for change in (self.result or {}).get("output", {}).get("plan") or ()]

    def progress(self) -> Json:
        """How far it had come, as far as that is stored."""
        step = max([self.checkpoint_step, *(manifest["step"] for manifest in self.manifests), *(row[0] or 0 for row in self.rows[-1:])])
        progress = self.spec.progress_at(int(step))
        return progress | ({"cycle": min(len(self.manifests), progress["cycles"] - 1)} if progress["cycles"] else {})


class Restoration:
    """The part of the job store that brings jobs back."""

    _scripts: Scripts
    _redis: redis.Redis
    _prefix: str

    def begin_rebuild(self) -> str | None:
        """The token with which jobs can be restored, until someone else has a later one; None where nothing is lost."""
        token = secrets.token_hex(8)
        return token if self._scripts.run("begin_rebuild", token) else None

    def restore(self, token: str, job: StoredJob) -> Literal["restored", "exists", "void"]:
        """Makes a job's record anew: ended, paused, or queued at its old place. void: the token is out of date."""
        spec, result = job.spec, job.result or {}
        error, stop_reason = result.get("error"), result.get("stop_reason")
        fields = spec.record_fields() | {"snapshot_count": str(len(job.manifests)), "progress": _json(job.progress())}
        fields |= {name: _json(value) for name, value in (("config", job.config()), ("error", error)) if value is not None}
        fields |= job.past.fields()
        if job.manifests:
            fields["best"] = _json(best_snapshot(job.manifests))
        if stop_reason is not None:
            fields["stop_reason"] = stop_reason
        if extensions := num_extensions(job.amendments):
            fields["extensions"] = str(extensions)
        if any(each.kind is AmendmentKind.RESUMED for each in job.amendments) and not is_paused(job.amendments):
            fields["resumed"] = "1"
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
            int(is_paused(job.amendments) and status is None),
            max(_unix_ms(spec.created_at), *(each.at for each in job.amendments if each.kind is not AmendmentKind.PAUSED), 0),
            "\n".join(each.model_dump_json(exclude_none=True) for each in job.amendments),
            len(flat),
            *flat,
            *(text for entry in (*job.earlier(), *snapshots, *job.plan_events()) for text in entry),
        )
        return outcome

    def end_rebuild(self, token: str) -> bool:
        """Declares the database complete; False where the token is out of date."""
        return bool(self._scripts.run("end_rebuild", token))

    def server_life(self) -> str:
        """A word that is another one after each start of the server, and on each replica that takes its place."""
        with translated_errors():
            return str(self._redis.info("server")["run_id"])

    def doubt(self) -> str | None:
        """Declares a complete database incomplete: until the end of the rebuild it answers for no job that it lacks.

        Returns:
            The token of a rebuild of the jobs that are known to be missing; None where it wasn't complete, so any may be.
        """
        token = secrets.token_hex(8)
        return token if self._scripts.run("doubt", token) else None

    def submission_of(self, submission: tuple[str, str]) -> str | None:
        """The job that stands for a submission's tenant and hashed Idempotency-Key; None where there is none.

        Other than ``find_submission`` it also answers while jobs are read back.
        """
        with translated_errors():
            job_id = cast("str | None", self._redis.hget(f"{self._prefix}idempotency:{':'.join(submission)}", "job"))
            return job_id if job_id is not None and self._redis.exists(f"{self._prefix}job:{job_id}") else None


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _unix_ms(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
