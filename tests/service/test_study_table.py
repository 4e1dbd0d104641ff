"""A study's table as text."""

from typing import Any

from clr.studies import plan_study
from clr.study_config import StudyConfig
from clr.study_outcomes import FailedRun, Outcomes
from clr.study_report import study_report
from service.study_schemas import StudyOutput
from service.study_table import study_columns, study_markdown, study_remarks, study_rows
from tests.clr.study_runs import made_up_run

Json = dict[str, Any]


def estimate(mean: float, reach: float | None = None) -> Json:
    ends = {"low": None, "high": None} if reach is None else {"low": mean - reach, "high": mean + reach}
    return {"mean": mean, "sd": reach, **ends, "per_seed": [mean]}


def arm(name: str, *, reach: float | None, **changes: Any) -> Json:
    numbers = {"error": 0.0991, "nll": 0.2731, "ece": 0.01, "calibrated_nll": 0.27}
    metrics = {measure: estimate(mean, reach) for measure, mean in numbers.items()} | {"rmse": None, "mae": None}
    document = {"num_members": [1, 1], "budget_epochs": 20.0, "difference_to_cosine": None, "deep_ensemble_equivalent": None}
    return document | {"arm": name, "metrics": metrics, "failures": []} | changes


def result(*arms: Json, seeds: int = 2) -> Json:
    return {"seeds": list(range(seeds)), "arms": list(arms), "deep_ensembles": {"networks": [1]}, "auto": None, "notes": ["a note"]}


def test_numbers_stand_with_half_of_their_interval() -> None:
    snapshots = arm(
        "snapshot_ensemble",
        reach=0.0012,
        num_members=[5, 5],
        difference_to_cosine={"error": estimate(-0.0021, 0.0019)},
        deep_ensemble_equivalent={"networks": 2.13, "bound": None, "text": ""},
    )
    found = study_rows(result(arm("cosine", reach=0.0012), snapshots))
    assert study_columns(result(snapshots)) == [
        "arm",
        ">nets",
        ">epochs",
        ">error %",
        ">NLL",
        ">ECE",
        ">calibrated NLL",
        ">error % vs cosine",
        ">worth",
    ]
    assert found[0] == ["cosine", "1", "20", "9.91 ± 0.12", "0.2731 ± 0.0012", "0.0100 ± 0.0012", "0.2700 ± 0.0012", "-", "-"]
    assert found[1][0:4] == ["snapshot_ensemble", "5", "20", "9.91 ± 0.12"]
    assert found[1][-2:] == ["-0.21 (-0.40, -0.02)", "2.1"]


def test_in_a_narrow_terminal_intervals_stand_below_their_means() -> None:
    difference = {"error": estimate(-0.0021, 0.0019)}
    document = result(arm("snapshot_ensemble", reach=0.0012, difference_to_cosine=difference))
    assert study_rows(document, is_narrow=True) == [
        ["snapshot_\nensemble", "1", "20", "9.91\n± 0.12", "0.2731\n± 0.0012", "0.0100\n± 0.0012", "-0.21\n(-0.40, -0.02)", "-"]
    ]
    assert len(study_columns(document, is_narrow=True)) == 8


def test_bounds_and_missing_numbers_have_signs_of_their_own() -> None:
    below = arm("no_cycle", reach=None, num_members=[1, 4], deep_ensemble_equivalent={"networks": 1.0, "bound": "below", "text": ""})
    above = arm("independent", reach=None, deep_ensemble_equivalent={"networks": 5.0, "bound": "above", "text": ""})
    failed = arm("fixed", reach=None, num_members=[None, None], budget_epochs=None)
    failed["metrics"] = dict.fromkeys(failed["metrics"])
    found = study_rows(result(below, above, failed, seeds=1))
    assert (found[0][1], found[0][3], found[0][-1], found[1][-1]) == ("1 to 4", "9.91", "< 1", "> 5")
    assert found[2] == ["fixed", *["-"] * 8]


def test_markdown_aligns_numbers_to_the_right() -> None:
    lines = study_markdown(result(arm("cosine", reach=None))).splitlines()
    assert lines[0] == "| arm | nets | epochs | error % | NLL | ECE | calibrated NLL | error % vs cosine | worth |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| cosine | 1 | 20 | 9.91 | 0.2731 | 0.0100 | 0.2700 | - | - |"


def test_remarks_tell_how_to_read_it_the_verdict_and_each_failure_once() -> None:
    failure = {"run": "step-0", "reason": "diverged"}
    document = result(arm("step", reach=None, failures=[failure]), arm("no_cycle", reach=None, failures=[failure]))
    document["auto"] = {"text": "auto is fine"}
    assert study_remarks(document) == [
        "mean over 2 seeds, ± half of the 95 % interval",
        "auto is fine",
        "worth: as many independently trained networks give the same likelihood",
        "a note",
        "run step-0 failed: diverged",
    ]


def test_a_real_report_has_a_row_for_each_arm() -> None:
    config = StudyConfig.model_validate({"seeds": [0, 1], "cycles": 2, "arms": ["cosine", "no_cycle_cosine", "independent", "step"]})
    outcomes: Outcomes = {run.key: made_up_run(i, i + 50) for i, run in enumerate(plan_study(config).runs)} | {"step-1": FailedRun("gone")}
    report = study_report(config, outcomes)
    StudyOutput.model_validate(report | {"runs": []})  # what the API documents
    found = study_rows(report)
    assert [row[0] for row in found] == ["cosine", "no_cycle_cosine", "independent", "step"]
    assert all(len(row) == len(study_columns(report)) for row in found)
    assert found[2][1] == "2"
    assert "run step-1 failed: gone" in study_remarks(report)
