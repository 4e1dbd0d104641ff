"""Every fault of the plan on a real stack, one after the other, with every invariant checked after each.

``make faults`` runs all; ``--only WORD`` those with the word in their name. ``--journal FILE`` keeps what was found, so that the same
command goes on where the one before was interrupted, or ended because of ``--seconds``. Once every fault was survived on the same
sources, the figures go to ``benchmarks/results/faults.json``; what this machine lacks the means for is named there with the reason.
"""

import argparse
import json
import os
import platform
import queue
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import fault_network, fault_server, fault_workers
from benchmarks.chaos_checker import Violation
from benchmarks.fault_failpoints import all_cases, run_case
from benchmarks.fault_journal import Journal, Report, sources_sha256
from benchmarks.fault_proxy import Weather
from benchmarks.fault_site import Site

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """One entry of the plan.

    Attributes:
        group: The row of the fault plan, F2 to F18.
        on_site: Hurts a site that others have used, and returns the violations.
        alone: The same for a fault that needs a site of its own kind, which it makes in a directory.
        lacks: What this machine lacks for it, with the remedy; empty where it can be run.
    """

    name: str
    group: str
    on_site: Callable[[Site], list[Violation]] | None = None
    alone: Callable[[Path], list[Violation]] | None = None
    lacks: str = ""


def plan(*, is_root: bool | None = None, has_faketime: bool | None = None) -> list[Fault]:
    """All faults, also those that cannot be run on this machine, which say what it lacks."""
    is_root = os.geteuid() == 0 if is_root is None else is_root
    has_faketime = fault_network.FAKETIME.exists() if has_faketime is None else has_faketime
    no_mount = "" if is_root else "only root may mount the small file system: run it as root"
    no_clock = "" if has_faketime else "libfaketime is not installed: apt-get install libfaketime"
    found = [Fault(case.name, "F2", partial(run_case, case=case)) for case in all_cases()]
    found += [Fault(f"server frozen for {seconds} s", "F3", partial(fault_server.frozen, seconds=seconds)) for seconds in (5, 30, 120)]
    on_site = (
        fault_server.wiped,
        fault_server.log_cut,
        fault_server.log_flipped,
        fault_server.memory_full,
        fault_server.password_changed,
        fault_server.server_disk_full,
    )
    found += [Fault(_words(run.__name__), "F3", run) for run in on_site]
    found.append(Fault("connections dropped", "F18", fault_network.connections_dropped))
    found.append(Fault("artifacts disk full", "F7", alone=fault_server.artifacts_disk_full, lacks=no_mount))
    found.append(Fault("trainer out of memory", "F8", alone=fault_workers.trainer_out_of_memory))
    found.append(Fault("workers stopped", "F10", alone=fault_workers.workers_stopped))
    for weather in (Weather.DELAY, Weather.SLOW, Weather.HALF_OPEN, Weather.CUT):
        found.append(Fault(f"network {_words(weather)}", "F4", alone=partial(fault_network.bad_weather, weather=weather)))
    found.append(Fault("network resets", "F4", alone=fault_network.resets))
    found.append(Fault("network zombie", "F4", alone=fault_network.zombie))
    for offset in ("+3600", "-3600", "+315360000", "-315360000"):
        found.append(Fault(f"clock {offset} s", "F5", alone=partial(fault_network.clock_jumps, offset=offset), lacks=no_clock))
    found.append(Fault("server clock +60 s", "F5", alone=partial(fault_network.server_clock_jumps, offset="+60"), lacks=no_clock))
    return found


def _words(name: str) -> str:
    return name.replace("_", " ")


