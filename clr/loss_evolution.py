"""The training loss of each arm of a study by step: the comparison that the case for cyclical rates is usually made with."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from clr.history import COLUMNS
from clr.studies import ArmPlan
from clr.study_config import Arm
from clr.study_outcomes import FailedRun, Outcomes, RunOutcome

EVOLUTION_COLUMNS = ("step", "epoch", "learning_rate", "train_loss", "train_loss_sd")

Point = tuple[float, float, float | None]
"""Epoch, learning rate, loss."""


def loss_evolution(plan: ArmPlan, outcomes: Outcomes) -> dict[str, Any]:
    """Columns and rows: means over the seeds, at the steps that all of them have; the spread is null below two.

    Networks that are trained one after the other, as in ``single_cycle``, follow each other; of ``independent`` ones the mean of
    all is shown, since they are trained side by side.
    """
    groups: list[tuple[str, ...]] = list(plan.replicates)
    if plan.arm is Arm.INDEPENDENT:
        groups = [(key,) for key in dict.fromkeys(key for replicate in plan.replicates for key in replicate)]
    curves = [curve for group in groups if (curve := _joined([outcomes[key] for key in group])) is not None]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    rows = []
    for step in steps:
        points = [curve[step] for curve in curves]
        losses = [loss for _, _, loss in points if loss is not None]
        complete = len(losses) == len(points)  # a loss that was no finite number leaves a gap
        mean = fmean(losses) if complete else None
        sd = stdev(losses) if complete and len(losses) > 1 else None
        rows.append([step, points[0][0], fmean(rate for _, rate, _ in points), mean, sd])
    return {"columns": list(EVOLUTION_COLUMNS), "rows": rows}


def _joined(runs: Sequence[RunOutcome | FailedRun]) -> dict[int, Point] | None:
    """The histories of runs, one after the other, by step; None where one failed."""
    curve: dict[int, Point] = {}
    offset = 0
    for run in runs:
        if isinstance(run, FailedRun):
            return None
        for row in run.rows:
            values = dict(zip(COLUMNS, row, strict=False))
            step, rate = values["step"], values["learning_rate"]
            assert step is not None, "only losses can be no finite numbers"
            assert rate is not None, "only losses can be no finite numbers"
            total = offset + int(step)
            curve[total] = (total / run.steps_per_epoch, rate, values["train_loss"])
        offset += run.num_steps
    return curve
