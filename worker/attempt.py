"""One attempt at one job as the stores see it: what its worker reads, commits and reports under the epoch of its claim.

Every method that writes can be repeated after the store was away, and raises ``FencedError`` where the job is no longer ours.
"""

import logging
import time
from pathlib import Path
from typing import Any

from worker.amendments import amended, num_extensions
from worker.artifacts import ArtifactUnavailable, StoreFull
from worker.attempt_documents import DRAINED, choices, progress_documents, seconds_drained, without_gap
from worker.failpoints import failpoint
from worker.handover import legacy, trainer_job
from worker.job_artifacts import JobArtifacts
from worker.job_specs import JobSpec, TrainSpec
from worker.job_store import Commit, ExtendedMeanwhile, JobStore, LostAttempt
from worker.jobs import JobRecord, JobStatus, Phase, TerminalStatus, now_rfc3339
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
        self._extensions = 0
        self._config: dict[str, Any] | None = None
        self._rate: dict[str, Any] | None = None
        self._plan: list[dict[str, Any]] = []
        self._snapshots: dict[int, dict[str, Any]] = {}
        self._rows: list[Row] = []
        self._output: dict[str, Any] = {}
        self._num_reported_rows = 0
        self._warnings: list[str] = []  # not reported yet
        self._seconds_before, self._claimed_at = 0.0, time.monotonic()
        self._progress: Progress | None = None  # not reported yet
        self._phase: Phase | None = None  # not reported yet

    def trainer_job(self, *, checkpoint_seconds: float) -> TrainerJob:
        """What the trainer is to do, with local, verified files.

        Raises:
            ArtifactMissing, ArtifactDamaged: The spec, the dataset or what it needs of other jobs cannot be had.
        """
        amendments = self._artifacts.file_amendments(self._store)
        self._extensions = num_extensions(amendments)
        self._spec = spec = amended(self._artifacts.spec(), amendments)
        self._rate = self._artifacts.learning_rate()
        if isinstance(spec, TrainSpec) and self._rate is not None:  # an earlier attempt has found it
            spec = spec.with_max_lr(self._rate["max_lr"])
        dataset_path = self._artifacts.dataset_path(spec.dataset_id)
        left = legacy(self._artifacts, spec)
        self._warnings = list(dict.fromkeys([*self._warnings, *left.warnings]))  # what a try before a store was away found is told too
        return trainer_job(
            self._artifacts,
            spec,
            dataset_path=dataset_path,
            checkpoints=left.checkpoints,
            checkpoint_seconds=checkpoint_seconds,
            seconds_drained=seconds_drained(self._store.get(self._job_id)),
        )

    def recall(self) -> None:
        """Takes up what earlier attempts have left: their snapshots, and no more of their history than the checkpoint has."""
        self._snapshots = self._artifacts.snapshots()
        known = {manifest["cycle"] for manifest in self._store.snapshots(self._job_id)}
        best = best_snapshot(self._snapshots.values()) if self._snapshots else None
        for cycle in sorted(self._snapshots.keys() - known):  # by a worker that died then, or a server that has lost its latest writes
            commit = self._store.commit_snapshot(self._job_id, self._epoch, cycle, self._snapshots[cycle], best)
            self._ensure(commit != Commit.FENCED)
        self._ensure(self._store.reset_metrics(self._job_id, self._epoch, self._rows))
        self._num_reported_rows = len(self._rows)
        while self._warnings:
            self.report_warning(self._warnings[0])
            self._warnings.pop(0)

    def record_claim(self) -> None:
        """Makes the claim known to a database that will have lost its data."""
        record = self._store.get(self._job_id)
        if record is not None and record.epoch == self._epoch:
            fields = {"epoch": record.epoch, "attempt": record.attempt, "owner": record.owner, "at": now_rfc3339()}
            self._artifacts.put_attempt(fields | {"started_at": record.started_at, "seconds_run": self._seconds_before})

    def read_clock(self) -> None:
        """Reads how long the job has run before this attempt."""
        self._seconds_before = self._store.seconds_run(self._job_id)

    @property
    def seconds_run(self) -> float:
        """How long the job has run, in all its attempts."""
        return self._seconds_before + time.monotonic() - self._claimed_at

    @property
    def max_seconds(self) -> float | None:
        """How long the job may run; None as long as its spec was not read, or where it doesn't say."""
        return self._spec.max_seconds if self._spec is not None else None

    def check_dataset(self) -> None:
        """Returns if the data are still those that the job began with.

        Raises:
            ArtifactMissing, ArtifactDamaged: They are not: what was computed since the last look may be wrong.
        """
        if self._spec is not None:
            self._artifacts.check_dataset(self._spec.dataset_id)

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

    def renew_lease(self) -> bool:
        """Renews the lease; False where the job is no longer ours. Safe to call from another thread."""
        return self._store.beat(self._job_id, self._epoch, self._lease_ms).ours

    def check_ours(self) -> None:
        """Renews the lease.

        Raises:
            FencedError: The job is no longer ours.
        """
        self._ensure(self.renew_lease())

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
        self._ensure(self._artifacts.put_learning_rate(self._rate))
        failpoint("rate.stored")
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
        progress, event = progress_documents(self._progress) if self._progress else (None, None)
        if rows or phase or progress:
            self._ensure(self._store.report(self._job_id, self._epoch, progress=progress, event=event, phase=phase, metrics_rows=rows))
        self._num_reported_rows += len(rows)
        self._progress = self._phase = None

    def commit_snapshot(self, staged: SnapshotStaged, directory: Path) -> None:
        """Makes a snapshot durable, then visible, then removes the staged files.

        Raises:
            ArtifactMissing, ArtifactDamaged: The data that it was trained on are not the uploaded ones any more.
        """
        self.check_dataset()
        manifest = self._artifacts.put_snapshot(staged, directory)
        self._snapshots = dict(sorted((self._snapshots | {staged.cycle: manifest}).items()))  # one in the middle may have been lost
        best = best_snapshot(self._snapshots.values())
        commit = self._store.commit_snapshot(self._job_id, self._epoch, staged.cycle, manifest, best)
        failpoint("snapshot.committed")
        self._ensure(commit != Commit.FENCED)
        loss = staged.validation["loss"]
        logger.info("job %s: snapshot %d %s with epoch %d (validation loss %.4f)", self._job_id, staged.cycle, commit, self._epoch, loss)
        for file in (staged.weights, staged.outputs):
            (directory / file.name).unlink(missing_ok=True)

    def commit_checkpoint(self, staged: CheckpointStaged, directory: Path) -> None:
        """Makes a checkpoint durable, which ends the count of crashes, then removes the staged file.

        Raises:
            ArtifactMissing, ArtifactDamaged: The data that it was trained on are not the uploaded ones any more.
        """
        self.check_dataset()
        self.check_ours()  # it removes older checkpoints, which may be all that a later claim has
        num_snapshots = without_gap(self._snapshots)
        self._artifacts.put_checkpoint(staged, directory, num_snapshots=num_snapshots, seconds_run=self.seconds_run)
        self._ensure(self._store.report(self._job_id, self._epoch, checkpoint_step=staged.step))
        failpoint("checkpoint.reported")
        (directory / staged.file.name).unlink(missing_ok=True)

    def finish(self, status: TerminalStatus, *, failed: Failed | None = None, stop_reason: str | None = None) -> bool:
        """Ends the job. The result is stored first and create-once: if there is an earlier one, what that says holds.

        A job that has done all that was asked of it, while more cycles were asked for, goes back to the queue instead: False.
        """
        self.check_ours()
        record = self._store.get(self._job_id)
        self._ensure(record is None or record.epoch == self._epoch)
        extensions = record.extensions if record is not None else self._extensions
        if status is JobStatus.SUCCEEDED and stop_reason is None and extensions > self._extensions:
            self._ensure(self._store.release(self._job_id, self._epoch, "extended"))
            return False
        result = self._store_result(status, failed.model_dump(exclude={"type"}) if failed else None, stop_reason, record=record)
        stored_status: TerminalStatus = result["status"]
        end = {"error": result["error"], "stop_reason": result["stop_reason"], "extensions": result.get("extensions", 0)}
        try:
            self._ensure(self._store.finish(self._job_id, self._epoch, stored_status, **end))
        except ExtendedMeanwhile:
            return self.finish(status, failed=failed, stop_reason=stop_reason)
        failpoint("finish.recorded")
        return True

    def release(self) -> None:
        """Gives the job back: to the queue, or paused where that was asked."""
        self._ensure(self._store.release(self._job_id, self._epoch, DRAINED))
        failpoint("release.recorded")
        try:
            self._artifacts.file_amendments(self._store)
        except (ArtifactUnavailable, StoreFull) as error:
            logger.warning("job %s: that it is paused could not be stored; the reconciler will try again: %s", self._job_id, error)

    def lose(self, reason: str, *, max_crashes: int) -> LostAttempt:
        """Counts a crash; returns what has become of the job."""
        lost = self._store.fail_attempt(self._job_id, self._epoch, reason, max_crashes)
        failpoint("crash.recorded")
        return lost

    def _ensure(self, ours: bool) -> None:
        if not ours:
            raise FencedError(f"epoch {self._epoch} of {self._job_id} is over")

    def _store_result(
        self, status: TerminalStatus, error: dict[str, Any] | None, stop_reason: str | None, *, record: JobRecord | None
    ) -> dict[str, Any]:
        result = result_document(
            status,
            stop_reason=stop_reason,
            error=error,
            finished_at=now_rfc3339(),
            manifests=self._snapshots.values(),
            rows=self._rows,
            config=self._config,
            output=self._output | choices(self._spec, self._rate, self._plan),
            record=record,
            extensions=record.extensions if record is not None else self._extensions,
        )
        try:
            return self._artifacts.put_result(result)
        except (StoreFull, ArtifactUnavailable) as failure:
            if isinstance(failure, ArtifactUnavailable) and status != JobStatus.CANCELLED:
                raise  # who cancels doesn't wait for the store
            logger.exception("job %s: its result could not be stored; the reconciler will try again", self._job_id)
            return result
