"""Random SIGKILLs of every process of a running service, and a proof that nothing was lost, doubled or changed by a bit.

A real stack (server, workers, API, reconcilers) runs a load of small training jobs for three users, while its processes are killed at
random instants and started again by the launcher. Before that, each body of a job runs once undisturbed: the oracle. Afterwards the
checker looks at what clients were told, at what the API says and at every file. The figures go to ``benchmarks/results/chaos.json``.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos_checker import Evidence, Outage, Violation, check, lost_work
from benchmarks.chaos_figures import as_table, summarize
from benchmarks.chaos_history import History, RecordingClient
from benchmarks.chaos_kills import WEIGHTS, Due, Kill, Killer, Launcher, schedule
from benchmarks.chaos_survey import survey
from benchmarks.chaos_workload import NUM_BODIES, Outcome, Planned, Role, body, extended, outcome_of, plan_jobs, submit_and_follow
from service.api_keys import KeyStore
from service.embedded import Stack
from service.principals import Scope
from worker.artifacts import ArtifactStore
from worker.settings import Settings

Json = dict[str, Any]

TENANTS = ["anna", "ben", "chris"]
UNKNOWN_JOB = "job_01M84K9HDDAJZAD5F3E26JSCXC"
FOREIGN_LOOKS = 20

KILLS_PER_JOB = 4
OUTSTANDING = 8
"""Jobs that are submitted ahead of the kills that fall to them, so that workers never want for work."""

EPOCHS_PER_CYCLE = 25
"""So a job trains for some seconds on an idle core."""
LEASE_SECONDS, BEAT_SECONDS, CHECKPOINT_SECONDS = 10.0, 1.0, 0.5
MAX_CRASHES = 12
SPARED_CRASHES = 6
"""Under so many kills a job must not fail by chance: of 12 attempts in a row the last six are hit by kills of other parts at most."""

LOST_WORK_BOUND_SECONDS = CHECKPOINT_SECONDS + 10.0
"""A checkpoint that is due waits for the step's end, for four synced writes beside killed and starting processes, and for the server."""

PATIENCE_SECONDS = 60.0

FIND_SECONDS = 2.0
"""How long a kill waits for a process of its kind, which may just be starting."""


