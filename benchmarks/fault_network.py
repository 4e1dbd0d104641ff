"""Faults of the network between the service and its server, by the fault proxy, and clocks that jump, by libfaketime."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos_checker import Violation
from benchmarks.fault_proxy import FaultProxy, Weather
from benchmarks.fault_site import LEASE_SECONDS, Ordeal, Site, wait_for
from worker.settings import PREFIX
from worker.valkey_server import ValkeyServer

BAD_WEATHER_SECONDS = 2 * LEASE_SECONDS

NUM_DROPS = 20
CONSUMES_WITHIN_SECONDS = 60.0

FAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")
"""From the Debian package libfaketime; without it the clock faults cannot be run."""


@contextmanager
def site_behind_proxy(directory: Path) -> Iterator[tuple[Site, FaultProxy, ValkeyServer]]:
    """A site whose processes reach their server through a proxy."""
    with (
        ValkeyServer(directory / "server") as server,
        FaultProxy(server.socket_path, directory / "server") as proxy,
        Site(directory / "site", redis_url=proxy.url) as site,
    ):
        yield site, proxy, server


def bad_weather(directory: Path, weather: Weather) -> list[Violation]:
    """The network is bad for two leases in the middle of a job."""
    with site_behind_proxy(directory) as (site, proxy, _):
        ordeal = Ordeal(site)
        job_id = ordeal.submit()
        ordeal.wait_for_snapshots(job_id, 1)
        with ordeal.outage("server"):
            proxy.become(weather)
            deadline = time.monotonic() + BAD_WEATHER_SECONDS
            while time.monotonic() < deadline:
                ordeal.client.call_once("GET", f"/v1/jobs/{job_id}")
            proxy.become(Weather.FAIR)
        ordeal.submit(1)
        return ordeal.check()


def resets(directory: Path) -> list[Violation]:
    """Every connection breaks again and again during two jobs."""
    with site_behind_proxy(directory) as (site, proxy, _):
        ordeal = Ordeal(site)
        done = threading.Event()

        def disturb() -> None:
            while not done.wait(0.2):
                proxy.reset()

        disturber = threading.Thread(target=disturb)
        site.undisturbed(0)
        with ordeal.outage("server"):
            disturber.start()
            try:
                ordeal.submit()
                ordeal.submit()
                ordeal.wait_for_ends()
            finally:
                done.set()
                disturber.join()
        assert proxy.num_resets > NUM_DROPS
        return ordeal.check()


def zombie(directory: Path) -> list[Violation]:
    """A worker is cut off for longer than its lease; another one takes the job; the first one comes back and may change nothing."""
    with site_behind_proxy(directory) as (site, proxy, server):
        ordeal = Ordeal(site)
        site.undisturbed(1)
        job_id = ordeal.submit(1)
        ordeal.wait_for_snapshots(job_id, 1)
        frozen = site.trainers()[0]
        os.kill(frozen, signal.SIGSTOP)  # so that its training, which is short, isn't over when the zombie comes back
        with ordeal.outage("server"):
            proxy.become(Weather.CUT)
            with second_worker(site, {"SNAPCYCLE_REDIS_URL": server.url}) as worker:
                wait_for("takeover", lambda: f":{worker.pid}:" in _owner(server, job_id))
                os.kill(frozen, signal.SIGCONT)
                proxy.become(Weather.FAIR)
                ordeal.wait_for_ends()
        violations = ordeal.check()
        if f"job {job_id}: fenced" not in site.log.read_text():
            violations.append(Violation("I5", f"the worker that had lost {job_id} was not fenced"))
        return violations


def connections_dropped(site: Site) -> list[Violation]:
    """The server drops all connections, twenty times; the worker consumes again."""
    ordeal = Ordeal(site)
    site.undisturbed(0)
    violations = []
    with ordeal.outage("server"):
        for drop in range(NUM_DROPS):
            site.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            if drop % 5 == 4:
                began = time.monotonic()
                job_id = ordeal.submit()
                ordeal.wait_for_training(job_id)
                if (seconds := time.monotonic() - began) > CONSUMES_WITHIN_SECONDS:
                    violations.append(Violation("I1", f"lost: {seconds:.0f} s passed before a worker took a job after dropped connections"))
    return violations + ordeal.check()


def clock_jumps(directory: Path, offset: str) -> list[Violation]:
    """A worker's clock jumps in the middle of a job; leases are the server's, so nothing is requeued and no lease ends early."""
    rate = directory / "clock"
    directory.mkdir(parents=True, exist_ok=True)
    rate.write_text("+0\n")
    with Site(directory / "site", num_workers=0) as site, second_worker(site, faketime(rate)):
        ordeal = Ordeal(site)
        job_id = ordeal.submit()
        ordeal.wait_for_snapshots(job_id, 1)
        rate.write_text(f"{offset}\n")
        ordeal.submit(1)
        ordeal.wait_for_ends()
        violations = ordeal.check()
        if (attempts := ordeal.job(job_id)["attempt"]) != 1:
            violations.append(Violation("I5", f"{job_id} needed {attempts} attempts because a clock had jumped"))
        return violations


def server_clock_jumps(directory: Path, offset: str) -> list[Violation]:
    """The server's clock jumps: leases end at once, so work may be repeated, and is not doubled."""
    rate = directory / "clock"
    directory.mkdir(parents=True, exist_ok=True)
    rate.write_text("+0\n")
    with changed_environment(faketime(rate)):
        server = ValkeyServer(directory / "server")
        server.start()
    try:
        with Site(directory / "site", redis_url=server.url) as site:
            ordeal = Ordeal(site)
            job_id = ordeal.submit()
            ordeal.wait_for_snapshots(job_id, 1)
            with ordeal.outage("server"):
                rate.write_text(f"{offset}\n")
                ordeal.submit(1)
                ordeal.wait_for_ends()
            return ordeal.check()
    finally:
        server.stop()


def faketime(rate: Path) -> dict[str, str]:
    """The environment of a process whose clock follows a file. Monotonic clocks, which don't jump, are left alone."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(rate),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with changes, for what it starts meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def second_worker(site: Site, changes: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker beside those of the site, with another environment."""
    settings = site.stack.settings.model_dump(exclude_none=True)
    environment = dict(os.environ) | {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}
    with site.log.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-P", "-m", "service.cli", "worker"], stdout=log, stderr=log, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _owner(server: ValkeyServer, job_id: str) -> str:
    from worker.job_store import JobStore
    from worker.redis_connection import connect

    with connect(server.url) as client:
        record = JobStore(client).get(job_id)
    return str(record.owner) if record is not None else ""
