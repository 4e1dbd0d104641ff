"""The figures of a chaos run, for the file and for people."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.chaos_checker import EXTENDED, Evidence, Violation, num_duplicates, num_lost, share_identical
from benchmarks.chaos_kills import WEIGHTS, Killer

Json = dict[str, Any]


def summarize(evidence: Evidence, violations: Sequence[Violation], killer: Killer, **numbers: float) -> Json:
    """The figures that are published."""
    kills = killer.kills
    identical, succeeded = share_identical(evidence)
    recovery = {
        target: percentiles([kill.recovered_at - kill.at for kill in kills if kill.target == target and kill.recovered_at is not None])
        for target in (*WEIGHTS, None)
        if target is not None
    }
    everything = percentiles([kill.recovered_at - kill.at for kill in kills if kill.recovered_at is not None])
    return {
        "benchmark": "chaos",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "seed": numbers["seed"],
        "kills": len(kills),
        "kills_by_target": dict(Counter(kill.target for kill in kills)),
        "kills_of_a_running_job": sum(kill.job_id is not None for kill in kills),
        "kills_of_poison_jobs_besides": killer.num_poison_kills,
        "jobs": len(evidence.outcomes),
        "jobs_by_end": dict(Counter(str(outcome.job["status"]) for outcome in evidence.outcomes.values())),
        "jobs_by_role": dict(Counter(str(role) for role in evidence.roles.values())),
        "jobs_that_rested": _num_with(evidence, "paused"),
        "jobs_reopened": _num_with(evidence, "queued", EXTENDED),
        "jobs_interrupted": sum(outcome.job["attempt"] > 1 for outcome in evidence.outcomes.values()),
        "requests": len(evidence.exchanges),
        "requests_without_answer": sum(one.status is None for one in evidence.exchanges),
        "requests_told_later": sum(one.status == 503 for one in evidence.exchanges),
        "lost": num_lost(violations),
        "duplicates": num_duplicates(violations),
        "bit_identical": f"{identical} of {succeeded}",
        "snapshots_compared": sum(len(outcome.cycles) for outcome in evidence.outcomes.values()),
        "bound_95_percent": round(3 / len(kills), 5) if kills else None,
        "recovery_seconds": everything,
        "recovery_seconds_by_target": recovery,
        "lost_work_seconds": percentiles(evidence.lost_work),
        "chaos_seconds": round(numbers["chaos_seconds"], 1),
        "total_seconds": round(numbers["total_seconds"], 1),
        "violations": len(violations),
        "tracebacks": dict(Counter(line[:120] for line in evidence.survey.tracebacks)),
        "objects_verified": evidence.survey.num_objects,
        "half_written_files": len(evidence.survey.drafts),
    }


def _num_with(evidence: Evidence, to: str, reason: str | None = None) -> int:
    """Jobs that have gone this way at least once."""
    journeys = [outcome.job["transitions"] for outcome in evidence.outcomes.values()]
    return sum(any(one["to"] == to and reason in (None, one.get("reason")) for one in journey) for journey in journeys)


def percentiles(seconds: Sequence[float]) -> Json:
    """Median, 99th percentile and maximum."""
    if not seconds:
        return {"count": 0, "p50": None, "p99": None, "max": None}
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"count": len(ordered), "p50": round(statistics.median(ordered), 2), "p99": round(p99, 2), "max": round(ordered[-1], 2)}


def as_table(figures: Json) -> str:
    """The figures for people."""
    recovery = figures["recovery_seconds_by_target"]
    lines = [f"{figures['kills']} SIGKILLs over {figures['jobs']} jobs, seed {figures['seed']} ({figures['machine']})"]
    lines.append(f"  {'target':<10} {'kills':>6} {'recovered: p50':>16} {'p99':>8}")
    for target, count in figures["kills_by_target"].items():
        lines.append(f"  {target:<10} {count:>6} {_seconds(recovery[target]['p50']):>16} {_seconds(recovery[target]['p99']):>8}")
    names = (
        "kills_of_a_running_job",
        "jobs_by_role",
        "jobs_by_end",
        "jobs_that_rested",
        "jobs_reopened",
        "jobs_interrupted",
        "requests",
        "requests_without_answer",
        "requests_told_later",
    )
    lines += [f"  {name.replace('_', ' '):<30} {figures[name]}" for name in names]
    lines += [f"  {name.replace('_', ' '):<30} {figures[name]}" for name in ("lost", "duplicates", "bit_identical", "violations")]
    lines.append(f"  a kill loses or doubles something with a probability below {figures['bound_95_percent']} (95 %, 3/n)")
    lines.append(f"  recovery {figures['recovery_seconds']}, lost work {figures['lost_work_seconds']}")
    lines.append(f"  {figures['chaos_seconds']:.0f} s under fire, {figures['total_seconds']:.0f} s in all")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
