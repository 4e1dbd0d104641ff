"""Faults of the Redis server: frozen, wiped, its log cut or flipped, its memory or disk full, its password changed."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos_checker import Violation
from benchmarks.chaos_workload import Role
from benchmarks.fault_site import Ordeal, Site, wait_for

ANSWER_SECONDS = 6.0
"""The service promises an answer in this time, whatever its server does."""

TMPFS_BYTES = 3 * 2**20


def frozen(site: Site, seconds: float) -> list[Violation]:
    """SIGSTOP of the server for so long: requests are refused in time, the training goes on, nobody loses an attempt."""
    ordeal = Ordeal(site)
    job_id = ordeal.submit()
    ordeal.wait_for_training(job_id)
    pid = server_pid(site)
    with ordeal.outage("server"):
        os.kill(pid, signal.SIGSTOP)
        try:
            slowest = _ask_for(ordeal, job_id, seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
    violations = ordeal.check()
    if slowest > ANSWER_SECONDS:
        violations.append(Violation("I8", f"a request took {slowest:.1f} s beside a frozen server, more than {ANSWER_SECONDS:g} s"))
    if (attempts := ordeal.job(job_id)["attempt"]) != 1:
        violations.append(Violation("I5", f"{job_id} needed {attempts} attempts although its worker lived"))
    return violations


def _ask_for(ordeal: Ordeal, job_id: str, seconds: float) -> float:
    """Asks again and again for so long; the slowest answer."""
    slowest, deadline = 0.0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        for method, path, key in (("GET", f"/v1/jobs/{job_id}", None), ("POST", "/v1/jobs", f"frozen-{ordeal.site.next_number()}")):
            began = time.monotonic()
            ordeal.client.call_once(method, path, body=ordeal.site.request(0) if key else None, key=key)
            slowest = max(slowest, time.monotonic() - began)
    return slowest


def wiped(site: Site) -> list[Violation]:
    """FLUSHALL beside jobs that have ended, run and wait: all are back, and those that had not ended run on."""
    ordeal = Ordeal(site)
    ended, cancelled = ordeal.submit(), ordeal.submit(1, role=Role.CANCELLED)
    ordeal.client.call("POST", f"/v1/jobs/{cancelled}/cancel")
    ordeal.wait_for_ends()
    running, waiting = ordeal.submit(1), ordeal.submit(2)
    ordeal.wait_for_snapshots(running, 1)
    before = {job_id: ordeal.job(job_id)["status"] for job_id in (ended, cancelled)}
    ordeal.was_wiped = True
    with ordeal.outage("server"):
        site.redis.flushall()
        ordeal.wait("rebuild", lambda: site.redis.exists("snapcycle:generation"))
    violations = ordeal.check()
    for job_id, status in before.items():
        if ordeal.job(job_id)["status"] != status:
            violations.append(Violation("I2", f"{job_id} was {status} before the wipe"))
    assert waiting in ordeal.roles
    return violations


def log_cut(site: Site) -> list[Violation]:
    """The end of the server's log is lost, with jobs in it that were acknowledged."""
    return _log_damaged(site, os.truncate)


def log_flipped(site: Site) -> list[Violation]:
    """A byte in the middle of the server's log is another one, before jobs that were acknowledged."""

    def flip(log: Path, size: int) -> None:
        with log.open("r+b") as file:
            file.seek(size)
            file.write(b"\0" * 16)

    return _log_damaged(site, flip)


def _log_damaged(site: Site, damage: Callable[[Path, int], None]) -> list[Violation]:
    ordeal = Ordeal(site)
    ordeal.was_wiped = True
    ordeal.submit()
    ordeal.wait_for_ends()
    log = newest_log(site)
    size = log.stat().st_size
    running = ordeal.submit(1)
    ordeal.submit(2)
    ordeal.wait_for_snapshots(running, 2)
    with ordeal.outage("server"):
        with server_down(ordeal):
            damage(log, size)
        for job_id in ordeal.roles:  # the leader notices in its next pass that jobs are missing, and reads them back
            ordeal.job(job_id)
    return ordeal.check()