class Sites:
    """Threads that each have a site, and begin a new one where a fault has spoilt it."""

    def __init__(self, directory: Path, faults: list[Fault], *, num_sites: int, seconds: float, note: Callable[[Report], None]) -> None:
        self._directory = directory
        self._deadline = time.monotonic() + seconds
        self._note = note
        self._faults: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        for fault in faults:
            self._faults.put(fault)
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(num_sites)]
        self.reports: list[Report] = []
        self._num_faults = len(faults)

    def run(self) -> None:
        """Runs all faults."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        life = 0
        while not self._faults.empty() and time.monotonic() < self._deadline:
            life += 1
            with Site(self._directory / f"site-{number}-{life}") as site:
                while True:
                    try:
                        fault = self._faults.get_nowait()
                    except queue.Empty:
                        return
                    if time.monotonic() > self._deadline:
                        return
                    if not self._survives(fault, site):
                        break

    def _survives(self, fault: Fault, site: Site) -> bool:
        """Runs one fault; whether the site can take another."""
        began = time.monotonic()
        try:
            found = fault.on_site(site) if fault.on_site else fault.alone(self._directory / _file_name(fault)) if fault.alone else []
            violations = [f"{one.invariant}: {one.what}" for one in found]
        except Exception as error:  # noqa: BLE001  (a fault that does not heal must not hide the others)
            (self._directory / f"{_file_name(fault)}.txt").write_text(traceback.format_exc())
            violations = [f"{type(error).__name__}: {error}"]
        report = Report(fault.name, fault.group, round(time.monotonic() - began, 1), violations)
        self.reports.append(report)
        self._note(report)
        verdict = "ok" if not violations else f"VIOLATED ({site.directory.name})"
        print(
            f"{len(self.reports):>4}/{self._num_faults} {fault.group:<4} {fault.name:<40} {report.seconds:>6.1f} s  {verdict}", flush=True
        )
        for violation in violations[:8]:
            print(f"          {violation}", flush=True)
        return not violations


def _file_name(fault: Fault) -> str:
    return fault.name.replace(" ", "-")


def main() -> int:
    """Runs the plan; the exit status says whether every invariant held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="words; faults with any of them in their name or group are run")
    parser.add_argument("--sites", type=int, default=2, help="stacks side by side")
    parser.add_argument("--journal", type=Path, help="a file that keeps what was found, for a campaign in parts")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after so many no further fault is begun")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/faults.json"))
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="snapcycle-faults-"))
    sources = sources_sha256(ROOT)
    journal = Journal(arguments.journal or directory / "journal.jsonl", sources=sources)
    planned = plan()
    wanted = [one for one in planned if not arguments.only or any(word in f"{one.group} {one.name}" for word in arguments.only)]
    skipped = [one for one in planned if one.lacks]
    faults = [one for one in wanted if not one.lacks and one.name not in journal.held()]
    began = time.monotonic()
    num_sites = max(1, min(arguments.sites, len(faults)))
    sites = Sites(directory, faults, num_sites=num_sites, seconds=arguments.seconds, note=journal.add)
    sites.run()
    failed = [report for report in sites.reports if report.violations]
    held = journal.held()
    print(
        f"{len(sites.reports)} faults, {len(failed)} with violations, {time.monotonic() - began:.0f} s; "
        f"{len(held)} of {len(planned)} held, {len(skipped)} cannot be run here"
    )
    for one in skipped:
        print(f"skipped {one.group:<4} {one.name:<32} {one.lacks}")
    if failed:
        print("violated: " + ", ".join(report.name for report in failed) + f"; logs in {directory}")
        return 1
    if all(one.name in held for one in planned if not one.lacks):
        figures = summarize([held[one.name] for one in planned if not one.lacks], skipped, sources=sources)
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
    shutil.rmtree(directory)
    return 0


def summarize(reports: list[Report], skipped: list[Fault], *, sources: str) -> Json:
    """The figures that are published."""
    return {
        "benchmark": "faults",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "sources_sha256": sources,
        "faults": len(reports),
        "skipped": [{"fault": one.name, "group": one.group, "why": one.lacks} for one in skipped],
        "by_group": dict(Counter(report.group for report in reports)),
        "failpoints_by_action": dict(Counter(_action(report) for report in reports if report.group == "F2")),
        "violations": sum(len(report.violations) for report in reports),
        "seconds": round(sum(report.seconds for report in reports), 1),
        "seconds_by_fault": {report.name: report.seconds for report in sorted(reports, key=lambda each: -each.seconds)},
    }


def _action(report: Report) -> str:
    """What was done at a failpoint."""
    return report.name.partition("=")[2].partition("@")[0]


if __name__ == "__main__":
    sys.exit(main())