class Run:
    """One campaign on one stack."""

    def __init__(self, directory: Path, stack: Stack, *, keys: dict[str, str], seed: int, num_workers: int, epochs: int) -> None:
        self.directory = directory
        self.stack = stack
        self.seed = seed
        self.num_workers = num_workers
        self._epochs = epochs
        self.history = History(directory / "history.jsonl")
        self.keys = keys
        self.datasets: dict[str, str] = {}
        self.jobs: dict[str, Planned] = {}
        self.oracle: dict[int, Outcome] = {}
        self._clients = threading.local()
        self._opened: list[RecordingClient] = []
        self._kills_done = 0
        self._progress = threading.Condition()

    def client(self, name: str) -> RecordingClient:
        """This thread's own client."""
        mine: dict[str, RecordingClient] = self._clients.__dict__
        if name not in mine:
            mine[name] = RecordingClient(name, self.stack.url, self.history, headers={"Authorization": f"Bearer {self.keys[name]}"})
            self._opened.append(mine[name])
        return mine[name]

    def close(self) -> None:
        """Closes all threads' clients, and the history."""
        for client in self._opened:
            client.close()
        self.history.close()

    def prepare(self, needed: Set[int]) -> None:
        """Uploads the data and runs each body once, undisturbed, as it is and with more cycles after its end, where that is ``needed``."""
        for tenant in TENANTS:
            request = {"source": {"type": "builtin", "name": "digits"}}
            made = self.client(tenant).call("POST", "/v1/datasets", body=request, key=f"data-{self.seed}")
            self.datasets[tenant] = made.json()["id"]
        for role in (Role.PLAIN, Role.EXTENDED_LATER):  # the second time the same jobs are extended, since the key is the same
            bodies = [Planned(number, TENANTS[0], role, number, 0.0) for number in range(NUM_BODIES)]
            planned = [one for one in bodies if not needed.isdisjoint({one.oracle_number, extended(one.body_number)})]
            with ThreadPoolExecutor(self.num_workers) as threads:
                ids = list(threads.map(lambda one: self._follow(one, f"oracle-{self.seed}"), planned))
            for one, job_id in zip(planned, ids, strict=True):
                self.oracle[one.oracle_number] = outcome_of(self.client(TENANTS[0]), job_id)
        self.jobs.clear()

    def disturb(self, killer: Killer, due: Sequence[Due], planned: Sequence[Planned]) -> None:
        """Runs the jobs under the kills."""
        num_kills, num_jobs = len(due), len(planned)
        with ThreadPoolExecutor(OUTSTANDING + 4) as threads:
            futures = [threads.submit(self._job, killer, one, num_kills / num_jobs) for one in planned]
            try:
                for one in due:
                    time.sleep(one.pause_seconds)
                    self._wait_for_jobs(futures, num_kills / num_jobs)
                    _kill_one(killer, one.target)
                    self._note_kill(futures, num_kills)
            finally:
                with self._progress:
                    self._kills_done = sys.maxsize
                    self._progress.notify_all()
            for future in futures:
                future.result()

    def _wait_for_jobs(self, futures: "list[Future[str]]", kills_per_job: float) -> None:
        """On a slow machine, lets jobs come to their end between kills; the pauses are meant for one that has its cores for itself."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        due = self._kills_done / kills_per_job - OUTSTANDING
        while sum(future.done() for future in futures) < due and time.monotonic() < deadline:
            time.sleep(0.1)

    def _note_kill(self, futures: "list[Future[str]]", num_kills: int) -> None:
        with self._progress:
            self._kills_done += 1
            self._progress.notify_all()
        for future in futures:
            if future.done():
                future.result()  # a user whose expectations were broken ends the run at once
        if self._kills_done % 20 == 0:
            ended = sum(future.done() for future in futures)
            print(f"  {self._kills_done} of {num_kills} kills, {ended} of {len(futures)} jobs ended", flush=True)

    def _job(self, killer: Killer, planned: Planned, kills_per_job: float) -> str:
        """One user's job, from the time at which it is its turn."""
        with self._progress:
            self._progress.wait_for(lambda: self._kills_done >= (planned.number - OUTSTANDING) * kills_per_job)
        on_submitted = killer.add_poison if planned.role is Role.POISON else lambda _: None
        return self._follow(planned, f"job-{self.seed}", on_submitted)

    def _follow(self, planned: Planned, prefix: str, on_submitted: Any = lambda _: None) -> str:
        request = body(self.datasets[planned.client], planned.body_number, epochs_per_cycle=self._epochs)
        job_id = submit_and_follow(self.client(planned.client), planned, request, prefix=prefix, on_submitted=on_submitted)
        self.jobs[job_id] = planned
        return job_id

    def listed(self, tenant: str) -> list[str]:
        """The ids of all jobs that a tenant sees, page by page."""
        client, found, after = self.client(tenant), list[str](), ""
        while True:
            page = client.call("GET", f"/v1/jobs?limit=100{after}").json()
            found += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    def foreign_sights(self) -> list[str]:
        """What a tenant is told of another one's job that differs from what it is told of one that nobody has."""
        found = []
        for job_id, planned in list(self.jobs.items())[:FOREIGN_LOOKS]:
            stranger = TENANTS[(TENANTS.index(planned.client) + 1) % len(TENANTS)]
            for path in ("", "/snapshots", "/events", "/result"):
                answers = [self.client(stranger).call("GET", f"/v1/jobs/{one}{path}") for one in (job_id, UNKNOWN_JOB)]
                said = [
                    (answer.status_code, answer.json()["detail"].replace(one, "…"))
                    for one, answer in zip((job_id, UNKNOWN_JOB), answers, strict=True)
                ]
                if said[0] != said[1] or said[0][0] != 404:
                    found.append(f"{stranger} asked for {job_id}{path} of {planned.client} and was told {said[0]}")
        return found


def make_keys(settings: Settings) -> dict[str, str]:
    """A key for each tenant, so that the service asks for one."""
    store = KeyStore.open(settings, ArtifactStore.open(settings.artifacts_url))
    scopes = [Scope.READ, Scope.PREDICT, Scope.TRAIN]
    return {tenant: store.create(scopes=scopes, tenant=tenant, name=None, expires_in_days=None)[1] for tenant in TENANTS}


def _kill_one(killer: Killer, target: Any) -> Kill:
    """Kills a process of the kind, or, where there is none for a while, of another one."""
    deadline = time.monotonic() + FIND_SECONDS
    while True:
        targets = [target] if time.monotonic() < deadline else list(WEIGHTS)
        for each in targets:
            if (kill := killer.kill(each)) is not None:
                return kill
        time.sleep(0.02)


