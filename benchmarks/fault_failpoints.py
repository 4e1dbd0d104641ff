"""Every failpoint with every action: what a job does so that the point is passed, and what is allowed to become of it."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.chaos_checker import Violation
from benchmarks.chaos_workload import Role
from benchmarks.fault_site import AUTO_BODY, Ordeal, Site
from worker.failpoints import POINTS

ACTIONS = ("kill", "eio", "enospc", "raise")
Scenario = Callable[[Ordeal, str, str], None]


@dataclass(frozen=True)
class FailpointCase:
    """A point, an action, and the passing at which it falls."""

    point: str
    action: str
    at: int = 1

    @property
    def name(self) -> str:
        """The case in one word."""
        return f"{self.point}={self.action}" + (f"@{self.at}" if self.at > 1 else "")

    @property
    def shot(self) -> str:
        """What is written into the point's file."""
        return f"{self.action}@{self.at}"


def train(ordeal: Ordeal, point: str, shot: str) -> None:
    """A job from its submission to its end."""
    ordeal.arm(point, shot)
    ordeal.submit()


def train_with_search(ordeal: Ordeal, point: str, shot: str) -> None:
    """A job that finds its highest rate itself."""
    ordeal.arm(point, shot)
    ordeal.submit(AUTO_BODY)


def cancel(ordeal: Ordeal, point: str, shot: str) -> None:
    """A running job that its user cancels."""
    job_id = ordeal.submit(role=Role.CANCELLED)
    ordeal.wait_for_training(job_id)
    ordeal.arm(point, shot)
    ordeal.client.call("POST", f"/v1/jobs/{job_id}/cancel")


def cancel_while_it_waits(ordeal: Ordeal, point: str, shot: str) -> None:
    """A job that is cancelled before a worker has it: the reconciler stores its result."""
    ordeal.submit()
    waiting = ordeal.submit(role=Role.CANCELLED)
    ordeal.arm(point, shot)
    ordeal.client.call("POST", f"/v1/jobs/{waiting}/cancel")


def pause(ordeal: Ordeal, point: str, shot: str) -> None:
    """A running job that rests, and goes on."""
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    ordeal.arm(point, shot)
    ordeal.client.call("POST", f"/v1/jobs/{job_id}/pause")
    ordeal.wait("rest", lambda: ordeal.job(job_id)["status"] == "paused" or ordeal.job(job_id)["terminal"])
    ordeal.wait_until_fired(point)
    ordeal.client.call("POST", f"/v1/jobs/{job_id}/resume")


def resume(ordeal: Ordeal, point: str, shot: str) -> None:
    """A job that rests, and goes on at the second word perhaps."""
    job_id = ordeal.submit()
    ordeal.client.call("POST", f"/v1/jobs/{job_id}/pause")
    ordeal.wait("rest", lambda: ordeal.job(job_id)["status"] == "paused")
    ordeal.arm(point, shot)
    ordeal.client.call("POST", f"/v1/jobs/{job_id}/resume")


def extend_while_it_runs(ordeal: Ordeal, point: str, shot: str) -> None:
    """A running job that gets more cycles."""
    ordeal.site.undisturbed_extended(0)
    job_id = ordeal.submit(role=Role.EXTENDED_RUNNING)
    ordeal.wait_for_training(job_id)
    ordeal.arm(point, shot)
    ordeal.extend(job_id)


def extend_after_its_end(ordeal: Ordeal, point: str, shot: str) -> None:
    """A job that has succeeded and gets more cycles, and so another result."""
    ordeal.site.undisturbed_extended(0)
    job_id = ordeal.submit(role=Role.EXTENDED_LATER)
    ordeal.wait_for_ends()
    ordeal.arm(point, shot)
    ordeal.extend(job_id)


def drain(ordeal: Ordeal, point: str, shot: str) -> None:
    """A worker that is told to stop in the middle of a job."""
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    ordeal.arm(point, shot)
    os.kill(ordeal.site.worker_pid, signal.SIGTERM)


