"""From what a study's runs have left behind to its table: a pure function, so whoever repeats it gets the same numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from clr.deep_ensembles import Equivalent, equivalent, windows
from clr.estimates import Estimate, estimate, paired_difference
from clr.loss_evolution import loss_evolution
from clr.studies import ArmPlan, Members, StudyPlan, plan_study
from clr.study_config import Arm, StudyConfig
from clr.study_outcomes import CLASSIFICATION_METRICS, REGRESSION_METRICS, FailedRun, Measured, Outcomes, measure_runs

METRICS = CLASSIFICATION_METRICS + REGRESSION_METRICS
SINGLE_RUNS = (Arm.FIXED, Arm.STEP, Arm.EXPONENTIAL, Arm.COSINE)
BOUNDS = {"error": (0.0, 1.0), "ece": (0.0, 1.0), "brier": (0.0, 2.0)}
"""Of the measures; the others are >= 0 without a largest value. An interval of Student's t knows nothing of them, so it is clipped."""

VERDICT_METRICS = ("error", "nll", "rmse")
"""What the automatic plan promises; those that the task has."""

Json = dict[str, Any]
Measure = Callable[[Sequence[str], Members], Measured | None]


@dataclass(frozen=True)
class ArmReport:
    """One row of the table.

    Attributes:
        arm: Which one.
        members: Which snapshots it averages.
        num_members: How many, for each seed; None where a run failed.
        epochs: What it has cost for each seed, range tests included; None where a run failed.
        metrics: By name, on the test rows; None where the task has no such measure, or no seed a value.
        difference: To the cosine arm, seed by seed; None where that is absent, or the arm itself.
        equivalent: How many independent networks it is worth, with the ends of the interval; None for single runs.
        failures: Runs without a result, with the reason.
        loss: The training loss by step, as columns and rows.
    """

    arm: Arm
    members: Members
    num_members: tuple[int | None, ...]
    epochs: tuple[float | None, ...]
    metrics: Mapping[str, Estimate | None]
    difference: Mapping[str, Estimate | None] | None
    equivalent: tuple[Equivalent, Equivalent | None, Equivalent | None] | None
    failures: tuple[Json, ...]
    loss: Json


def study_report(config: StudyConfig, outcomes: Outcomes, *, on_measured: Callable[[], None] | None = None) -> Json:
    """The table with all that belongs to it, as JSON-able values.

    Args:
        config: What was asked for.
        outcomes: Of every run of ``plan_study(config)``, by key.
        on_measured: Called after each ensemble that was measured; an exception from it ends the work.
    """
    plan = plan_study(config)

    def measure(keys: Sequence[str], members: Members) -> Measured | None:
        found = measure_runs(outcomes, keys, members)
        if on_measured is not None:
            on_measured()
        return found

    measured = {arm.arm: [measure(keys, arm.members) for keys in arm.replicates] for arm in plan.arms}
    estimates = {arm: _estimates(replicates) for arm, replicates in measured.items()}
    curve = _deep_ensembles(plan, measure, config.cycles)
    reports = [_arm_report(arm, measured[arm.arm], estimates, curve, outcomes) for arm in plan.arms]
    return {
        "seeds": list(config.seeds),
        "epochs": config.epochs,
        "cycles": config.cycles,
        "num_runs": len(plan.runs),
        "arms": [_arm_document(report) for report in reports],
        "deep_ensembles": _deep_ensembles_document(curve) if curve else None,
        "auto": _auto_verdict(estimates),
        "notes": _notes(config, reports, measured, has_curve=bool(curve)),
    }


def _estimates(replicates: Sequence[Measured | None]) -> dict[str, Estimate | None]:
    return {
        name: estimate([None if one is None else one.metrics.get(name) for one in replicates], bounds=BOUNDS.get(name, (0.0, math.inf)))
        for name in METRICS
    }


