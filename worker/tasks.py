"""The worker process: a Celery worker whose one task supervises one job at a time, with the threads that keep it and its jobs alive.

Nothing here imports torch: the worker stays small and quick to answer, and CUDA is the trainers' alone.
"""

import logging
import os
import signal
import socket
import time
import warnings
from contextlib import suppress
from functools import partial
from threading import Event, Thread
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning

from worker import failpoints
from worker.artifacts import ArtifactStore
from worker.celery_app import KEY_PREFIX, TASK_NAME, create_celery, publish
from worker.fleet import QUEUE
from worker.ids import new_word, worker_id_of
from worker.job_store import JobStore, StoreUnavailable, connect
from worker.jobs import now_rfc3339
from worker.reconciler import run_reconciler
from worker.redis_connection import translated_errors
from worker.sandbox import Bounds, machine_memory_bytes
from worker.settings import Settings
from worker.studies import advance_study_of
from worker.supervisor import Bench, Outcome, supervise
from worker.trainer_process import ScratchDirectory, TrainerProcess, WarmTrainers

logger = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 5
DEAF_SECONDS = 60
"""A worker that is idle for so long beside a queue that is not empty hears nothing any more (celery#8030, #9054 and others)."""


def run_worker(settings: Settings, device: str | None = None, *, word: str | None = None) -> int:
    """Runs a worker in this process until it is told to stop, and returns the exit status.

    Args:
        settings: The settings.
        device: Where its trainers train, in place of the settings' device.
        word: That of its launcher, which can then tell its id; None: a new one.
    """
    # It says that root must not run a worker that unpickles messages; ours reads JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    celery_worker = worker_app(settings, device, word=word).Worker(
        hostname=f"worker-{os.getpid()}@{socket.gethostname()}",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    celery_worker.start()
    return int(celery_worker.exitcode or 0)


def worker_app(settings: Settings, device: str | None = None, *, word: str | None = None) -> Celery:
    """A Celery application that becomes a worker where Celery starts one with it."""
    failpoints.arm(settings.failpoints)
    app = create_celery(settings)
    worker = _Worker(settings, app, device or settings.device, word or new_word())
    app.task(name=TASK_NAME)(worker.run)
    # Celery keeps weak references to receivers by default.
    signals.setup_logging.connect(worker.set_logging_up, weak=False)
    signals.worker_init.connect(worker.prepare, weak=False)
    signals.worker_ready.connect(worker.announce, weak=False)
    signals.worker_shutting_down.connect(worker.start_draining, weak=False)
    signals.worker_shutdown.connect(worker.shut_down, weak=False)
    return app


def bounds_of(settings: Settings) -> Bounds:
    """What a trainer may take of this machine."""
    return Bounds(
        memory_bytes=settings.trainer_memory_bytes or machine_memory_bytes(),
        file_bytes=settings.trainer_file_bytes,
        user_id=settings.trainer_user_id,
    )


class _Worker:
    """One worker process between its start and its end."""

    def __init__(self, settings: Settings, app: Celery, device: str, word: str) -> None:
        self._settings = settings
        self._app = app
        self._device = device
        self._id = worker_id_of(os.getpid(), word)
        self._redis = connect(settings)
        self._store = JobStore(self._redis)
        self._publish = partial(publish, app)
        self._is_draining = False
        self._job_id: str | None = None
        self._queue_waits_since: float | None = None
        self._stop = Event()
        self._threads: list[Thread] = []

    def set_logging_up(self, **_: Any) -> None:
        """Logs in one format; Celery leaves logging alone where this signal has a receiver."""
        logging.basicConfig(level=self._settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def prepare(self, **_: Any) -> None:
        """Opens what jobs need and warms a trainer up, while Celery still connects."""
        settings = self._settings
        bounds = bounds_of(settings)
        self._scratch = ScratchDirectory(settings.staging_dir, trainers_have_own_user=bounds.user_id is not None)
        self._trainers = WarmTrainers(partial(TrainerProcess.spawn, self._scratch.path, device=self._device, bounds=bounds))
        self._trainers.warm()
        self._artifacts = ArtifactStore.open(settings.artifacts_url)
        self._bench = Bench(
            worker_id=self._id,
            store=self._store,
            artifacts=self._artifacts,
            trainers=self._trainers,
            publish=self._publish,
            is_draining=lambda: self._is_draining,
            lease_seconds=settings.lease_seconds,
            beat_seconds=settings.beat_seconds,
            checkpoint_seconds=settings.checkpoint_seconds,
            drain_seconds=settings.drain_seconds,
            max_crashes=settings.max_crashes,
            stall_seconds=settings.stall_seconds,
            max_job_seconds=settings.max_job_seconds,
        )

    def announce(self, **_: Any) -> None:
        """Begins the work beside the jobs, once the broker is there."""
        for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            # However the worker is told to end, its job is checkpointed and goes on elsewhere.
            signal.signal(signal_number, signal.getsignal(signal.SIGTERM))
        self._threads = [Thread(target=self._give_signs_of_life, daemon=True), Thread(target=self._reconcile, daemon=True)]
        for thread in self._threads:
            thread.start()
        logger.info("worker %s is ready, device %s", self._id, self._device)

    def run(self, job_id: str) -> None:
        """The task: runs the job that is next, unless the worker is about to end. The message says that one waits, not which."""
        if self._is_draining:
            self._publish(job_id)
            return
        try:
            while (next_id := self._store.next_job()) is not None:
                self._job_id = next_id
                if supervise(next_id, self._bench) is Outcome.REFUSED:
                    continue  # another worker was faster
                with suppress(StoreUnavailable):  # the reconciler does it then
                    advance_study_of(self._store, self._artifacts, self._publish, next_id)
                return
            logger.info("job %s: its message was dropped (nothing waits)", job_id)
        except StoreUnavailable as error:
            logger.warning("job %s: nothing was claimed, its message will come again: %s", job_id, error)
        finally:
            self._job_id = None

    def start_draining(self, **_: Any) -> None:
        """Has the running job checkpointed and given back. Runs in a signal handler, so it only sets a flag."""
        self._is_draining = True

    def shut_down(self, **_: Any) -> None:
        """Ends what ``prepare`` and ``announce`` began; no job runs any more."""
        self._stop.set()
        self._trainers.close()
        for thread in self._threads:
            thread.join()
        with suppress(StoreUnavailable):
            self._store.forget_worker(self._id)
        self._scratch.remove()
        logger.info("worker %s has ended", self._id)

    def _reconcile(self) -> None:
        run_reconciler(self._store, self._artifacts, self._publish, settings=self._settings, stop=self._stop)

    def _give_signs_of_life(self) -> None:
        """Registers the worker again and again, keeps the spare trainer alive, and watches Celery's hearing."""
        info = {"hostname": socket.gethostname(), "pid": os.getpid(), "device": self._device, "started_at": now_rfc3339()}
        while not self._stop.is_set():
            try:
                self._store.register_worker(self._id, info | {"job_id": self._job_id}, ttl_ms=3 * SIGN_OF_LIFE_SECONDS * 1000)
                self._exit_if_deaf(self._num_messages())
            except StoreUnavailable as error:
                logger.warning("worker %s could not give a sign of life: %s", self._id, error)
            if self._job_id is None:
                self._trainers.warm()
            self._stop.wait(SIGN_OF_LIFE_SECONDS)

    def _num_messages(self) -> int:
        with translated_errors():
            return self._redis.llen(f"{KEY_PREFIX}{QUEUE}")

    def _exit_if_deaf(self, num_messages: int) -> None:
        """Ends the process where it is idle beside a queue that isn't empty, for whoever started it to start it again."""
        if self._job_id is not None or num_messages == 0:
            self._queue_waits_since = None
        elif self._queue_waits_since is None:
            self._queue_waits_since = time.monotonic()
        elif time.monotonic() - self._queue_waits_since > DEAF_SECONDS:
            logger.critical("worker %s is idle beside %d messages and hears none: it exits to be restarted", self._id, num_messages)
            os._exit(1)
