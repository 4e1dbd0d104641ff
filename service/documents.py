"""What the stores hold, as the documents that the API sends."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clr.datasets import Dataset as LoadedDataset
from service.ensembles import member_snapshots
from service.schemas import Dataset, Ensemble, Job, Queue, Snapshot
from worker.ids import ensemble_id_of
from worker.jobs import JobKind, JobRecord, JobStatus, Phase, allowed_actions

Json = dict[str, Any]


def job_document(record: JobRecord) -> Job:
    """A job's record as its document."""
    path = f"/v1/jobs/{record.id}"
    ensemble_id = ensemble_id_of(record.id) if record.kind is JobKind.TRAIN else None
    queue = None
    if record.phase is Phase.WAITING_FOR_RUNS:
        queue = Queue(position=None, reason="waiting for its own runs to end")
    elif record.status is JobStatus.QUEUED and record.position is not None:
        ahead = record.position - 1
        queue = Queue(position=record.position, reason="waiting for a worker" if ahead == 0 else f"{ahead} jobs are before it")
    return Job(
        id=record.id,
        kind=record.kind,
        name=record.name,
        priority=record.priority,
        status=record.status,
        phase=record.phase,
        terminal=record.status.is_terminal,
        progress=record.progress,
        queue=queue,
        snapshot_count=record.snapshot_count,
        ensemble_id=ensemble_id,
        best=record.best,
        error=record.error,
        stop_reason=record.stop_reason,
        requested_action=record.requested_action,
        allowed_actions=list(allowed_actions(record)),
        dataset_id=record.dataset_id,
        parent_id=record.parent_id,
        max_lr_from=record.max_lr_from,
        attempt=record.attempt,
        created_at=record.created_at,
        started_at=record.started_at,
        training_started_at=record.training_started_at,
        finished_at=record.finished_at,
        transitions=record.transitions,
        config=record.config,
        metadata=record.metadata,
        links={
            "self": path,
            "events": f"{path}/events",
            "metrics": f"{path}/metrics",
            "result": f"{path}/result",
            "snapshots": f"{path}/snapshots",
            "figures": f"{path}/figures",
            "dataset": f"/v1/datasets/{record.dataset_id}",
            **({"ensemble": f"/v1/ensembles/{ensemble_id}"} if ensemble_id else {}),
            **({"parent": f"/v1/jobs/{record.parent_id}"} if record.parent_id else {}),
            **({"range_test": f"/v1/jobs/{record.max_lr_from}"} if record.max_lr_from else {}),
        },
    )


def snapshot_document(manifest: Mapping[str, Any]) -> Snapshot:
    """A snapshot's manifest as its document; where its files lie stays inside."""
    weights = manifest["files"]["weights"]
    path = f"/v1/snapshots/{manifest['id']}"
    return Snapshot(
        id=manifest["id"],
        job_id=manifest["job_id"],
        cycle=manifest["cycle"],
        epoch=manifest["epoch"],
        step=manifest["step"],
        learning_rate=manifest["learning_rate"],
        next_learning_rate=manifest["next_learning_rate"],
        is_minimum=manifest["is_minimum"],
        metrics=manifest["metrics"],
        ensemble=manifest.get("ensemble"),
        size_bytes=weights["size_bytes"],
        sha256=weights["sha256"],
        format="safetensors",
        created_at=manifest["created_at"],
        links={"self": path, "weights": f"{path}/weights", "job": f"/v1/jobs/{manifest['job_id']}"},
    )


def dataset_document(manifest: Mapping[str, Any]) -> Dataset:
    """A dataset's manifest as its document."""
    path = f"/v1/datasets/{manifest['id']}"
    summary = manifest["summary"]
    return Dataset(
        id=manifest["id"],
        name=manifest["name"],
        status="ready",
        task=summary["task"],
        rows=summary["rows"],
        test_rows=summary["test_rows"],
        sha256=summary["sha256"],
        size_bytes=manifest["files"]["data"]["size_bytes"],
        source=manifest["source"],
        summary=summary,
        created_at=manifest["created_at"],
        metadata=manifest["metadata"],
        links={"self": path, "preview": f"{path}/preview"},
    )


def job_ensemble_document(record: JobRecord, snapshots: Sequence[Mapping[str, Any]], dataset: LoadedDataset | None) -> Ensemble:
    """The ensemble that a job's snapshots make, with its metrics after each of them."""
    ensemble_id = ensemble_id_of(record.id)
    members = [snapshot["id"] for snapshot in member_snapshots(snapshots)]
    left_out = [snapshot["id"] for snapshot in snapshots if snapshot["id"] not in members]
    return Ensemble(
        id=ensemble_id,
        name=record.name,
        job_id=record.id,
        version=len(snapshots),
        members=members,
        left_out=left_out,
        left_out_reason=((snapshots[-1].get("ensemble") or {}).get("reason") or None) if left_out else None,
        versions=[{"version": index + 1, **snapshot["ensemble"]} for index, snapshot in enumerate(snapshots) if snapshot.get("ensemble")],
        **_described(dataset),
        created_at=record.created_at,
        metadata=record.metadata,
        links={"self": f"/v1/ensembles/{ensemble_id}", "predict": f"/v1/ensembles/{ensemble_id}/predict", "job": f"/v1/jobs/{record.id}"},
    )


def chosen_ensemble_document(stored: Mapping[str, Any]) -> Ensemble:
    """An ensemble that was put together by hand, from its object in the artifact store."""
    path = f"/v1/ensembles/{stored['id']}"
    members = [snapshot["id"] for snapshot in stored["snapshots"]]
    return Ensemble(
        id=stored["id"],
        name=stored["name"],
        job_id=None,
        version=1,
        members=members,
        left_out=[],
        left_out_reason=None,
        versions=[{"version": 1, "members": len(members)}],
        **stored["described"],
        created_at=stored["created_at"],
        metadata=stored["metadata"],
        links={"self": path, "predict": f"{path}/predict"},
    )


def _described(dataset: LoadedDataset | None) -> Json:
    if dataset is None:
        return {"task": None, "input_shape": None, "class_names": None, "columns": None}
    return {
        "task": dataset.task.value,
        "input_shape": list(dataset.input_shape),
        "class_names": list(dataset.class_names),
        "columns": [column.name for column in dataset.columns],
    }


def list_bounds(ids: Iterable[str | int]) -> dict[str, str | None]:
    """first_id and last_id of a page."""
    found = [str(identifier) for identifier in ids]
    return {"first_id": found[0], "last_id": found[-1]} if found else {"first_id": None, "last_id": None}