def crash(ordeal: Ordeal, point: str, shot: str) -> None:
    """A trainer that dies in the middle of a job."""
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    ordeal.arm(point, shot)
    os.kill(ordeal.site.trainers()[0], signal.SIGKILL)


def freeze(ordeal: Ordeal, point: str, shot: str) -> None:
    """A worker that is silent for longer than its lease, and then goes on as if nothing had happened."""
    job_id = ordeal.submit()
    ordeal.wait_for_training(job_id)
    ordeal.arm(point, shot)
    pid = ordeal.site.worker_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        ordeal.wait("requeue by the reconciler", lambda: ordeal.job(job_id)["status"] != "running")
    finally:
        os.kill(pid, signal.SIGCONT)


def wipe(ordeal: Ordeal, point: str, shot: str) -> None:
    """A server that loses everything in the middle of a job."""
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    ordeal.arm(point, shot)
    ordeal.was_wiped = True
    with ordeal.outage("server"):
        ordeal.site.redis.flushall()
        ordeal.wait_until_fired(point)
        ordeal.wait("rebuild", lambda: ordeal.site.redis.exists("snapcycle:generation"))


def delete(ordeal: Ordeal, point: str, shot: str) -> None:
    """A job that is deleted after its end."""
    job_id = ordeal.submit()
    ordeal.wait_for_ends()
    ordeal.arm(point, shot)
    ordeal.client.call("DELETE", f"/v1/jobs/{job_id}")
    ordeal.deleted.append(job_id)
    ordeal.wait("deletion", lambda: ordeal.client.call("GET", f"/v1/jobs/{job_id}").status_code == 404)
    ordeal.wait("removal of the files", lambda: not (ordeal.site.artifacts / "jobs" / job_id).exists())


SCENARIOS: dict[str, Scenario] = {
    "rate.stored": train_with_search,
    "request.recorded": cancel,
    "resume.recorded": resume,
    "extend.checked": extend_after_its_end,
    "extend.recorded": extend_while_it_runs,
    "result.earlier_kept": extend_after_its_end,
    "result.earlier_removed": extend_after_its_end,
    "release.recorded": drain,
    "amendment.recorded": pause,
    "amendment.stored": pause,
    "crash.recorded": crash,
    "reconciler.requeued": freeze,
    "reconciler.result_stored": cancel_while_it_waits,
    "rebuild.begun": wipe,
    "rebuild.batch": wipe,
    "rebuild.ended": wipe,
    "delete.marked": delete,
    "delete.spec_removed": delete,
    "delete.files_removed": delete,
}
"""What passes the point; all others are passed by a job from its submission to its end."""

LATER_PASSES = (("file.draft_written", 2), ("file.draft_written", 4), ("file.linked", 2), ("file.linked", 5), ("snapshot.committed", 3))
"""The first file of a job is its spec, written by the API; the later ones are the worker's. And a kill late in the job."""


def all_cases() -> list[FailpointCase]:
    """Every point with every action, and a few later passings."""
    cases = [FailpointCase(point, action) for point in POINTS for action in ACTIONS]
    return cases + [FailpointCase(point, action, at) for point, at in LATER_PASSES for action in ACTIONS]


def run_case(site: Site, case: FailpointCase) -> list[Violation]:
    """Takes a job through the fault and returns the violations that it left."""
    allowed = {"enospc": frozenset({"disk_full"}), "raise": frozenset({"internal"})}.get(case.action, frozenset())
    ordeal = Ordeal(site, allowed_failures=allowed, allows_500=case.action == "raise")
    site.undisturbed(0)
    with ordeal.outage("server", "disk", "api", "worker"):
        SCENARIOS.get(case.point, train)(ordeal, case.point, case.shot)
        ordeal.wait_until_fired(case.point)
        ordeal.wait_for_ends()
    return ordeal.check()
