"""The API under load: thousands of queued jobs, a thousand clients, several tenants; how long answers take, what they cost, who is next.

The requests arrive in an open loop (``benchmarks.open_loop``), and no worker takes jobs meanwhile. The load generator, the API and Redis
share the machine's cores, so the same load is sent to a server that answers at once, too: what that takes is the cost of measuring.
Afterwards workers' claims are made, and the tenants' shares of them counted. Prints a table; the exit status is 0 if the goals are met.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.http_connections import HttpConnection
from benchmarks.null_server import null_server
from benchmarks.open_loop import Load, Tenant, summary
from service.api_keys import KeyStore, read_pepper
from service.client import Client
from service.embedded import Stack
from service.principals import Scope
from worker.artifacts import ArtifactStore
from worker.job_store import Claim, JobStore, connect
from worker.settings import Settings

GOALS = {"submit": 100.0, "list": 20.0}
"""99th percentiles, in milliseconds."""
GOAL_GROWTH_BYTES = 50e6
FILLERS = 32
"""Connections that fill the queue before the load begins."""
NULL_SECONDS = 30.0
"""Length of the same load against a server that answers at once."""
UNLIMITED = {"rate_limit": 10**6, "rate_burst": 10**6, "max_queued_jobs": 10**6}
"""Settings under which nobody is told to come back later, so that every answer is one of those that are measured."""
SHARES = {"many": 0.8, "some": 0.1, "few": 0.1}
"""The tenants, and the part of the queued jobs that is each one's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit status says whether the goals are met.

    Args:
        argv: The options; None: those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs in the queue when the load begins")
    parser.add_argument("--clients", type=int, default=1000, help="open connections")
    parser.add_argument("--seconds", type=float, default=120, help="length of the load")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds of the same load before it")
    parser.add_argument("--claims", type=int, default=300, help="jobs that are claimed afterwards, to see whose turn it is")
    parser.add_argument("--submits", type=float, default=20, help="submissions a second")
    parser.add_argument("--lists", type=float, default=20, help="lists a second, 20 jobs each")
    parser.add_argument("--polls", type=float, default=60, help="looks at one job a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="snapcycle-load-") as directory, (Path(directory) / "log").open("wb") as log:
        settings = Settings.model_validate({"data_dir": directory, "port": 0, **UNLIMITED})
        keys = make_keys(settings)
        with Stack(settings, num_workers=0, log=log) as stack:
            tenants = [Tenant(name, key, SHARES[name], upload(stack.url, key)) for name, key in keys.items()]
            figures = asyncio.run(measure(stack, tenants, arguments))
            store = JobStore(connect(stack.settings))
            figures["jobs_there"] = sum(store.counts().values())
            figures["claims"] = claims(store, {tenant.dataset_id: tenant.name for tenant in tenants}, arguments.claims)
    figures["goals"] = verdicts(figures)
    figures["machine"] = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    print(as_table(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(figures["goals"].values()) else 1


def make_keys(settings: Settings) -> dict[str, str]:
    """A key for each tenant."""
    store = KeyStore(ArtifactStore.open(settings.artifacts_url), read_pepper(settings.data_dir, None))
    scopes = (Scope.READ, Scope.TRAIN)
    return {name: store.create(scopes=scopes, tenant=name, name=None, expires_in_days=None)[1] for name in SHARES}


def upload(url: str, key: str) -> str:
    """The id of the tenant's dataset."""
    with Client(url, api_key=key) as client:
        return str(client.datasets.builtin("digits")["id"])


async def measure(stack: Stack, tenants: list[Tenant], arguments: argparse.Namespace) -> dict[str, Any]:
    """Fills the queue, loads the API, and returns what that was like."""
    (api,) = stack.api.children
    assert api.process is not None
    pid = api.process.pid
    began = time.perf_counter()
    job_ids = await fill(stack.url, tenants, arguments.jobs)
    filled = time.perf_counter() - began
    rates = {"submit": arguments.submits, "list": arguments.lists, "poll": arguments.polls}
    load = Load(stack.url, tenants, job_ids, random.Random(arguments.seed))
    await load.open(arguments.clients)
    warm_up = await load.run(rates, arguments.warm_up)
    memory, cpu_began = resident_bytes(pid), cpu_seconds(pid)
    record = await load.run(rates, arguments.seconds)
    growth, cpu = resident_bytes(pid) - memory, cpu_seconds(pid) - cpu_began
    load.close()
    with null_server(record.answer_bytes) as url:
        nothing = Load(url, tenants, job_ids, random.Random(arguments.seed))
        await nothing.open(arguments.clients)
        unloaded = await nothing.run(rates, min(NULL_SECONDS, arguments.seconds))
        nothing.close()
    return {
        "benchmark": "load",
        "seed": arguments.seed,
        "jobs": arguments.jobs,
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        "rates": rates,
        "fill_per_second": arguments.jobs / filled,
        "requests": {kind: summary(times) for kind, times in record.milliseconds.items()},
        "null_server": {kind: summary(times) for kind, times in unloaded.milliseconds.items()},
        "sent_late": summary(record.late),
        "reconnections": record.reconnections,
        "statuses": {f"{kind} {status}": count for (kind, status), count in sorted(record.statuses.items())},
        "jobs_acknowledged": len(job_ids) + warm_up.statuses["submit", 202] + record.statuses["submit", 202],
        "api_cores": cpu / arguments.seconds,
        "resident_bytes": memory,
        "growth_bytes": growth,
    }


async def fill(url: str, tenants: list[Tenant], num_jobs: int) -> list[tuple[str, str]]:
    """Submits the jobs that wait; the first tenant's come first. Returns keys and ids."""
    numbers = iter([(tenant, number) for tenant in tenants for number in range(round(num_jobs * tenant.share))])
    made = []

    async def submit_all() -> None:
        connection = await HttpConnection.open(url)
        for tenant, number in numbers:
            answer = await connection.request("POST", "/v1/jobs", key=tenant.key, body=tenant.body(number))
            if answer.status != 202:
                raise RuntimeError(f"a submission was answered {answer.status}: {answer.body.decode()}")
            made.append((tenant.key, json.loads(answer.body)["id"]))
        connection.close()

    await asyncio.gather(*(submit_all() for _ in range(FILLERS)))
    return made


def claims(store: JobStore, names: dict[str, str], number: int) -> dict[str, int]:
    """How many of the next jobs are each tenant's."""
    counts = Counter[str]()
    for _ in range(number):
        job_id = store.next_job()
        assert job_id is not None
        claim = store.claim(job_id, "load", lease_ms=3_600_000, max_crashes=3)
        assert isinstance(claim, Claim), claim
        record = store.get(job_id)
        assert record is not None
        counts[names[record.dataset_id]] += 1
    return dict(counts)


def resident_bytes(pid: int) -> int:
    """Memory of a process (Linux: /proc/<pid>/statm counts pages)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process (Linux: fields 14 and 15 of /proc/<pid>/stat, counted from behind its name)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def verdicts(figures: dict[str, Any]) -> dict[str, bool]:
    """Which goals are met."""
    shares = figures["claims"].values()
    return {
        **{f"{kind} p99 < {goal:g} ms": figures["requests"][kind]["p99"] < goal for kind, goal in GOALS.items()},
        "nothing refused": all(name.split()[1] in ("200", "202") for name in figures["statuses"]),
        "every acknowledged job is there": figures["jobs_there"] == figures["jobs_acknowledged"],
        f"memory grows by less than {GOAL_GROWTH_BYTES / 1e6:g} MB": figures["growth_bytes"] < GOAL_GROWTH_BYTES,
        "fair: claims differ by at most 1": max(shares) - min(shares) <= 1 and len(shares) == len(SHARES),
    }


def as_table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{figures['jobs']} queued jobs, {figures['clients']} clients, {figures['seconds']:g} s ({figures['machine']})"]
    lines.append(f"  filled the queue with {figures['fill_per_second']:.0f} submissions a second from {FILLERS} connections")
    for kind, times in figures["requests"].items():
        cuts = "  ".join(f"{name} {times[name]:7.1f} ms" for name in ("p50", "p99", "p999"))
        lines.append(f"  {kind:<7} {figures['rates'][kind]:>5g}/s  {cuts}")
    for kind, times in figures["null_server"].items():
        lines.append(f"  {kind:<7} of a server that answers at once: p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms")
    late = figures["sent_late"]
    lines.append(f"  sent late by p50 {late['p50']:.1f} ms, p99 {late['p99']:.1f} ms; {figures['reconnections']} reconnections")
    lines.append(f"  the API used {figures['api_cores']:.2f} cores")
    lines.append(f"  memory of the API {figures['resident_bytes'] / 1e6:.0f} MB, {figures['growth_bytes'] / 1e6:+.1f} MB under load")
    lines.append(
        f"  next {sum(figures['claims'].values())} claims: "
        + ", ".join(f"{name} {count}" for name, count in sorted(figures["claims"].items()))
    )
    lines += [f"  {'met' if met else 'MISSED'}: {goal}" for goal, met in figures["goals"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