def _arm_report(
    plan: ArmPlan,
    replicates: Sequence[Measured | None],
    estimates: Mapping[Arm, Mapping[str, Estimate | None]],
    curve: Sequence[Estimate],
    outcomes: Outcomes,
) -> ArmReport:
    own, cosine = estimates[plan.arm], estimates.get(Arm.COSINE)
    keys = dict.fromkeys(key for replicate in plan.replicates for key in replicate)
    nll = own["calibrated_nll"]
    return ArmReport(
        arm=plan.arm,
        members=plan.members,
        num_members=tuple(None if one is None else one.num_members for one in replicates),
        epochs=tuple(_epochs(outcomes, replicate) for replicate in plan.replicates),
        metrics=own,
        difference=_differences(own, cosine) if cosine is not None and plan.arm is not Arm.COSINE else None,
        equivalent=_equivalents(nll, curve) if plan.arm not in SINGLE_RUNS and nll is not None and curve else None,
        failures=tuple({"run": key, "reason": one.reason} for key in keys if isinstance(one := outcomes[key], FailedRun)),
        loss=loss_evolution(plan, outcomes),
    )


def _epochs(outcomes: Outcomes, keys: Sequence[str]) -> float | None:
    """What a replicate has cost; None where a run failed."""
    total = 0.0
    for key in keys:
        outcome = outcomes[key]
        if isinstance(outcome, FailedRun):
            return None
        total += outcome.epochs
    return total


def _differences(ours: Mapping[str, Estimate | None], theirs: Mapping[str, Estimate | None]) -> dict[str, Estimate | None]:
    return {name: paired_difference(a.per_seed, b.per_seed) if (a := ours[name]) and (b := theirs[name]) else None for name in METRICS}


def _deep_ensembles(plan: StudyPlan, measure: Measure, largest: int) -> list[Estimate]:
    """The calibrated likelihood of 1, 2, … ``largest`` independent networks, over all windows without a failed run.

    Empty without the arm, for regression, and where too many runs failed for one ensemble of each size.
    """
    curve: list[Estimate] = []
    for size in range(1, min(largest, len(plan.pool)) + 1):
        keys = [[plan.pool[index] for index in window] for window in windows(len(plan.pool), size)]
        found = [measure(window, Members.LAST) for window in keys]
        point = estimate([None if one is None else one.metrics.get("calibrated_nll") for one in found])
        if point is None:
            return curve
        curve.append(point)
    return curve


def _equivalents(nll: Estimate, curve: Sequence[Estimate]) -> tuple[Equivalent, Equivalent | None, Equivalent | None]:
    """The equivalent of the mean, and of the ends of its interval: the worse likelihood is worth fewer networks."""
    means = [point.mean for point in curve]
    if nll.low is None or nll.high is None:
        return equivalent(nll.mean, means), None, None
    return equivalent(nll.mean, means), equivalent(nll.high, means), equivalent(nll.low, means)


def _arm_document(report: ArmReport) -> Json:
    present = [value for value in report.epochs if value is not None]
    return {
        "arm": report.arm.value,
        "members": report.members.value,
        "num_members": list(report.num_members),
        "budget_epochs": fmean(present) if present else None,
        "metrics": {name: _plain(value) for name, value in report.metrics.items()},
        "difference_to_cosine": {name: _plain(value) for name, value in report.difference.items()} if report.difference else None,
        "deep_ensemble_equivalent": _equivalent_document(*report.equivalent) if report.equivalent else None,
        "failures": list(report.failures),
        "loss": report.loss,
    }


def _plain(value: Estimate | None) -> Json | None:
    return None if value is None else asdict(value) | {"per_seed": list(value.per_seed)}


def _equivalent_document(value: Equivalent, low: Equivalent | None, high: Equivalent | None) -> Json:
    interval = f" (95 % interval: {low.words} to {high.words})" if low and high else ""
    noun = "network" if value.words in ("1.0", "less than 1") else "networks"
    return {
        **asdict(value),
        "interval": [asdict(low), asdict(high)] if low and high else None,
        "text": f"worth {value.words} independent {noun}{interval}",
    }


