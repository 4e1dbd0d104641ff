"""A real stack to be hurt, and one fault at a time on it: jobs are run through the fault, and every invariant is checked afterwards."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmarks.chaos_checker import Evidence, Outage, Violation, check
from benchmarks.chaos_history import Exchange, History, RecordingClient
from benchmarks.chaos_kills import Launcher, pid_of, trainers_of
from benchmarks.chaos_survey import survey, unlocked_scratch
from benchmarks.chaos_workload import Outcome, Role, body, extend, extended, outcome_of
from service.embedded import Stack
from worker import redis_connection
from worker.failpoints import FIRED
from worker.settings import Settings

Json = dict[str, Any]
T = TypeVar("T")

EPOCHS_PER_CYCLE = 6
"""A job of four cycles takes one or two seconds."""

AUTO_BODY = 5
"""The number of the body whose highest learning rate the job has to find."""

LEASE_SECONDS, BEAT_SECONDS, CHECKPOINT_SECONDS = 4.0, 0.5, 0.3
WAIT_SECONDS = 120.0
"""What takes longer has not healed; the slowest, a leader that dies with its lease, takes half a minute."""


class NotHealedError(AssertionError):
    """Something did not happen in its time."""


class Site:
    """A running stack with one worker, an undisturbed run of each body, and a directory that arms failpoints."""

    def __init__(self, directory: Path, *, redis_url: str | None = None, num_workers: int = 1, **changes: Any) -> None:
        self.directory = directory
        self._num_workers = num_workers
        self.armed = directory / "failpoints"
        self.armed.mkdir(parents=True)
        self.log = directory / "stack.log"
        self._settings = Settings.model_validate(
            {
                "redis_url": redis_url,
                "artifacts": None,
                "data_dir": directory / "data",
                "host": "127.0.0.1",
                "port": 0,
                "lease_seconds": LEASE_SECONDS,
                "beat_seconds": BEAT_SECONDS,
                "checkpoint_seconds": CHECKPOINT_SECONDS,
                "drain_seconds": 10.0,
                "failpoints": f"dir:{self.armed}",
            }
            | changes
        )
        self.oracle: dict[int, Outcome] = {}
        self._numbers = itertools.count()
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices gain nothing from more
        self.history = History(self.directory / "history.jsonl")
        file = self._exits.enter_context(self.log.open("ab"))
        self.stack = self._exits.enter_context(Stack(self._settings, num_workers=self._num_workers, log=file))
        self.launcher = self._exits.enter_context(Launcher(self.stack))
        self.client = RecordingClient("user", self.stack.url, self.history)
        self._exits.callback(self.client.close)
        self._exits.callback(self.history.close)
        self.redis = self._exits.enter_context(redis_connection.connect(str(self.stack.settings.redis_url)))
        made = self.client.call("POST", "/v1/datasets", body={"source": {"type": "builtin", "name": "digits"}}, key="data")
        self.dataset_id: str = made.json()["id"]
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def artifacts(self) -> Path:
        """The artifact store's directory."""
        return Path(self.stack.settings.artifacts_url)

    @property
    def worker_pid(self) -> int:
        """The worker that runs now."""
        return wait_for("worker", lambda: pid_of(self.stack.workers[0]))

    def trainers(self) -> list[int]:
        """The worker's trainers, the oldest first: that one has the job."""
        return trainers_of(self.worker_pid)

    def undisturbed(self, number: int) -> Outcome:
        """What a body comes to when nothing happens; run when it is first needed."""
        if number not in self.oracle:
            job_id = self.client.call("POST", "/v1/jobs", body=self.request(number), key=f"oracle-{number}").json()["id"]
            wait_for("end of the undisturbed run", lambda: self.client.call("GET", f"/v1/jobs/{job_id}").json()["terminal"])
            self.oracle[number] = outcome_of(self.client, job_id)
            assert self.oracle[number].job["status"] == "succeeded", self.oracle[number].job["error"]
        return self.oracle[number]

    def undisturbed_extended(self, number: int) -> Outcome:
        """What a body comes to that gets more cycles after its end; run when it is first needed."""
        if extended(number) not in self.oracle:
            job_id = self.undisturbed(number).job["id"]
            assert extend(self.client, job_id, key=f"oracle-{number}-extension")
            wait_for("end of the extended run", lambda: self.client.call("GET", f"/v1/jobs/{job_id}").json()["terminal"])
            self.oracle[extended(number)] = outcome_of(self.client, job_id)
        return self.oracle[extended(number)]

    def request(self, number: int) -> Json:
        """The request of a body."""
        request = body(self.dataset_id, number, epochs_per_cycle=EPOCHS_PER_CYCLE)
        if number == AUTO_BODY:
            request["schedule"]["max_lr"] = "auto"
        return request

    def next_number(self) -> int:
        """A number that no other job of the site has."""
        return next(self._numbers)