def memory_full(site: Site) -> list[Violation]:
    """The server refuses to write for want of memory: requests are refused, the job goes on when there is room."""
    ordeal = Ordeal(site)
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    limit = site.redis.config_get("maxmemory")["maxmemory"]
    with ordeal.outage("server"):
        site.redis.config_set("maxmemory", "1mb")
        refused = ordeal.client.call_once("POST", "/v1/jobs", body=site.request(0), key=f"full-{site.next_number()}")
        time.sleep(3.0)  # the time in which beats and commits are refused, longer than several of them
        site.redis.config_set("maxmemory", limit)
    violations = ordeal.check()
    if refused is None or refused.status_code != 503:
        violations.append(Violation("I8", f"a submission to a full server was answered {refused.status_code if refused else 'not at all'}"))
    return violations


def password_changed(site: Site) -> list[Violation]:
    """The server wants a password that nobody told us, and later no more."""
    ordeal = Ordeal(site)
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    with ordeal.outage("server", "api"):
        site.redis.config_set("requirepass", "secret")
        site.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        refused = ordeal.client.call_once("GET", f"/v1/jobs/{job_id}")
        time.sleep(3.0)  # several beats
        site.redis.config_set("requirepass", "")
    violations = ordeal.check()
    if refused is None or refused.status_code != 503:
        violations.append(
            Violation("I8", f"without the password a request was answered {refused.status_code if refused else 'not at all'}")
        )
    return violations


def server_disk_full(site: Site) -> list[Violation]:
    """RLIMIT_FSIZE stands for the full disk of the server: its log cannot grow, so it ends, and is started again."""
    ordeal = Ordeal(site)
    job_id = ordeal.submit()
    ordeal.wait_for_snapshots(job_id, 1)
    pid = server_pid(site)
    with ordeal.outage("server"):
        size = newest_log(site).stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))
        ordeal.wait("end of the server", lambda: server_pid(site) != pid)
    return ordeal.check()


def artifacts_disk_full(directory: Path) -> list[Violation]:
    """The artifact store's disk, a small tmpfs, gets full: the job fails as disk_full or waits, and what was stored stays whole."""
    disk = directory / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(disk)], check=True)
    try:
        with Site(directory / "site", artifacts=str(disk)) as site:
            ordeal = Ordeal(site, allowed_failures=frozenset({"disk_full"}))
            site.undisturbed(0)
            with ordeal.outage("disk"):
                filler = disk / "filler#0"
                job_id = ordeal.submit()
                ordeal.wait_for_snapshots(job_id, 1)
                with filler.open("wb") as file:
                    file.write(b"\0" * _free_bytes(disk))
                refused = ordeal.client.call_once("POST", "/v1/jobs", body=site.request(0), key="while-full")
                ordeal.wait("end of the job", lambda: ordeal.job(job_id)["terminal"])
                filler.unlink()
            ordeal.submit()
            violations = ordeal.check()
            if refused is None or refused.status_code not in (202, 503):
                violations.append(Violation("I8", f"a submission to a full disk was answered {refused.status_code if refused else 'not'}"))
            return violations
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def server_pid(site: Site) -> int:
    """The embedded server's process."""
    server = site.stack.server
    assert server is not None
    return wait_for("server", lambda: server.pid)


def newest_log(site: Site) -> Path:
    """The part of the server's log that is being written."""
    server = site.stack.server
    assert server is not None
    return max((server.directory / "appendonlydir").glob("*.incr.aof"), key=lambda part: int(part.name.split(".")[-3]))


@contextmanager
def server_down(ordeal: Ordeal) -> Iterator[None]:
    """Kills the server, and lets the launcher start it again only after what is done meanwhile."""
    with ordeal.site.launcher.paused():
        pid = server_pid(ordeal.site)
        os.kill(pid, signal.SIGKILL)
        server = ordeal.site.stack.server
        assert server is not None
        ordeal.wait("end of the server", lambda: not server.is_running())
        yield


def _free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize
