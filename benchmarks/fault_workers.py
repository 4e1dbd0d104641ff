"""Faults of the workers: told to stop one after the other while jobs run (F10); a trainer that wants more memory than it may (F8)."""

import os
import signal
import time
from pathlib import Path

from benchmarks.chaos_checker import Violation
from benchmarks.chaos_kills import pid_of
from benchmarks.chaos_workload import Role
from benchmarks.fault_site import Ordeal, Site, wait_for
from worker.job_store import JobStore

NUM_WORKERS, NUM_JOBS, NUM_STOPS = 2, 10, 12
STOPS_WITHIN_SECONDS = 15.0
PAUSE_SECONDS = 0.7
"""Between two stops: a job of two seconds is met by several of them."""

MEMORY_BYTES = 256 * 2**20
WIDE = {"architecture": "mlp", "params": {"hidden": [8192, 8192]}}
"""A network whose weights, gradients and momentum take 800 MB."""


def workers_stopped(directory: Path) -> list[Violation]:
    """SIGTERM of one worker after the other while jobs run: each is gone in time, and no job is charged with a crash."""
    with Site(directory, num_workers=NUM_WORKERS) as site:
        ordeal = Ordeal(site)
        for number in range(NUM_JOBS):
            ordeal.submit(number % 2)
        seconds = []
        with ordeal.outage("worker"):
            for stop in range(NUM_STOPS):
                worker = site.stack.workers[stop % NUM_WORKERS]
                pid = wait_for("worker", lambda worker=worker: pid_of(worker))  # type: ignore[misc]  # a lambda's default
                began = time.monotonic()
                os.kill(pid, signal.SIGTERM)
                wait_for("end of the worker", lambda worker=worker, pid=pid: pid_of(worker) != pid)  # type: ignore[misc]
                seconds.append(time.monotonic() - began)
                time.sleep(PAUSE_SECONDS)
            ordeal.wait_for_ends()
        violations = ordeal.check()
        records = [JobStore(site.redis).get(job_id) for job_id in ordeal.roles]
        crashes = sum(record.crashes for record in records if record is not None)
        handed_on = sum(record.attempt - 1 for record in records if record is not None)
    handed = f"{handed_on} times a running job was handed on"
    print(f"          {NUM_STOPS} stops, {handed}; the slowest took {max(seconds):.1f} s, {crashes} crashes counted")
    if max(seconds) > STOPS_WITHIN_SECONDS:
        violations.append(Violation("I9", f"a worker needed {max(seconds):.1f} s to stop, more than {STOPS_WITHIN_SECONDS:g} s"))
    if crashes:
        violations.append(Violation("I9", f"{crashes} crashes were counted for workers that were told to stop"))
    return violations


def trainer_out_of_memory(directory: Path) -> list[Violation]:
    """A job that needs more memory than its trainer may take fails in words, at once or at the second try; the next one is trained."""
    with Site(directory, trainer_memory_bytes=MEMORY_BYTES) as site:
        ordeal = Ordeal(site)
        site.undisturbed(0)
        request = site.request(0) | {"model": WIDE}
        job_id = ordeal.client.call("POST", "/v1/jobs", body=request, key="out-of-memory").json()["id"]
        ordeal.roles[job_id], ordeal.bodies[job_id] = Role.POISON, 0
        ordeal.submit()
        violations = ordeal.check()
        job = ordeal.job(job_id)
    error = job["error"] or {}
    if error.get("category") != "out_of_memory" or not error.get("suggestion"):
        violations.append(Violation("I8", f"{job_id} was to fail as out_of_memory with a suggestion, got {error}"))
    if job["attempt"] > 2:
        violations.append(Violation("I9", f"{job_id} was tried {job['attempt']} times although its memory never sufficed"))
    return violations
