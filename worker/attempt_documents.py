"""What an attempt computes from what it knows, without any store: documents, counts, sums."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from worker.job_specs import JobSpec, TrainSpec
from worker.jobs import JobRecord, JobStatus
from worker.protocol import Progress

DRAINED = "drained"
"""Reason of the transition back to the queue after a clean checkpoint."""

MOMENTARY = ("learning_rate", "train_loss", "phase_fraction")
"""Members of a progress event that the record's progress lacks."""


def without_gap(snapshots: Mapping[int, object]) -> int:
    """How many snapshots there are from cycle 0 on, up to the first that is missing."""
    return next(cycle for cycle in range(len(snapshots) + 1) if cycle not in snapshots)


def seconds_drained(record: JobRecord | None) -> float:
    """How long the job ran in attempts that ended because they were asked to: their work was not lost by a fault."""
    changes = record.transitions if record is not None else []
    return sum(
        (datetime.fromisoformat(end["at"]) - datetime.fromisoformat(begin["at"])).total_seconds()
        for begin, end in pairwise(changes)
        if begin["to"] == JobStatus.RUNNING and (end["reason"] == DRAINED or end["to"] == JobStatus.PAUSED)
    )


def progress_documents(progress: Progress) -> tuple[dict[str, Any], tuple[str, dict[str, Any]]]:
    """The record's progress, and the event, which has besides what holds for that moment alone."""
    data = progress.model_dump(exclude={"type"}) | {"fraction": progress.step / progress.steps if progress.steps else 0.0}
    return {name: value for name, value in data.items() if name not in MOMENTARY}, ("progress", data)


def choices(spec: JobSpec | None, rate: dict[str, Any] | None, plan: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a training job has decided on the way: its highest rate, and its changes of plan. Nothing for other kinds."""
    if not isinstance(spec, TrainSpec):
        return {}
    if spec.max_lr_from is not None:
        rate = {"max_lr": spec.config.schedule.max_lr, "from_job": spec.max_lr_from}
    return {"learning_rate": rate, "plan": plan}
