"""The invariants I1 to I9 of the fault plan, over everything that a run has left: what clients were told, what the API says now, the disk.

Every check is a function of the evidence alone, so that a test can show that it finds what it is there to find.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from benchmarks.chaos_history import Exchange
from benchmarks.chaos_survey import Survey
from benchmarks.chaos_workload import Outcome, Role
from worker.jobs import JobStatus, key_sha256

Json = dict[str, Any]

LEGAL: Mapping[str | None, frozenset[str]] = {
    None: frozenset({"queued"}),
    "queued": frozenset({"running", "paused", "cancelled", "succeeded", "failed"}),
    "running": frozenset({"queued", "paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "succeeded", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""Transitions; a queued job succeeds or fails only where its result was stored before its end was lost, and jobs are read back."""

EXTENDED = "extend"
"""The reason of the only transition out of a terminal state, that of a succeeded job which gets more cycles."""

RESTORED = "restored from the artifact store"
"""The reason of a transition to queued by which a job begins anew in a database that had lost it, whatever it was before."""

OUTAGE_SLACK_SECONDS = 5.0
"""After a part is back, requests that began before still fail: by time-outs of two seconds and a look-up."""


@dataclass(frozen=True)
class Violation:
    """One finding."""

    invariant: str
    what: str


@dataclass(frozen=True)
class Outage:
    """A time in which a part was away: the server (503 is right) or an API (broken connections are right)."""

    target: str
    began_at: float
    ended_at: float


@dataclass
class Evidence:
    """All that is known of a run.

    Attributes:
        roles: What each acknowledged job was meant to be.
        bodies: The number by which the oracle knows what it comes to.
        outcomes: What each has come to.
        listed: The ids that the API lists at the end.
        oracle: What each body comes to, undisturbed, as it is and with more cycles.
        foreign_sights: What a tenant was told of another one's objects.
        allowed_failures: Error categories that the faults of the run may end any job with.
        allows_500: Whether a defect was injected, for which 500 is the right answer.
        was_wiped: Whether Redis lost its data, so transitions and attempts may begin anew.
        lost_work: Seconds of training that each interruption cost.
        lost_work_bound_seconds: The checkpoint interval, and what a commit may take on a busy machine.
        leaked: Processes that outlived the stack.
    """

    exchanges: Sequence[Exchange]
    roles: Mapping[str, Role]
    bodies: Mapping[str, int]
    outcomes: Mapping[str, Outcome]
    listed: Sequence[str]
    oracle: Mapping[int, Outcome]
    survey: Survey
    foreign_sights: Sequence[str] = ()
    outages: Sequence[Outage] = ()
    allowed_failures: frozenset[str] = frozenset()
    allows_500: bool = False
    was_wiped: bool = False
    lost_work: Sequence[float] = ()
    lost_work_bound_seconds: float = float("inf")
    leaked: Sequence[str] = field(default_factory=list)


def check(evidence: Evidence) -> list[Violation]:
    """All violations, none for a run as it should be."""
    checks: dict[str, Callable[[Evidence], Iterable[str]]] = {
        "I1": _every_202_is_one_job,
        "I2": _transitions_are_legal,
        "I3": _snapshots_are_complete,
        "I4": _bits_are_the_oracles,
        "I5": _one_committer,
        "I6": _nothing_is_damaged_or_left,
        "I7": lambda evidence: evidence.foreign_sights,
        "I8": _refusals_have_their_reason,
        "I9": _little_work_is_lost,
    }
    return [Violation(name, what) for name, look in checks.items() for what in look(evidence)]


def num_lost(violations: Iterable[Violation]) -> int:
    """Jobs that are gone, or never came to their end."""
    return sum(one.invariant == "I1" and one.what.startswith("lost") for one in violations)


def num_duplicates(violations: Iterable[Violation]) -> int:
    """Jobs and snapshots that exist twice."""
    return sum("twice" in one.what for one in violations)


def share_identical(evidence: Evidence) -> tuple[int, int]:
    """The succeeded jobs with the oracle's bits, and all succeeded ones."""
    done = [job_id for job_id, outcome in evidence.outcomes.items() if outcome.job["status"] == JobStatus.SUCCEEDED]
    return sum(_same_bits(evidence, job_id) for job_id in done), len(done)


