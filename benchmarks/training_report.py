"""What is published of the training tiers: throughput, time to the same accuracy, accuracy itself, and what the service costs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.charts import Bar, Panel, draw, shown_spread, table
from benchmarks.compare import Campaign, Spread, Turn, paired_ratio, spread
from benchmarks.training_tiers_data import Tier

Json = dict[str, Any]

OURS, JOB, BARE = "snapcycle", "snapcycle, whole job", "bare loop"
JUDGES = ("textbook loop", "torchensemble")
"""Whose accuracy is the target of time-to-accuracy."""

TOLERANCE = 0.002
"""Of an accuracy: 0.2 points count as equal."""

VALIDATION_SHARE = 0.1


def summary(campaign: Campaign, tiers: Mapping[str, Tier]) -> Json:
    """The published figures of every tier that has turns."""
    return {name: _tier_summary(campaign, tier) for name, tier in tiers.items() if campaign.has(name, OURS)}


def images_per_second(figures: Json, tier: Tier) -> float | None:
    """Without the first epoch, which pays for whatever is done once."""
    ends = figures.get("epoch_ends")
    if not ends or len(ends) < 2:
        return None
    rows = tier.rows - round(tier.rows * VALIDATION_SHARE)
    return float(rows * (len(ends) - 1) / (ends[-1] - ends[0]))


def seconds_to(figures: Json, accuracy: float) -> float | None:
    """Until the first snapshot with which the ensemble is that good; None if it never is."""
    pairs = zip(figures.get("snapshot_seconds", ()), figures["accuracies"], strict=False)
    return next((seconds for seconds, reached in pairs if reached >= accuracy), None)


def _tier_summary(campaign: Campaign, tier: Tier) -> Json:
    turns: dict[str, dict[int, Turn]] = {}
    for turn in campaign.turns:
        if turn.case == tier.name:
            turns.setdefault(turn.arm, {})[turn.repeat] = turn
    target = _target(turns)
    arms = {}
    for arm, of_repeat in turns.items():
        figures = [turn.figures for turn in of_repeat.values()]
        rates = [rate for each in figures if (rate := images_per_second(each, tier)) is not None]
        reached = [seconds for each in figures if (seconds := seconds_to(each, target)) is not None]
        arms[arm] = {
            "repeats": len(figures),
            "images_per_second": vars(spread(rates)) if rates else None,
            "ours_faster": _compared(turns, arm, lambda each: images_per_second(each, tier)),
            "seconds": vars(spread([each["seconds"] for each in figures])),
            "seconds_to_target": vars(spread(reached)) if reached else None,
            "reached_target": len(reached),
            "ours_sooner": _compared(turns, arm, lambda each: seconds_to(each, target), inverse=True),
            "accuracy": fmean(each["accuracies"][-1] for each in figures),
            "nll": fmean(each["nlls"][-1] for each in figures) if all("nlls" in each for each in figures) else None,
            "peak_megabytes": max((each["peak_megabytes"] for each in figures if each.get("peak_megabytes")), default=None),
            "precision": sorted({each["precision"] for each in figures if "precision" in each}),
        }
    overhead = {
        f"{other}{' with evaluation' * (name != 'seconds')}": _compared(
            turns, other, lambda each, name=name: each.get(name, each["seconds"]), ours=JOB
        )
        for other, name in ((BARE, "seconds"), (BARE, "seconds_with_evaluation"), (OURS, "seconds"))
        if other in turns and JOB in turns
    }
    settings = {turn.arm: turn.figures["best"] for turn in campaign.turns if turn.case == f"{tier.name} calibration"}
    return {"target_accuracy": target, "arms": arms, "whole_job_takes_times": overhead, "calibrated": settings}


def _target(turns: Mapping[str, Mapping[int, Turn]]) -> float:
    """The judges' mean accuracy at the end, less the tolerance, rounded down to a tenth of a point."""
    finals = [turn.figures["accuracies"][-1] for judge in JUDGES for turn in turns.get(judge, {}).values()]
    if not finals:
        return 1.0
    return math.floor((fmean(finals) - TOLERANCE) * 1000) / 1000


def _compared(turns: Mapping[str, Mapping[int, Turn]], arm: str, figure: Any, *, ours: str = OURS, inverse: bool = False) -> Json | None:
    """Our figure over the arm's, paired by repeat; ``inverse``: the arm's over ours."""
    pairs = []
    for repeat, turn in turns.get(ours, {}).items():
        if (other := turns[arm].get(repeat)) is not None:
            own_value, other_value = figure(turn.figures), figure(other.figures)
            if own_value and other_value:
                pairs.append((other_value, own_value) if inverse else (own_value, other_value))
    return vars(paired_ratio(*zip(*pairs, strict=True))) if pairs and arm != ours else None


def show(campaign: Campaign, figures: Json, *, charts: Sequence[Path]) -> None:
    """Prints the tables and draws the charts."""
    panels = []
    for name, tier in figures.items():
        arms: Json = tier["arms"]
        order = sorted(arms, key=lambda arm: -(arms[arm]["images_per_second"] or {"median": 0.0})["median"])
        rows = [_row(arm, arms[arm]) for arm in order]
        target = f"s to {100 * tier['target_accuracy']:.1f} %"
        print(f"\nTier {name}; calibrated: {tier['calibrated']}")
        print(table(("arm", "img/s", "ours is faster by", target, "ours is sooner by", "accuracy %", "NLL", "peak MB"), rows))
        for other, ratio in tier["whole_job_takes_times"].items():
            print(f"our whole job takes {_ratio(ratio)} times the {'time of clr.train' if other == OURS else other}")
        panels.append(_panel(name, arms, order))
    print(f"\n{campaign.noisy_turns()} of {len(campaign.turns)} turns had more than 5 % steal")
    for chart in charts if panels else ():
        draw(
            chart,
            "Training, images per second",
            "Fashion-MNIST, batch 128, 2 CPU cores; median and quartiles, first epoch left out",
            panels,
        )


def _row(arm: str, figures: Json) -> Sequence[str]:
    return (
        arm + (f" [{', '.join(figures['precision'])}]" if figures["precision"] else ""),
        _spread(figures["images_per_second"]),
        _ratio(figures["ours_faster"]),
        _spread(figures["seconds_to_target"])
        + ("" if figures["reached_target"] == figures["repeats"] else f" [{figures['reached_target']}x]"),
        _ratio(figures["ours_sooner"]),
        f"{100 * figures['accuracy']:.2f}",
        "-" if figures["nll"] is None else f"{figures['nll']:.4f}",
        "-" if figures["peak_megabytes"] is None else f"{figures['peak_megabytes']:.0f}",
    )


def _panel(name: str, arms: Json, order: Sequence[str]) -> Panel:
    networks = {"A": "MLP 784-256-256-10", "B": "CNN 16-32-64 with batch norm", "C": "ResNet-8"}
    shown = [arm for arm in order if arms[arm]["images_per_second"]]
    bars = tuple(Bar(arm, Spread(**arms[arm]["images_per_second"]), arm.startswith(OURS)) for arm in shown)
    return Panel(f"{name}: {networks[name]}", bars)


def _spread(found: Json | None) -> str:
    return shown_spread(Spread(**found) if found else None)


def _ratio(found: Json | None) -> str:
    return f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if found else "-"
