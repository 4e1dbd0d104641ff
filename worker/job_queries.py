"""What can be read of jobs: records, lists, snapshots, metrics and events."""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import orjson
import redis

from worker.ids import parse_snapshot_id
from worker.jobs import DEFAULT_TENANT, Action, JobKind, JobRecord, JobStatus, Phase, Priority, rfc3339
from worker.redis_connection import REPLY_SECONDS, Scripts, StoreUnavailable, translated_errors

METRIC_COLUMNS = ("step", "epoch", "cycle", "learning_rate", "train_loss")
"""Columns of the metric rows; the first one ascends."""

MAX_BLOCK_MS = int(REPLY_SECONDS * 500)
"""Longest wait for events in one call: well within the time after which a silent server counts as away."""

INCOMPLETE = "the jobs are being read back from the artifact store: repeat the request soon"

_PAGE = 500


class Page(NamedTuple):
    """Some jobs, and whether there are more in the direction of reading."""

    records: list[JobRecord]
    has_more: bool


class Metrics(NamedTuple):
    """Metric rows with the names of their columns."""

    columns: tuple[str, ...]
    rows: list[list[float | None]]


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; ``seq`` counts from 1 without gaps."""

    seq: int
    type: str
    at: str
    data: dict[str, Any]


class JobQueries:
    """The reading half of the job store."""

    def __init__(self, client: redis.Redis, *, prefix: str = "snapcycle:") -> None:
        self._redis = client
        self._prefix = prefix
        self._scripts = Scripts(client, prefix)

    def get(self, job_id: str) -> JobRecord | None:
        """The job as it is now; None where there is none of this id."""
        answer = self._scripts.run("get", job_id)
        return None if answer is None else job_record(*answer)

    def list(
        self,
        *,
        tenant: str | None = None,
        status: JobStatus | None = None,
        kind: JobKind | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page:
        """A page of jobs in the order of their ids, so of their creation.

        Args:
            tenant: Only this tenant's jobs.
            status: Only jobs in this state.
            kind: Only jobs of this kind.
            after: Only jobs that follow this id in the given order: the next page.
            before: Only jobs that precede it: the previous page. With both, those between, from ``after`` on.
            limit: Most jobs in the page.
            order: desc: newest first.
        """
        # Without a start, the page before an id is read from that id backwards, then turned round.
        backwards = before is not None and after is None
        descending = (order == "desc") != backwards
        first, last = (before, None) if backwards else (after, before)
        start, end = ("(" + bound if bound else None for bound in (first, last))
        lower, upper = (end or "-", start or "+") if descending else (start or "-", end or "+")
        found = self._scripts.run("list", tenant or "*", kind or "*", status or "*", lower, upper, int(descending), limit + 1)
        records = [job_record(*entry) for entry in found[:limit]]
        return Page(records[::-1] if backwards else records, len(found) > limit)

    def counts(self, *, tenant: str | None = None) -> dict[JobStatus, int]:
        """The number of jobs in each state, of one tenant or of all."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for status in JobStatus:
                pipeline.zcard(f"{self._prefix}jobs:{tenant or '*'}:*:{status}")
            return dict(zip(JobStatus, pipeline.execute(), strict=True))

    def num_queued(self, *, tenant: str | None = None) -> int:
        """The number of jobs that wait, of one tenant or of all; finds out, too, whether the server answers and has all jobs."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zcard(f"{self._prefix}jobs:{tenant or '*'}:*:{JobStatus.QUEUED}")
            pipeline.exists(f"{self._prefix}generation")
            num_jobs, is_complete = pipeline.execute()
        if not is_complete:
            raise StoreUnavailable(INCOMPLETE)
        return int(num_jobs)

    def requested_action(self, job_id: str) -> Action | None:
        """What someone asked of a running job; a cheap read, for polls between beats."""
        with translated_errors():
            requested = self._redis.hget(self._key(job_id), "requested")
        return Action(cast(str, requested)) if requested else None

    def seconds_run(self, job_id: str) -> float:
        """How long a job was running, in its earlier attempts together."""
        with translated_errors():
            return float(cast(str, self._redis.hget(self._key(job_id), "ran_ms") or "0")) / 1000

    def snapshots(self, job_id: str) -> builtins.list[dict[str, Any]]:
        """The manifests of the committed snapshots, in the order of their cycles."""
        manifests = cast(dict[str, str], self._find("HGETALL", self._key(job_id, "snapshots")))
        return [orjson.loads(manifests[cycle]) for cycle in sorted(manifests, key=int)]

    def snapshot(self, snapshot_id: str) -> dict[str, Any] | None:
        """The manifest of a committed snapshot; None where there is none of this id."""
        place = parse_snapshot_id(snapshot_id)
        if place is None:
            return None
        job_id, cycle = place
        manifest = self._find("HGET", self._key(job_id, "snapshots"), str(cycle))
        return cast(dict[str, Any], orjson.loads(manifest)) if manifest else None

    def metrics(self, job_id: str) -> Metrics:
        """The metric rows so far, by ascending step; NaN and infinities are None."""
        with translated_errors():
            rows = cast(builtins.list[str], self._redis.lrange(self._key(job_id, "metrics"), 0, -1))
        return Metrics(METRIC_COLUMNS, [orjson.loads(row) for row in rows])

    def events(self, job_id: str, after: int = 0, limit: int = 100, types: Sequence[str] | None = None) -> builtins.list[Event]:
        """The first ``limit`` events with a number > ``after``; of long jobs only the latest 2,000 are kept."""
        found: builtins.list[Event] = []
        while len(found) < limit:
            count = max(limit, _PAGE) if types else limit - len(found)
            with translated_errors():
                entries = cast(builtins.list[Any], self._redis.xrange(self._key(job_id, "events"), f"({after}-0", "+", count=count))
            events = [_event(*entry) for entry in entries]
            found += [event for event in events if types is None or event.type in types]
            if len(events) < count:
                break
            after = events[-1].seq
        return found[:limit]

    def wait_events(self, after: Mapping[str, int], block_ms: int) -> dict[str, builtins.list[Event]]:
        """The new events of several jobs, as soon as there are any; empty when ``block_ms`` or one second is over.

        Args:
            after: For each job the number of the last event that is known.
            block_ms: Time to wait; 0 doesn't wait.
        """
        if not after:
            return {}
        streams = {self._key(job_id, "events"): f"{seq}-0" for job_id, seq in after.items()}
        block = min(block_ms, MAX_BLOCK_MS) or None  # for Redis 0 would be for ever
        with translated_errors():
            answer = cast(Any, self._redis.xread(cast(Any, streams), count=_PAGE, block=block))
        by_stream = dict(answer or {})
        jobs = {self._key(job_id, "events"): job_id for job_id in after}
        return {jobs[stream]: [_event(*entry) for entry in entries] for stream, entries in by_stream.items()}

    def check_complete(self) -> None:
        """Returns if the server answers and the database has all jobs."""
        with translated_errors():
            is_complete = self._redis.exists(f"{self._prefix}generation")
        if not is_complete:
            raise StoreUnavailable(INCOMPLETE)

    def _find(self, *command: str) -> Any:
        """What a reading command finds.

        Raises:
            StoreUnavailable: It finds nothing, and the database is not complete (see prelude.lua).
        """
        with translated_errors(), self._redis.pipeline() as pipeline:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no types here
            pipeline.exists(f"{self._prefix}generation")
            found, is_complete = pipeline.execute()
        if not found and not is_complete:
            raise StoreUnavailable(INCOMPLETE)
        return found

    def _key(self, job_id: str, part: str | None = None) -> str:
        return f"{self._prefix}job:{job_id}" + (f":{part}" if part else "")


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    return Event(int(entry_id.partition("-")[0]), fields["type"], rfc3339(int(fields["at"])), orjson.loads(fields["data"]))


def job_record(flat_fields: list[str], transitions: list[str], num_before: int | None) -> JobRecord:
    """A job from what the scripts answer; every field that a new job doesn't have may be absent."""
    fields = dict(zip(flat_fields[::2], flat_fields[1::2], strict=True))

    def document(name: str) -> Any:
        return orjson.loads(fields[name]) if fields.get(name) else None

    def moment(name: str) -> str | None:
        return rfc3339(int(fields[name])) if name in fields else None

    return JobRecord(
        id=fields["id"],
        kind=JobKind(fields["kind"]),
        name=document("name"),
        status=JobStatus(fields["status"]),
        phase=Phase(fields["phase"]) if fields["phase"] else None,
        dataset_id=fields["dataset_id"],
        metadata=document("metadata"),
        config=document("config"),
        progress=document("progress"),
        created_at=fields["created_at"],
        tenant=fields.get("tenant", DEFAULT_TENANT),
        priority=Priority(fields.get("priority", Priority.NORMAL)),
        parent_id=fields.get("parent_id"),
        max_lr_from=fields.get("max_lr_from"),
        started_at=moment("started_at"),
        training_started_at=moment("training_started_at"),
        finished_at=moment("finished_at"),
        epoch=int(fields.get("epoch", 0)),
        attempt=int(fields.get("attempt", 0)),
        crashes=int(fields.get("crashes", 0)),
        owner=fields.get("owner"),
        position=None if num_before is None else num_before + 1,
        snapshot_count=int(fields.get("snapshot_count", 0)),
        best=document("best"),
        error=document("error"),
        stop_reason=fields.get("stop_reason"),
        extensions=int(fields.get("extensions", 0)),
        requested_action=Action(fields["requested"]) if "requested" in fields else None,
        transitions=[{**change, "at": rfc3339(int(change["at"]))} for change in map(orjson.loads, transitions)],
    )