def _every_202_is_one_job(evidence: Evidence) -> Iterator[str]:
    by_key: dict[str, set[str]] = defaultdict(set)
    for one in evidence.exchanges:
        if one.method == "POST" and one.path == "/v1/jobs" and one.status == 202 and one.key is not None:
            by_key[one.key].add(one.document["id"])
    listed = Counter(evidence.listed)
    for key, ids in by_key.items():
        if len(ids) > 1:
            yield f"the key {key} made jobs twice: {', '.join(sorted(ids))}"
        yield from (f"lost: {job_id}, which was acknowledged, is not listed" for job_id in ids if job_id not in listed)
        same = [job_id for job_id, hashed in evidence.survey.specs.items() if hashed == key_sha256(key) and job_id in listed]
        if len(same) > 1:
            yield f"the key {key} is that of jobs that exist twice: {', '.join(sorted(same))}"
    yield from (f"{job_id} is listed twice" for job_id, count in listed.items() if count > 1)
    for job_id, outcome in evidence.outcomes.items():
        if not outcome.job["terminal"]:
            yield f"lost: {job_id} is {outcome.job['status']} and has not ended"
        status, role = outcome.job["status"], evidence.roles[job_id]
        error = (outcome.job.get("error") or {}).get("category")
        expected = {"succeeded"} | {Role.CANCELLED: {"cancelled"}, Role.POISON: {"failed"}}.get(role, set())
        if status not in expected and not (status == "failed" and error in evidence.allowed_failures):
            yield f"lost: {job_id} ({role}) ended as {status} ({outcome.job.get('error')})"
        if job_id in evidence.survey.results and evidence.survey.results[job_id] != status:
            yield f"lost: {job_id} is {status}, but its stored result says {evidence.survey.results[job_id]}"
        if outcome.job["terminal"] and job_id not in evidence.survey.results:
            yield f"lost: {job_id} has ended without a stored result"


def _transitions_are_legal(evidence: Evidence) -> Iterator[str]:
    for job_id, outcome in evidence.outcomes.items():
        before = None
        for one in outcome.job["transitions"]:
            # A job whose submission never came to Redis, only to the store, is restored without a wipe: before it was nothing but queued.
            was_restored = one.get("reason") == RESTORED and (evidence.was_wiped or before == "queued")
            was_extended = before == "succeeded" and one.get("reason") == EXTENDED and evidence.roles[job_id].is_extended
            if one["to"] not in LEGAL[before] and not was_restored and not (was_extended and one["to"] == "queued"):
                yield f"{job_id} went from {before} to {one['to']}"
            before = one["to"]
        if before != outcome.job["status"]:
            yield f"{job_id} is {outcome.job['status']}, but its last transition was to {before}"
    extensions = _moments_of_extension(evidence)
    ended: dict[str, tuple[str, float]] = {}
    attempts: dict[str, int] = {}
    for one in sorted(evidence.exchanges, key=lambda each: each.ended_at):
        job_id, status = one.document.get("id", ""), one.document.get("status")
        if one.status not in (200, 202) or not job_id.startswith("job_") or status is None:
            continue
        if job_id in ended and one.ended_at > extensions.get(job_id, float("inf")):
            del ended[job_id], extensions[job_id]  # once: each job is extended once
        if job_id in ended and status != ended[job_id][0] and one.began_at > ended[job_id][1]:
            yield f"{job_id} was {ended[job_id][0]} and later {status}"
        if one.document.get("terminal") and job_id not in ended:
            ended[job_id] = (status, one.ended_at)
        if not evidence.was_wiped and one.method == "GET":
            if one.document["attempt"] < attempts.get(job_id, 0):
                yield f"the attempts of {job_id} fell from {attempts[job_id]} to {one.document['attempt']}"
            attempts[job_id] = one.document["attempt"]


def _moments_of_extension(evidence: Evidence) -> dict[str, float]:
    """When users first asked for more cycles, by job."""
    moments: dict[str, float] = {}
    for one in evidence.exchanges:
        head, _, verb = one.path.rpartition("/")
        if one.method == "POST" and verb == "extend":
            job_id = head.rpartition("/")[2]
            moments[job_id] = min(one.began_at, moments.get(job_id, one.began_at))
    return moments


def _snapshots_are_complete(evidence: Evidence) -> Iterator[str]:
    for job_id, outcome in evidence.outcomes.items():
        num = len(outcome.cycles)
        if sorted(set(outcome.cycles)) != sorted(outcome.cycles):
            yield f"{job_id} has a snapshot twice: cycles {outcome.cycles}"
        if sorted(outcome.cycles) != list(range(num)):
            yield f"{job_id} has the snapshots {outcome.cycles}, with gaps"
        expected = len(evidence.oracle[evidence.bodies[job_id]].cycles)
        if outcome.job["status"] == JobStatus.SUCCEEDED and num != expected:
            yield f"{job_id} has {num} snapshots instead of {expected}"
        if outcome.job["snapshot_count"] != num:
            yield f"{job_id} says that it has {outcome.job['snapshot_count']} snapshots, and lists {num}"
        events = Counter(outcome.snapshot_events)
        yield from (f"{job_id} announced the snapshot {cycle} twice" for cycle, count in events.items() if count > 1)
        if set(events) != set(outcome.cycles):
            yield f"{job_id} announced the snapshots {sorted(events)}, and lists {outcome.cycles}"
        stored = sorted(evidence.survey.snapshots.get(job_id, []))
        if stored != sorted(outcome.cycles) and outcome.job["status"] == JobStatus.SUCCEEDED:
            yield f"{job_id} lists the snapshots {outcome.cycles}, and {stored} are stored"


