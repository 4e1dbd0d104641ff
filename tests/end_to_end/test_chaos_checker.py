"""The checker of the chaos runs finds what it is there to find: each planted violation is reported, and a clean run has none."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from benchmarks.chaos_checker import EXTENDED, RESTORED, Evidence, Outage, check, lost_work, num_duplicates, num_lost, share_identical
from benchmarks.chaos_history import Exchange
from benchmarks.chaos_survey import Commit, Survey, read_log
from benchmarks.chaos_workload import Outcome, Role, content_sha256
from worker.jobs import key_sha256

JOB, OTHER = "job_01M84K9HDDAJZAD5F3E26JSCXC", "job_01M84K9HDDAJZAD5F3E26JSCXD"


def exchange(**changes: Any) -> Exchange:
    fields: dict[str, Any] = {
        "client": "anna",
        "began_at": 100.0,
        "ended_at": 100.1,
        "method": "GET",
        "path": f"/v1/jobs/{JOB}",
        "key": None,
        "status": 200,
        "error": None,
        "retry_after": None,
        "document": {"id": JOB, "status": "running", "attempt": 1, "terminal": False},
    }
    return Exchange(**fields | changes)


def submission(job_id: str = JOB, **changes: Any) -> Exchange:
    document = {"id": job_id, "status": "queued", "attempt": 0, "terminal": False}
    return exchange(**{"method": "POST", "path": "/v1/jobs", "key": "k", "status": 202, "document": document, "began_at": 50.0} | changes)


def transitions(*words: str) -> list[dict[str, str]]:
    return [{"to": word} for word in words]


def outcome(**changes: Any) -> Outcome:
    job = {
        "status": "succeeded",
        "terminal": True,
        "snapshot_count": 4,
        "error": None,
        "attempt": 2,
        "transitions": transitions("queued", "running", "queued", "running", "succeeded"),
    }
    fields: dict[str, Any] = {
        "job": job,
        "snapshots": ["a", "b", "c", "d"],
        "cycles": [0, 1, 2, 3],
        "weights": ["a", "b", "c", "d"],
        "contents": ["A", "B", "C", "D"],
        "predictions": "p",
        "snapshot_events": [0, 1, 2, 3],
    }
    fields["job"] = job | changes.pop("job", {})
    return Outcome(**fields | changes)


def survey(**changes: Any) -> Survey:
    found = Survey(specs={JOB: key_sha256("k")}, results={JOB: "succeeded"}, snapshots={JOB: [0, 1, 2, 3]})
    found.log = [Commit(JOB, 5, None, "claimed"), Commit(JOB, 5, 0, "committed"), Commit(JOB, 7, None, "claimed")]
    return replace(found, **changes)


def evidence(**changes: Any) -> Evidence:
    """A run of one job that was interrupted once, without a flaw."""
    fields: dict[str, Any] = {
        "exchanges": [submission(), submission(began_at=60.0), exchange()],
        "roles": {JOB: Role.PLAIN},
        "bodies": {JOB: 0},
        "outcomes": {JOB: outcome()},
        "listed": [JOB],
        "oracle": {0: outcome()},
        "survey": survey(),
    }
    return Evidence(**fields | changes)


GROWN = {"to": "queued", "reason": EXTENDED}
LONGER: dict[str, Any] = {
    "snapshots": ["a", "b", "c", "d", "e"],
    "cycles": [0, 1, 2, 3, 4],
    "weights": ["a", "b", "c", "d", "e"],
    "contents": ["A", "B", "C", "D", "E"],
    "predictions": "q",
    "snapshot_events": [0, 1, 2, 3, 4],
}
ENDED = {"id": JOB, "status": "succeeded", "attempt": 1, "terminal": True}


def extended_evidence(*journey: dict[str, str], **changes: Any) -> Evidence:
    """A run of one job that got a cycle more after its end."""
    grown = outcome(**LONGER, job={"snapshot_count": 5, "transitions": [*(journey or GROWN_JOURNEY)]})
    fields: dict[str, Any] = {
        "exchanges": [
            submission(),
            exchange(document=ENDED),
            exchange(
                method="POST", path=f"/v1/jobs/{JOB}/extend", began_at=101.0, ended_at=101.2, document={"id": JOB, "status": "queued"}
            ),
            exchange(began_at=102.0, ended_at=102.1),
            exchange(document=ENDED, began_at=103.0, ended_at=103.1),
        ],
        "roles": {JOB: Role.EXTENDED_LATER},
        "bodies": {JOB: 6},
        "outcomes": {JOB: grown},
        "oracle": {6: outcome(**LONGER)},
        "survey": survey(snapshots={JOB: [0, 1, 2, 3, 4]}),
    }
    return evidence(**fields | changes)


GROWN_JOURNEY = (*transitions("queued", "running", "succeeded"), GROWN, *transitions("running", "succeeded"))


def test_a_job_that_got_more_cycles_may_leave_its_end_once() -> None:
    assert check(extended_evidence()) == []


def test_what_was_planned_when_a_snapshot_of_an_extended_job_was_taken_is_not_compared() -> None:
    planned_later = ["v", "w", "x", "y", "e"]
    oracle = outcome(**LONGER | {"snapshots": planned_later, "weights": planned_later})
    assert check(extended_evidence(oracle={6: oracle})) == []


def snapshot_file(*, cycles: int, next_learning_rate: float | None, **changes: Any) -> bytes:
    said = {"config": {"schedule": {"cycles": cycles, "max_lr": 0.1}, "seed": 0}, "next_learning_rate": next_learning_rate, "step": 8}
    return save({"weight": np.arange(3, dtype=np.float32) + changes.pop("shift", 0)}, {"snapcycle": json.dumps(said | changes)})


def test_the_content_of_a_snapshot_is_all_but_the_length_of_the_plan() -> None:
    content = content_sha256(snapshot_file(cycles=4, next_learning_rate=None))
    assert content_sha256(snapshot_file(cycles=6, next_learning_rate=0.1)) == content
    assert content_sha256(snapshot_file(cycles=4, next_learning_rate=None, step=9)) != content
    assert content_sha256(snapshot_file(cycles=4, next_learning_rate=None, shift=1)) != content


def test_a_clean_run_has_no_violation() -> None:
    assert check(evidence()) == []
    assert share_identical(evidence()) == (1, 1)


RESTORED_JOB = {"to": "queued", "reason": RESTORED}
LATER = exchange(status=503, retry_after="2", document={"detail": "away"})
BROKEN = exchange(status=None, error="ReadError", document={})

FLAWS: dict[str, tuple[str, Evidence]] = {
    "an acknowledged job is gone": ("I1", evidence(listed=[])),
    "one key made two jobs": ("I1", evidence(exchanges=[submission(), submission(OTHER)], listed=[JOB, OTHER])),
    "a job nobody was told of has the key": (
        "I1",
        evidence(listed=[JOB, OTHER], survey=survey(specs={JOB: key_sha256("k"), OTHER: key_sha256("k")})),
    ),
    "a job is listed twice": ("I1", evidence(listed=[JOB, JOB])),
    "a job never ends": (
        "I1",
        evidence(outcomes={JOB: outcome(job={"status": "running", "terminal": False, "transitions": transitions("queued", "running")})}),
    ),
    "a plain job fails": (
        "I1",
        evidence(
            outcomes={JOB: outcome(job={"status": "failed", "transitions": transitions("queued", "running", "failed")})},
            survey=survey(results={JOB: "failed"}),
        ),
    ),
    "the stored result says something else": ("I1", evidence(survey=survey(results={JOB: "cancelled"}))),
    "there is no stored result": ("I1", evidence(survey=survey(results={}))),
    "a transition is not legal": (
        "I2",
        evidence(outcomes={JOB: outcome(job={"transitions": transitions("queued", "succeeded", "running")})}),
    ),
    "a job that had ended is restored without a wipe": (
        "I2",
        evidence(
            outcomes={
                JOB: outcome(job={"transitions": [*transitions("queued", "failed"), RESTORED_JOB, *transitions("running", "succeeded")]})
            }
        ),
    ),
    "a job is queued twice without a word": (
        "I2",
        evidence(outcomes={JOB: outcome(job={"transitions": transitions("queued", "queued", "running", "succeeded")})}),
    ),
    "an end is left without a word": (
        "I2",
        extended_evidence(*transitions("queued", "running", "succeeded", "queued", "running", "succeeded")),
    ),
    "an end is left although nobody asked for more": ("I2", extended_evidence(roles={JOB: Role.PLAIN})),
    "an end is left once more": (
        "I2",
        extended_evidence(exchanges=[*extended_evidence().exchanges, exchange(began_at=104.0, ended_at=104.1)]),
    ),
    "an end is left before that was asked for": (
        "I2",
        extended_evidence(exchanges=[exchange(document=ENDED), exchange(began_at=100.2, ended_at=100.3)]),
    ),
    "an acknowledged extension is forgotten": ("I3", extended_evidence(outcomes={JOB: outcome()})),
    "an end is taken back": (
        "I2",
        evidence(
            exchanges=[
                exchange(document={"id": JOB, "status": "succeeded", "attempt": 1, "terminal": True}),
                exchange(began_at=101.0, ended_at=102.0),
            ]
        ),
    ),
    "attempts fall": (
        "I2",
        evidence(exchanges=[exchange(document={"id": JOB, "status": "running", "attempt": 3}), exchange(began_at=101.0, ended_at=102.0)]),
    ),
    "a snapshot exists twice": ("I3", evidence(outcomes={JOB: outcome(cycles=[0, 1, 1, 2])})),
    "a snapshot is missing": (
        "I3",
        evidence(
            outcomes={JOB: outcome(cycles=[0, 1, 2], snapshots=["a", "b", "c"], snapshot_events=[0, 1, 2], job={"snapshot_count": 3})}
        ),
    ),
    "a snapshot is announced twice": ("I3", evidence(outcomes={JOB: outcome(snapshot_events=[0, 1, 1, 2, 3])})),
    "a snapshot is not stored": ("I3", evidence(survey=survey(snapshots={JOB: [0, 1, 2]}))),
    "a snapshot has other bits": ("I4", evidence(outcomes={JOB: outcome(snapshots=["a", "x", "c", "d"], weights=["a", "x", "c", "d"])})),
    "the bytes sent are others": ("I4", evidence(outcomes={JOB: outcome(weights=["a", "b", "c", "x"])})),
    "a snapshot of an extended job has other bits": (
        "I4",
        extended_evidence(oracle={6: outcome(**LONGER | {"contents": ["A", "B", "C", "D", "X"]})}),
    ),
    "a prediction is another": ("I4", evidence(outcomes={JOB: outcome(predictions="x")})),
    "a zombie commits": (
        "I5",
        evidence(survey=survey(log=[Commit(JOB, 5, None, "claimed"), Commit(JOB, 7, None, "claimed"), Commit(JOB, 5, 0, "committed")])),
    ),
    "an epoch falls": ("I5", evidence(survey=survey(log=[Commit(JOB, 7, None, "claimed"), Commit(JOB, 5, None, "claimed")]))),
    "a cycle is committed twice": ("I5", evidence(survey=survey(log=[Commit(JOB, 7, 0, "committed"), Commit(JOB, 7, 0, "committed")]))),
    "an object is damaged": ("I6", evidence(survey=survey(damaged=["jobs/a"]))),
    "a process is left": ("I6", evidence(leaked=["12 trainer"])),
    "a tenant sees another one's job": ("I7", evidence(foreign_sights=["ben was told of anna's job"])),
    "a 500": ("I8", evidence(exchanges=[exchange(status=500, document={"detail": "defect"})])),
    "a 503 beside a healthy server": ("I8", evidence(exchanges=[LATER])),
    "a 503 without Retry-After": (
        "I8",
        evidence(exchanges=[replace(LATER, retry_after=None)], outages=[Outage("server", 99.0, 101.0)]),
    ),
    "a connection breaks although nobody was killed": ("I8", evidence(exchanges=[BROKEN], outages=[Outage("server", 99.0, 101.0)])),
    "much work is done twice": ("I9", evidence(lost_work=[0.1, 12.0], lost_work_bound_seconds=10.0)),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_planted_violation_is_found(flaw: str) -> None:
    invariant, planted = FLAWS[flaw]
    assert invariant in {violation.invariant for violation in check(planted)}


def test_a_job_whose_submission_never_came_to_redis_is_restored_without_a_wipe() -> None:
    restored = [*transitions("queued"), RESTORED_JOB, *transitions("running", "succeeded")]
    assert check(evidence(outcomes={JOB: outcome(job={"transitions": restored})})) == []


def test_refusals_within_an_outage_are_right() -> None:
    outages = [Outage("server", 99.0, 100.05), Outage("api", 99.0, 100.05)]
    assert check(evidence(exchanges=[submission(), LATER, BROKEN], outages=outages)) == []


def test_the_counts_of_the_table_are_those_of_the_violations() -> None:
    assert num_lost(check(FLAWS["an acknowledged job is gone"][1])) == 1
    assert num_duplicates(check(FLAWS["one key made two jobs"][1])) == 1
    assert num_duplicates(check(FLAWS["a snapshot exists twice"][1])) == 1
    assert share_identical(FLAWS["a snapshot has other bits"][1]) == (0, 1)


def progress(seconds: int, step: int) -> dict[str, Any]:
    return {"type": "progress", "at": f"2026-11-23T12:00:{seconds:02d}.000Z", "step": step}


def test_lost_work_is_the_time_between_the_checkpoint_and_the_kill() -> None:
    queued = {"type": "state", "status": "queued"}
    events = [
        queued,
        progress(1, 100),
        progress(2, 200),
        progress(3, 300),
        queued,
        progress(20, 180),
        progress(21, 290),
        queued,
        progress(30, 400),
    ]
    assert lost_work(events) == [1.0, 0.0]


def test_claims_and_commits_are_read_from_the_log_of_a_worker() -> None:
    log = (
        f"2026-11-23 23:41:33,492 INFO worker.supervisor: job {JOB}: claimed with epoch 17\n"
        f"2026-11-23 23:41:34,492 INFO worker.attempt: job {JOB}: snapshot 0 committed with epoch 17 (validation loss 0.5)\n"
        "Traceback (most recent call last):\n  File \"x\", line 1\nValueError: bad\n"
    )  # fmt: skip
    assert read_log(log) == ([Commit(JOB, 17, None, "claimed"), Commit(JOB, 17, 0, "committed")], ["ValueError: bad"])