class Ordeal:
    """One fault on a site, with the jobs that go through it."""

    def __init__(self, site: Site, *, allowed_failures: frozenset[str] = frozenset(), allows_500: bool = False) -> None:
        self.site = site
        self.allowed_failures = allowed_failures
        self.allows_500 = allows_500
        self.was_wiped = False
        self.roles: dict[str, Role] = {}
        self.bodies: dict[str, int] = {}
        self.deleted: list[str] = []
        self.outages: list[Outage] = []
        self._began_at = time.time()
        self._first = len(site.history.exchanges)

    @property
    def client(self) -> RecordingClient:
        """The user."""
        return self.site.client

    def submit(self, number: int = 0, *, role: Role = Role.PLAIN) -> str:
        """Has a job made, however often it must be asked for."""
        self.site.undisturbed(number)
        made = self.client.call("POST", "/v1/jobs", body=self.site.request(number), key=f"ordeal-{self.site.next_number()}")
        assert made.status_code == 202, made.text
        job_id: str = made.json()["id"]
        self.roles[job_id], self.bodies[job_id] = role, number
        return job_id

    def extend(self, job_id: str) -> None:
        """Has a job get more cycles, however often it must be asked for."""
        number = self.bodies[job_id]
        assert extended(number) in self.site.oracle, "the undisturbed run comes before the fault"
        assert extend(self.client, job_id, key=f"ordeal-{self.site.next_number()}")
        self.bodies[job_id] = extended(number)

    def job(self, job_id: str) -> Json:
        """The job as the API has it; one that a server has lost is waited for, where it was made to lose it."""

        def found() -> Json | None:
            answer = self.client.call("GET", f"/v1/jobs/{job_id}")
            return None if answer.status_code == 404 and self.was_wiped else answer.json()

        return wait_for(f"return of {job_id}", found, seconds=30.0)

    def wait_for_training(self, job_id: str) -> None:
        """Waits for the job's first step, or its end."""
        self.wait(f"training of {job_id}", lambda: (job := self.job(job_id))["phase"] == "training" or job["terminal"])

    def wait_for_snapshots(self, job_id: str, count: int) -> None:
        """Waits for so many snapshots, or the job's end."""
        self.wait(f"snapshots of {job_id}", lambda: (job := self.job(job_id))["snapshot_count"] >= count or job["terminal"])

    def wait_for_ends(self) -> None:
        """Waits until every job has ended and its result is stored."""
        for job_id in self.roles:
            if job_id not in self.deleted:
                self.wait(f"end of {job_id}", partial(self._has_ended, job_id))
                result = self.site.artifacts / "jobs" / job_id / "result.json"
                self.wait(f"result of {job_id}", result.exists)

    def wait(self, what: str, condition: Callable[[], T | None], *, seconds: float = WAIT_SECONDS) -> T:
        """The first true value of the condition."""
        return wait_for(what, condition, seconds=seconds)

    def _has_ended(self, job_id: str) -> bool:
        return bool(self.job(job_id)["terminal"])

    def arm(self, name: str, shot: str) -> None:
        """Has the first process that passes the point fail there."""
        (self.site.armed / f"{name}{FIRED}").unlink(missing_ok=True)
        draft = self.site.armed / f".{name}"
        draft.write_text(shot)
        draft.rename(self.site.armed / name)

    def wait_until_fired(self, name: str) -> None:
        """Waits until a process has failed there."""
        self.wait(f"passing of {name}", (self.site.armed / f"{name}{FIRED}").exists)

    @contextmanager
    def outage(self, *targets: str) -> Iterator[None]:
        """A time in which the parts are away; it ends when the service answers again."""
        began_at = time.time()
        try:
            yield
            self.wait("readiness", self.site.stack.answers_ready)
        finally:
            self.outages += [Outage(target, began_at, time.time()) for target in targets]

    def exchanges(self) -> list[Exchange]:
        """What was asked and answered since the ordeal began."""
        return self.site.history.exchanges[self._first :]

    def check(self) -> list[Violation]:
        """Waits until all is healed, and looks at everything."""
        self.wait_for_ends()
        self.wait("readiness", self.site.stack.answers_ready)
        with suppress(NotHealedError):  # then the survey finds it
            self.wait("sweep of what dead workers left", lambda: not unlocked_scratch(self.site.stack.settings.staging_dir), seconds=20.0)
        jobs = [job_id for job_id in self.roles if job_id not in self.deleted]
        outcomes = {job_id: outcome_of(self.client, job_id) for job_id in jobs}
        exchanges = [one for one in self.exchanges() if one.document.get("id") not in self.deleted]
        settings = self.site.stack.settings
        evidence = Evidence(
            exchanges=exchanges,
            roles=self.roles,
            bodies=self.bodies,
            outcomes=outcomes,
            listed=self._listed(),
            oracle=self.site.oracle,
            survey=survey(self.site.artifacts, settings.staging_dir, self.site.log, only=set(jobs)),
            outages=self.outages,
            allowed_failures=self.allowed_failures,
            allows_500=self.allows_500,
            was_wiped=self.was_wiped,
        )
        return check(evidence)

    def _listed(self) -> list[str]:
        found, after = list[str](), ""
        while True:
            page = self.client.call("GET", f"/v1/jobs?limit=100{after}").json()
            found += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"


def wait_for(what: str, condition: Callable[[], T | None], *, seconds: float = WAIT_SECONDS) -> T:
    """The first true value of the condition.

    Raises:
        NotHealedError: There was none in the time.
    """
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise NotHealedError(f"no {what} within {seconds:.0f} s")
        time.sleep(0.05)