def _bits_are_the_oracles(evidence: Evidence) -> Iterator[str]:
    for job_id in evidence.outcomes:
        if not _same_bits(evidence, job_id):
            yield f"{job_id} (body {evidence.bodies[job_id]}) has other bits than the undisturbed run"


def _same_bits(evidence: Evidence, job_id: str) -> bool:
    outcome, oracle = evidence.outcomes[job_id], evidence.oracle[evidence.bodies[job_id]]
    if outcome.weights != outcome.snapshots:  # what is sent is what is listed
        return False
    is_extended = evidence.roles[job_id].is_extended
    found, known = (each.contents if is_extended else each.snapshots for each in (outcome, oracle))
    expected = dict(zip(oracle.cycles, known, strict=True))
    if any(expected.get(cycle) != sha256 for cycle, sha256 in zip(outcome.cycles, found, strict=True)):
        return False
    return outcome.job["status"] != JobStatus.SUCCEEDED or (found, outcome.predictions) == (known, oracle.predictions)


def _one_committer(evidence: Evidence) -> Iterator[str]:
    claimed: dict[str, int] = {}
    committed: Counter[tuple[str, int]] = Counter()
    for one in evidence.survey.log:
        if one.cycle is None:
            if one.epoch <= claimed.get(one.job_id, 0):
                yield f"{one.job_id} was claimed with epoch {one.epoch} after {claimed[one.job_id]}"
            claimed[one.job_id] = max(one.epoch, claimed.get(one.job_id, 0))
        elif one.outcome == "committed":
            committed[one.job_id, one.cycle] += 1
            if one.epoch < claimed.get(one.job_id, 0):
                yield f"epoch {one.epoch} of {one.job_id} committed the snapshot {one.cycle} after the claim of {claimed[one.job_id]}"
    if not evidence.was_wiped:
        yield from (f"{job_id} committed the snapshot {cycle} twice" for (job_id, cycle), count in committed.items() if count > 1)


def _nothing_is_damaged_or_left(evidence: Evidence) -> Iterator[str]:
    yield from (f"damaged: {what}" for what in evidence.survey.damaged)
    yield from (f"a scratch directory was left: {name}" for name in evidence.survey.old_scratch)
    yield from (f"a process outlived the stack: {what}" for what in evidence.leaked)


def _refusals_have_their_reason(evidence: Evidence) -> Iterator[str]:
    for one in evidence.exchanges:
        asked = f"{one.method} {one.path} by {one.client}, {one.ended_at - one.began_at:.1f} s"
        if one.status is None:
            if not _overlaps(one, evidence.outages, {"api", "leader", "worker"}):
                yield f"{asked}: no answer ({one.error}) although no API had been killed"
        elif one.status == 503:
            if one.retry_after is None:
                yield f"{asked}: 503 without Retry-After"
            if not _overlaps(one, evidence.outages, {"server", "disk"}):
                yield f"{asked}: 503 ({one.document.get('detail')}) although the server had not been away"
        elif one.status >= 500 and not evidence.allows_500:
            yield f"{asked}: {one.status} ({one.document.get('detail')})"


def _overlaps(one: Exchange, outages: Iterable[Outage], targets: set[str]) -> bool:
    return any(
        outage.target in targets and one.ended_at >= outage.began_at and one.began_at <= outage.ended_at + OUTAGE_SLACK_SECONDS
        for outage in outages
    )


def _little_work_is_lost(evidence: Evidence) -> Iterator[str]:
    bound = evidence.lost_work_bound_seconds
    yield from (
        f"{seconds:.1f} s of training were lost at once, more than {bound:g} s" for seconds in evidence.lost_work if seconds > bound
    )


def lost_work(events: Sequence[Json]) -> list[float]:
    """Seconds of training that were done twice, for each time that a job ran again, by its progress events."""
    lost = []
    reached: list[tuple[float, int]] = []
    is_new_attempt = False
    for event in events:
        if event["type"] == "state" and event.get("status") == "queued":
            is_new_attempt = bool(reached)
        elif event["type"] == "progress":
            at, step = datetime.fromisoformat(event["at"]).timestamp(), event["step"]
            if is_new_attempt:
                again = [moment for moment, done in reached if done >= step]
                lost.append(max(reached[-1][0] - again[0], 0.0) if again else 0.0)
                reached, is_new_attempt = [], False
            reached.append((at, step))
    return lost
