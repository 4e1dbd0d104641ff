"""One attempt at one job as the stores see it: what its worker reads, commits and reports under the epoch of its claim.

Every method that writes can be repeated after the store was away, and raises ``FencedError`` where the job is no longer ours.
"""

import logging
from pathlib import Path
from typing import Any

from worker.artifacts import ArtifactUnavailable, StoreFull
from worker.job_artifacts import JobArtifacts
from worker.job_specs import JobSpec, TrainSpec
from worker.job_store import Commit, JobStore, LostAttempt
from worker.jobs import JobStatus, Phase, TerminalStatus, now_rfc3339
from worker.protocol import (
    CheckpointStaged,
    Failed,
    HistoryRows,
    PhaseEntered,
    Progress,
    RateFound,
    Replanned,
    ResultStaged,
    RolledBack,
    Row,
    SnapshotStaged,
    Started,
    TrainerJob,
)
from worker.results import best_snapshot, result_document

logger = logging.getLogger(__name__)


MOMENTARY = ("learning_rate", "train_loss", "phase_fraction")
"""Members of a progress event that the record's progress lacks."""


class FencedError(Exception):
    """The job belongs to a later claim, or to none."""


class Attempt:
    """What is known of the job, how much of it the job store knows, and the ways to tell it more."""

    def __init__(self, store: JobStore, artifacts: JobArtifacts, job_id: str, epoch: int, *, lease_ms: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._job_id = job_id
        self._epoch = epoch
        self._lease_ms = lease_ms
        self._spec: JobSpec | None = None
        self._config: dict[str, Any] | None = None
        self._rate: dict[str, Any] | None = None
        self._plan: list[dict[str, Any]] = []
        self._snapshots: dict[int, dict[str, Any]] = {}
        self._rows: list[Row] = []
        self._output: dict[str, Any] = {}
        self._num_reported_rows = 0
        self._progress: Progress | None = None  # not reported yet
        self._phase: Phase | None = None  # not reported yet

    def trainer_job(self, *, checkpoint_seconds: float) -> TrainerJob:
        """What the trainer is to do, with local, verified files.

        Raises:
            ArtifactMissing, ArtifactDamaged: The spec, the dataset or what it needs of other jobs cannot be had.
        """
        self._spec = spec = self._artifacts.spec()
        self._rate = self._artifacts.learning_rate()
        if isinstance(spec, TrainSpec) and self._rate is not None:  # an earlier attempt has found it
            spec = spec.with_max_lr(self._rate["max_lr"])
        dataset_path = self._artifacts.dataset_path(spec.dataset_id)
        checkpoint_path = self._artifacts.checkpoint_path()
        inputs = self._artifacts.inputs(spec)
        return TrainerJob(
            spec=spec,
            dataset_path=str(dataset_path),
            checkpoint_path=str(checkpoint_path) if checkpoint_path else None,
            checkpoint_seconds=checkpoint_seconds,
            files={name: str(path) for name, path in inputs.files.items()},
            documents=inputs.documents,
        )

    def recall(self) -> None:
        """Takes up what earlier attempts have left: their snapshots, and no more of their history than the checkpoint has."""
        self._snapshots = self._artifacts.snapshots()
        self._ensure(self._store.reset_metrics(self._job_id, self._epoch, self._rows))
        self._num_reported_rows = len(self._rows)

    def note_start(self, started: Started) -> None:
        """Remembers where the trainer begins."""
        self._config = started.config
        self._rows = list(started.rows)
        self._plan = list(started.plan)

    def note(self, news: PhaseEntered | Progress | HistoryRows | ResultStaged) -> None:
        """Remembers what waits for ``report_news`` and, of the result, for ``finish``."""
        match news:
            case PhaseEntered():
                self._phase = news.phase
            case Progress():
                self._progress = news
            case HistoryRows():
                self._rows += news.rows
            case ResultStaged():
                self._output |= news.document

    def note_rollback(self, rolled_back: RolledBack) -> None:
        """Remembers that the history has become shorter, for ``report_rollback``."""
        self._rows = list(rolled_back.rows)

    def note_plan(self, replanned: Replanned) -> None:
        """Remembers a change of plan, for ``finish``."""
        self._plan.append(replanned.model_dump(mode="json", exclude={"type"}))

    @property
    def has_nothing(self) -> bool:
        """Whether the job has made nothing that would be kept."""
        return not self._snapshots and not self._output

    def check_ours(self) -> None:
        """Renews the lease."""
        self._ensure(self._store.beat(self._job_id, self._epoch, self._lease_ms).ours)

    def report_first_step(self, phase: Phase) -> None:
        """Tells that the work has begun, and the resolved config."""
        self._ensure(self._store.report(self._job_id, self._epoch, phase=phase, training_started=True, resolved_config=self._config))

    def report_warning(self, message: str) -> None:
        """Tells what the owner of the job ought to know."""
        logger.warning("job %s: %s", self._job_id, message)
        self._ensure(self._store.report(self._job_id, self._epoch, event=("warning", {"message": message})))

    def report_rollback(self, message: str) -> None:
        """Tells that a cycle is repeated, and takes its rows back."""
        self._ensure(self._store.reset_metrics(self._job_id, self._epoch, self._rows))
        self._num_reported_rows = len(self._rows)
        self.report_warning(message)

    def commit_rate(self, found: RateFound) -> None:
        """Makes the rate that the job has found durable, then tells it, and the config that has it."""
        self.check_ours()
        self._rate = found.model_dump(mode="json", include={"max_lr", "epochs", "result"})
        self._config = found.config
        self._artifacts.put_learning_rate(self._rate)
        event = ("learning_rate", self._rate)
        self._ensure(self._store.report(self._job_id, self._epoch, event=event, resolved_config=self._config))

    def report_plan(self, replanned: Replanned) -> None:
        """Tells a change of plan."""
        event = ("plan", replanned.model_dump(mode="json", exclude={"type"}))
        self._ensure(self._store.report(self._job_id, self._epoch, event=event))

    def report_news(self, *, is_stopping: bool) -> None:
        """Tells the latest progress, phase and rows, if there are any; a job that is stopping stays in that phase."""
        rows = self._rows[self._num_reported_rows :]
        phase = None if is_stopping else self._phase
        progress, event = _progress_documents(self._progress) if self._progress else (None, None)
        if rows or phase or progress:
            self._ensure(self._store.report(self._job_id, self._epoch, progress=progress, event=event, phase=phase, metrics_rows=rows))
        self._num_reported_rows += len(rows)
        self._progress = self._phase = None

    def commit_snapshot(self, staged: SnapshotStaged, directory: Path) -> None:
        """Makes a snapshot durable, then visible, then removes the staged files."""
        manifest = self._artifacts.put_snapshot(staged, directory, check_ours=self.check_ours)
        self._snapshots[staged.cycle] = manifest
        best = best_snapshot(self._snapshots.values())
        commit = self._store.commit_snapshot(self._job_id, self._epoch, staged.cycle, manifest, best)
        self._ensure(commit != Commit.FENCED)
        logger.info("job %s: snapshot %d %s (validation loss %.4f)", self._job_id, staged.cycle, commit, staged.validation["loss"])
        for file in (staged.weights, staged.outputs):
            (directory / file.name).unlink(missing_ok=True)

    def commit_checkpoint(self, staged: CheckpointStaged, directory: Path) -> None:
        """Makes a checkpoint durable, which ends the count of crashes, then removes the staged file."""
        self.check_ours()  # it removes older checkpoints, which may be all that a later claim has
        self._artifacts.put_checkpoint(staged, directory)
        self._ensure(self._store.report(self._job_id, self._epoch, checkpoint_step=staged.step))
        (directory / staged.file.name).unlink(missing_ok=True)

    def finish(self, status: TerminalStatus, *, failed: Failed | None = None, stop_reason: str | None = None) -> None:
        """Ends the job. The result is stored first and create-once: if there is an earlier one, what that says holds."""
        self.check_ours()
        result = self._store_result(status, failed.model_dump(exclude={"type"}) if failed else None, stop_reason)
        stored_status: TerminalStatus = result["status"]
        self._ensure(self._store.finish(self._job_id, self._epoch, stored_status, error=result["error"], stop_reason=result["stop_reason"]))

    def release(self) -> None:
        """Gives the job back to the queue."""
        self._ensure(self._store.release(self._job_id, self._epoch, "drained"))

    def lose(self, reason: str, *, max_crashes: int) -> LostAttempt:
        """Counts a crash; returns what has become of the job."""
        return self._store.fail_attempt(self._job_id, self._epoch, reason, max_crashes)

    def _ensure(self, ours: bool) -> None:
        if not ours:
            raise FencedError(f"epoch {self._epoch} of {self._job_id} is over")

    def _store_result(self, status: TerminalStatus, error: dict[str, Any] | None, stop_reason: str | None) -> dict[str, Any]:
        result = result_document(
            status,
            stop_reason=stop_reason,
            error=error,
            finished_at=now_rfc3339(),
            manifests=self._snapshots.values(),
            rows=self._rows,
            config=self._config,
            output=self._output | self._choices(),
        )
        try:
            return self._artifacts.put_result(result)
        except (StoreFull, ArtifactUnavailable) as failure:
            if isinstance(failure, ArtifactUnavailable) and status != JobStatus.CANCELLED:
                raise  # who cancels doesn't wait for the store
            logger.exception("job %s: its result could not be stored; the reconciler will try again", self._job_id)
            return result

    def _choices(self) -> dict[str, Any]:
        """What a training job has decided on the way: its highest rate, and its changes of plan."""
        if not isinstance(self._spec, TrainSpec):
            return {}
        rate = self._rate
        if self._spec.max_lr_from is not None:
            rate = {"max_lr": self._spec.config.schedule.max_lr, "from_job": self._spec.max_lr_from}
        return {"learning_rate": rate, "plan": self._plan}


def _progress_documents(progress: Progress) -> tuple[dict[str, Any], tuple[str, dict[str, Any]]]:
    """The record's progress, and the event, which has besides what holds for that moment alone."""
    data = progress.model_dump(exclude={"type"}) | {"fraction": progress.step / progress.steps if progress.steps else 0.0}
    return {name: value for name, value in data.items() if name not in MOMENTARY}, ("progress", data)
