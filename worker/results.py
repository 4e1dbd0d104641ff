"""What a job's snapshots and its end add up to: documents that several parts of the system write, each in one form."""

from collections.abc import Iterable, Sequence
from typing import Any

from worker.job_queries import METRIC_COLUMNS, JobQueries
from worker.jobs import JobRecord, JobStatus

SNAPSHOT_EVENT_FIELDS = ("cycle", "step", "epoch", "learning_rate", "is_minimum", "metrics", "ensemble")

LASTING = ("attempt", "epoch", "started_at", "training_started_at", "transitions")
"""Fields of the live record that a result keeps, for a database that has lost it."""

Json = dict[str, Any]


def snapshot_event(manifest: Json) -> Json:
    """The data of the event that makes a snapshot known."""
    return {"snapshot_id": manifest.get("id"), **{name: manifest[name] for name in SNAPSHOT_EVENT_FIELDS if name in manifest}}


def best_snapshot(manifests: Iterable[Json]) -> Json:
    """Cycle, id and metrics of the snapshot with the lowest validation loss; there must be one."""
    best = min(manifests, key=lambda manifest: manifest["metrics"]["validation"]["loss"])
    return {"cycle": best["cycle"], "snapshot_id": best["id"], "metrics": best["metrics"]}


def result_document(
    status: JobStatus,
    *,
    stop_reason: str | None,
    error: Json | None,
    finished_at: str | None,
    manifests: Iterable[Json],
    rows: Sequence[Sequence[float | None]],
    config: Json | None,
    output: Json,
    record: JobRecord | None = None,
    extensions: int = 0,
) -> Json:
    """What came of a job: the document that the artifact store keeps.

    Args:
        status: How it ended.
        stop_reason: Why it succeeded before its planned end.
        error: category, message and suggestion of a failure.
        finished_at: When it ended.
        manifests: Its snapshots, in the order of their cycles.
        rows: Its history, rows of METRIC_COLUMNS.
        config: The kind's configuration, resolved as far as it is known.
        output: What its kind is for besides snapshots.
        extensions: How many times the job had got more cycles until then.
        record: The live record, of which a rebuild wants to know more than the rest says.
    """
    manifests = list(manifests)
    return {
        "status": status,
        "stop_reason": stop_reason,
        "error": error,
        "finished_at": finished_at,
        "snapshots": [{"cycle": each["cycle"], "snapshot_id": each["id"], "metrics": each["metrics"]} for each in manifests],
        "ensemble": [each["ensemble"] for each in manifests],
        "manifests": manifests,  # whole, so that one that is lost comes back
        "history": {"columns": METRIC_COLUMNS, "rows": rows},
        "config": config,
        "output": output,
        "extensions": extensions,
        "record": None if record is None else {name: getattr(record, name) for name in LASTING},
    }


def result_of(store: JobQueries, record: JobRecord) -> Json:
    """What came of a job, from what Redis knows: for those that ended without a worker."""
    return result_document(
        record.status,
        stop_reason=record.stop_reason,
        error=record.error,
        finished_at=record.finished_at,
        manifests=store.snapshots(record.id),
        rows=store.metrics(record.id).rows,
        config=record.config,
        output={},  # only a worker has it
        extensions=record.extensions,
        record=record,
    )


def end_reason(status: JobStatus, error: Json | None, stop_reason: str | None) -> str:
    """The word for a job's end in its transitions and events."""
    return stop_reason or (error["category"] if error else "cancel" if status == JobStatus.CANCELLED else "completed")
