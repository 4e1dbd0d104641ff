"""What a job is set to, in words, and how a range test and the plans of a budget look in a terminal."""

import io
import math
from typing import Any

import pytest
from rich.console import Console

from service.cli_range import agreement, curve_lines
from service.cli_settings import estimate_lines, settings_of
from service.job_display import JobDisplay

Json = dict[str, Any]

CONFIG: Json = {
    "model": {"architecture": "mlp", "params": {"hidden": [16]}},
    "batch_size": 15,
    "accumulation": 1,
    "schedule": {"type": "warm_restarts", "max_lr": "auto", "cycles": "auto", "epochs_per_cycle": None, "epochs": None},
    "budget": {"minutes": 1.0, "epochs": None},
}


def test_before_a_run_its_choices_are_still_open() -> None:
    assert settings_of(CONFIG) == {
        "model": "mlp hidden=[16]",
        "schedule": "warm_restarts, cycles auto",
        "rate": "auto: a range test finds it before training",
        "batch": "15 rows",
        "budget": "1 minute",
    }


def test_after_a_run_its_choices_are_told_with_their_reasons() -> None:
    config = CONFIG | {"schedule": CONFIG["schedule"] | {"max_lr": 0.0435}}
    plan = [{"subject": "length", "cycle_ends": [9], "reason": "fast"}, {"subject": "cycles", "cycle_ends": [3, 6], "reason": "it pays"}]
    found = settings_of(config, cycles=2, result={"learning_rate": {"result": {}}, "plan": plan})
    assert found["schedule"] == "warm_restarts, 2 cycles, chosen on the way"
    assert found["rate"] == "0.0435, by its own range test"
    assert found["plan"] == "2 cycles: it pays"
    assert settings_of(config, rate_from="job_1")["rate"] == "0.0435, from job_1"


def test_a_dry_run_says_what_is_open() -> None:
    estimate = {"steps": None, "epochs": None, "snapshots": 1, "snapshot_bytes": 271_372, "lines": 3, "most_epochs": 352.94}
    assert [" ".join(line.split()) for line in estimate_lines({"config": CONFIG, "estimate": estimate})] == [
        "steps as many as fit in 1 minute",
        "snapshots at least 1",
        "weights 0.271 MB a snapshot",
        "pairs 3",
        "cost at most the time of 352.9 epochs",
    ]


def test_a_drawn_curve_says_what_is_cut_off() -> None:
    sweep = {"learning_rate": [1e-9, 1e-8, 1e-7, 1e-6], "loss": [2.0, 1.0, 40.0, None]}
    title, bars, ends = curve_lines(sweep, beta=0.0, num_sweeps=3)
    assert title == "sweep 1 of 3: smoothed loss over the rate, 1 to 3, cut off above 3"
    assert (len(bars), bars[1], bars[2]) == (3, "▁", "█")
    assert ends.split() == ["1e-09", "1e-07"]
    assert curve_lines({"learning_rate": [1.0], "loss": [None]}, beta=0.0) == []


@pytest.mark.parametrize(
    ("num_sweeps", "factor", "words"),
    [
        (1, 1.0, "one sweep decides"),
        (3, 1.2, "agree on the upper end within a factor of 1.2"),
        (2, 10.0, "disagree on the upper end, by a factor of 10"),
    ],
)
def test_agreement_of_the_sweeps_is_a_factor(num_sweeps: int, factor: float, words: str) -> None:
    assert words in agreement(num_sweeps, math.log10(factor))


def test_of_many_plans_the_first_of_a_cycle_and_those_with_other_cycles_are_printed() -> None:
    job = {"progress": {"steps": None, "cycles": None}, "kind": "train"}
    output = io.StringIO()
    with JobDisplay(job, console=Console(file=output, width=80)) as display:
        for step, ends in ((1, [9]), (2, [8]), (3, [4, 8]), (4, [4, 9])):
            display.show({"type": "plan", "step": step, "cycle_ends": ends, "reason": "so"})
        metrics = {"validation": {"accuracy": 0.9}}
        display.show({"type": "snapshot", "cycle": 0, "metrics": metrics, "ensemble": {"members": 1, **metrics}})
        for step in (5, 6):
            display.show({"type": "plan", "step": step, "cycle_ends": [4, 10], "reason": "so"})
    told = [line for line in output.getvalue().splitlines() if line.startswith("plan")]
    assert told == [f"plan from step {step} on: so" for step in (1, 3, 5)]