def _deep_ensembles_document(curve: Sequence[Estimate]) -> Json:
    return {
        "networks": list(range(1, len(curve) + 1)),
        "calibrated_nll": [point.mean for point in curve],
        "num_ensembles": [sum(value is not None for value in point.per_seed) for point in curve],
    }


def _auto_verdict(estimates: Mapping[Arm, Mapping[str, Estimate | None]]) -> Json | None:
    """Whether the automatic plan is within one standard error of the best single run, or better; None without arms to compare."""
    own = estimates.get(Arm.AUTO, {})
    names = [name for name in VERDICT_METRICS if own.get(name) is not None]
    comparisons = {name: _against_best(own[name], name, estimates) for name in names}
    if not comparisons or None in comparisons.values():
        return None
    answers = [comparison["is_within"] for comparison in comparisons.values() if comparison is not None]
    within = None if None in answers else all(answers)
    if within is None:
        text = "auto cannot be compared: one seed has no standard error"
    else:
        named = [name for name, answer in zip(names, answers, strict=True) if answer is within]
        text = f"auto is {'' if within else 'not '}within one standard error of the best single run, or better, in {' and '.join(named)}"
    return {"is_within": within, "text": text, "metrics": comparisons}


def _against_best(own: Estimate | None, name: str, estimates: Mapping[Arm, Mapping[str, Estimate | None]]) -> Json | None:
    """One measure of the automatic plan beside that of the single run with the lowest mean; None where there is none."""
    single = [(found, arm) for arm in SINGLE_RUNS if arm in estimates and (found := estimates[arm][name]) is not None]
    if own is None or not single:
        return None
    best, arm = min(single, key=lambda entry: entry[0].mean)
    error = best.standard_error
    return {
        "best_single": arm.value,
        "difference": own.mean - best.mean,
        "paired_difference": _plain(paired_difference(own.per_seed, best.per_seed)),
        "standard_error": error,
        "is_within": None if error is None else own.mean <= best.mean + error,
    }


def _notes(
    config: StudyConfig, reports: Sequence[ArmReport], measured: Mapping[Arm, Sequence[Measured | None]], *, has_curve: bool
) -> list[str]:
    """What a reader of the table has to know."""
    arms = [report.arm for report in reports]
    found = [one for replicates in measured.values() for one in replicates if one is not None]
    is_regression = any("rmse" in one.metrics for one in found)
    notes = ["all runs share one split of the rows, so intervals are about seeds and not about other data"]
    if len(config.seeds) == 1:
        notes = ["one seed gives no interval: add seeds"]
    if is_regression:
        notes.append("error, nll, ece, brier, calibrated_nll, temperature and deep-ensemble equivalents are null: they need classes")
    elif Arm.INDEPENDENT in arms:
        notes.append(
            f"the ensembles of arm independent are each {config.cycles} neighbours among {config.cycles + len(config.seeds) - 1} "
            "networks: they overlap, so the arm's intervals are too narrow; its budget is that of all its networks"
        )
        if not has_curve:
            notes.append("too many independent networks failed for a deep-ensemble equivalent")
    else:
        notes.append("without the arm independent there is no deep-ensemble equivalent")
    if Arm.COSINE not in arms:
        notes.append("without the arm cosine there are no differences to it")
    for report in reports:
        failed = sum(value is None for value in report.num_members)
        if failed:
            notes.append(f"arm {report.arm}: {failed} of {len(config.seeds)} seeds have no value, since a run failed")
    at_bound = [arm for arm in arms if any(one.is_temperature_at_bound for one in measured[arm] if one is not None)]
    if at_bound:
        notes.append(f"calibrated_nll says little of {', '.join(at_bound)}: a temperature ended at the bound of its search")
    return notes