def settle(stack: Stack, killer: Killer, artifacts: Path, job_ids: Sequence[str], *, seconds: float = 60.0) -> None:
    """Waits until what was killed is back and the reconciler has stored the results of jobs that ended without a worker."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        filed = all((artifacts / "jobs" / job_id / "result.json").exists() for job_id in job_ids)
        if filed and killer.num_unrecovered() == 0 and stack.answers_ready():
            return
        time.sleep(0.2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the campaign; the exit status says whether every invariant held.

    Args:
        argv: The options; None: those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, help=f"default: a {KILLS_PER_JOB}th of the kills, at least 50 from 200 kills on")
    parser.add_argument("--per-minute", type=float, default=25.0, help="kills a minute, on average")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS_PER_CYCLE, help="epochs of each of a job's cycles")
    parser.add_argument("--seed", type=int, help="of the schedule; default: a new one, which is printed")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/chaos.json"))
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    num_jobs = arguments.jobs or max(arguments.kills // KILLS_PER_JOB, 5)
    directory = Path(tempfile.mkdtemp(prefix="snapcycle-chaos-"))
    logging.basicConfig(filename=directory / "launcher.log", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    print(f"chaos: {arguments.kills} kills over {num_jobs} jobs, seed {seed}, in {directory}", flush=True)
    figures, violations = campaign(directory, arguments, seed=seed, num_jobs=num_jobs)
    print(as_table(figures))
    for violation in violations[:50]:
        print(f"VIOLATION {violation.invariant}: {violation.what}")
    if violations:
        print(f"{len(violations)} violations, seed {seed}; logs, history and schedule are kept in {directory}")
        return 1
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
    shutil.rmtree(directory)
    return 0


def campaign(directory: Path, arguments: argparse.Namespace, *, seed: int, num_jobs: int) -> tuple[Json, list[Violation]]:
    """The whole run: oracle, kills, checks."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices gain nothing from more
    settings = Settings(
        redis_url=None,
        artifacts=None,
        data_dir=directory / "data",
        host="127.0.0.1",
        port=0,
        lease_seconds=LEASE_SECONDS,
        beat_seconds=BEAT_SECONDS,
        checkpoint_seconds=CHECKPOINT_SECONDS,
        max_crashes=MAX_CRASHES,
    )
    keys = make_keys(settings)  # before the service starts: it asks for keys from its first request on
    log = directory / "stack.log"
    random_ = random.Random(seed)
    due = schedule(arguments.kills, per_minute=arguments.per_minute, random_=random_)
    planned_jobs = plan_jobs(num_jobs, TENANTS, random_)
    others = set(_descendants())
    began = time.monotonic()
    with log.open("ab") as file, Stack(settings, num_workers=arguments.workers, log=file) as stack, Launcher(stack):
        run = Run(directory, stack, keys=keys, seed=seed, num_workers=arguments.workers, epochs=arguments.epochs)
        run.prepare({one.oracle_number for one in planned_jobs})
        print(f"  the oracle is complete after {time.monotonic() - began:.0f} s", flush=True)
        started = time.monotonic()
        with Killer(stack, spared_crashes=SPARED_CRASHES, random_=random.Random(run.seed)) as killer:
            try:
                run.disturb(killer, due, planned_jobs)
                chaos_seconds = time.monotonic() - started
                settle(stack, killer, directory / "data" / "artifacts", list(run.jobs))
            finally:
                run.history.flush()
                (directory / "kills.json").write_text(json.dumps([asdict(kill) for kill in killer.kills], indent=1))
        outcomes = {job_id: outcome_of(run.client(planned.client), job_id) for job_id, planned in run.jobs.items()}
        listed = [job_id for tenant in TENANTS for job_id in run.listed(tenant)]
        foreign = run.foreign_sights()
        found = survey(directory / "data" / "artifacts", settings.staging_dir, log)
        below = {pid: command for pid, command in _descendants().items() if pid not in others}
    run.close()
    evidence = Evidence(
        exchanges=run.history.exchanges,
        roles={job_id: planned.role for job_id, planned in run.jobs.items()},
        bodies={job_id: planned.oracle_number for job_id, planned in run.jobs.items()},
        outcomes=outcomes,
        listed=listed,
        foreign_sights=foreign,
        oracle=run.oracle,
        survey=found,
        outages=_outages(killer.kills),
        lost_work=[seconds for outcome in outcomes.values() for seconds in lost_work(outcome.events)],
        lost_work_bound_seconds=LOST_WORK_BOUND_SECONDS,
        leaked=[f"{pid} {command}" for pid, command in below.items() if _lives(pid, command)],
    )
    violations = check(evidence)
    figures = summarize(evidence, violations, killer, seed=seed, chaos_seconds=chaos_seconds, total_seconds=time.monotonic() - began)
    return figures, violations


def _outages(kills: Sequence[Kill]) -> list[Outage]:
    """The times in which clients have to put up with refusals. A killed server is away for the API that starts just then, too."""
    return [Outage(kill.target, kill.at, kill.recovered_at or float("inf")) for kill in kills]


def _descendants() -> dict[int, str]:
    from tests.end_to_end.processes import descendants

    return descendants(os.getpid())


def _lives(pid: int, command: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() == command and bool(command)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
