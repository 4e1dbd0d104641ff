"""A study's table: its numbers by hand, its identities, and what it says where numbers are missing."""

import json
from typing import Any

import pytest

from clr.deep_ensembles import windows
from clr.estimates import estimate
from clr.snapshots import Outputs
from clr.studies import Members, plan_study
from clr.study_config import Arm, StudyConfig
from clr.study_outcomes import FailedRun, RunOutcome, measure, measure_runs
from clr.study_report import study_report
from tests.clr.study_runs import made_up_outputs, made_up_run, trained_run
from tests.clr.tiny import make_images, make_table

Outcome = RunOutcome | FailedRun


def study(**document: Any) -> StudyConfig:
    return StudyConfig.model_validate({"seeds": [0, 1, 2], "cycles": 3, "arms": ["cosine", "no_cycle_cosine", "independent"], **document})


def outcomes_of(config: StudyConfig) -> dict[str, Outcome]:
    """Runs of three snapshots each, all different."""
    runs = plan_study(config).runs
    return {run.key: made_up_run(*range(3 * i, 3 * i + 3)) for i, run in enumerate(runs)}


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {arm["arm"]: arm for arm in report["arms"]}


def test_each_arm_has_its_metrics_for_each_seed() -> None:
    config = study()
    outcomes = outcomes_of(config)
    found = rows(study_report(config, outcomes))
    for arm, keys, members in (("cosine", ["cosine-1"], Members.LAST), ("no_cycle_cosine", ["cosine-1"], Members.ALL)):
        expected = measure_runs(outcomes, keys, members)
        assert expected is not None
        assert {name: found[arm]["metrics"][name]["per_seed"][1] for name in expected.metrics} == expected.metrics
    per_seed = found["cosine"]["metrics"]["nll"]["per_seed"]
    expected_estimate = estimate(per_seed)
    assert expected_estimate is not None
    assert [found["cosine"]["metrics"]["nll"][name] for name in ("mean", "sd", "low", "high")] == [
        expected_estimate.mean,
        expected_estimate.sd,
        expected_estimate.low,
        expected_estimate.high,
    ]
    assert found["cosine"]["num_members"] == [1, 1, 1]
    assert found["independent"]["num_members"] == [3, 3, 3]


def test_differences_are_taken_seed_by_seed() -> None:
    config = study()
    found = rows(study_report(config, outcomes_of(config)))
    ours, theirs = (found[arm]["metrics"]["error"]["per_seed"] for arm in ("no_cycle_cosine", "cosine"))
    assert found["no_cycle_cosine"]["difference_to_cosine"]["error"]["per_seed"] == [a - b for a, b in zip(ours, theirs, strict=True)]
    assert found["cosine"]["difference_to_cosine"] is None


def test_n_independent_networks_are_worth_n() -> None:
    config = study()
    outcomes = outcomes_of(config)
    report = study_report(config, outcomes)
    curve = report["deep_ensembles"]["calibrated_nll"]
    assert curve == sorted(curve, reverse=True)  # else the identity need not hold
    assert rows(report)["independent"]["deep_ensemble_equivalent"]["networks"] == 3.0
    assert rows(report)["cosine"]["deep_ensemble_equivalent"] is None
    assert report["deep_ensembles"]["networks"] == [1, 2, 3]
    assert report["deep_ensembles"]["num_ensembles"] == [5, 4, 3]
    pool = plan_study(config).pool
    pairs = [measure([outcomes[pool[i]].outputs[-1] for i in window]) for window in windows(5, 2)]  # type: ignore[union-attr]  # none failed
    assert curve[1] == pytest.approx(sum(pair.metrics["calibrated_nll"] for pair in pairs) / 4, rel=1e-12)


def test_snapshots_that_are_all_the_same_network_are_worth_one() -> None:
    config = study()
    outcomes: dict[str, Outcome] = {key: made_up_run(i, i, i) for i, key in enumerate(plan_study(config).pool)}
    found = rows(study_report(config, outcomes))
    assert found["no_cycle_cosine"]["metrics"]["nll"]["mean"] == pytest.approx(found["cosine"]["metrics"]["nll"]["mean"], rel=1e-9)
    assert found["no_cycle_cosine"]["deep_ensemble_equivalent"]["networks"] == pytest.approx(1.0, abs=0.5)  # 3 of the curve's 5 networks


def test_an_ensemble_outside_of_the_curve_is_said_in_words() -> None:
    config = study(seeds=[0, 1])
    outcomes: dict[str, Outcome] = {key: made_up_run(0, 0, 0) for key in plan_study(config).pool}
    noisy = made_up_outputs(1, noise=8.0)
    bad: dict[str, Outcome] = dict(outcomes) | {
        f"cosine-{seed}": RunOutcome([noisy, noisy, made_up_outputs(0)], made_up_run(0).rows, 20, 0, 5) for seed in (0, 1)
    }
    worse = rows(study_report(config, bad))["no_cycle_cosine"]["deep_ensemble_equivalent"]
    assert (worse["networks"], worse["bound"]) == (1.0, "below")
    assert worse["text"] == "worth less than 1 independent network (95 % interval: less than 1 to less than 1)"
    good: dict[str, Outcome] = dict(outcomes) | {
        f"cosine-{seed}": RunOutcome([made_up_outputs(5), made_up_outputs(6), made_up_outputs(0)], made_up_run(0).rows, 20, 0, 5)
        for seed in (0, 1)
    }
    better = rows(study_report(config, good))["no_cycle_cosine"]["deep_ensemble_equivalent"]
    assert (better["networks"], better["bound"]) == (3.0, "above")
    assert better["text"] == "worth more than 3 independent networks (95 % interval: more than 3 to more than 3)"


def test_a_failed_run_costs_its_seed_and_says_so() -> None:
    config = study()
    outcomes = outcomes_of(config) | {"cosine-1": FailedRun("diverged: lower max_lr")}
    report = study_report(config, outcomes)
    found = rows(report)["cosine"]
    assert found["metrics"]["error"]["per_seed"][1] is None
    assert found["metrics"]["error"]["mean"] == pytest.approx(sum(found["metrics"]["error"]["per_seed"][i] for i in (0, 2)) / 2)
    assert found["failures"] == [{"run": "cosine-1", "reason": "diverged: lower max_lr"}]
    assert found["num_members"] == [1, None, 1]
    assert rows(report)["no_cycle_cosine"]["difference_to_cosine"]["error"]["per_seed"][1] is None
    assert rows(report)["independent"]["num_members"] == [None, None, 3]  # the windows that hold cosine-1
    assert report["deep_ensembles"]["num_ensembles"] == [4, 2, 1]
    assert "arm cosine: 1 of 3 seeds have no value, since a run failed" in report["notes"]


def test_a_study_whose_runs_all_failed_has_an_empty_table() -> None:
    config = study()
    report = study_report(config, dict.fromkeys((run.key for run in plan_study(config).runs), FailedRun("no such rows")))
    assert report["deep_ensembles"] is None
    assert [arm["metrics"]["error"] for arm in report["arms"]] == [None, None, None]
    assert [arm["budget_epochs"] for arm in report["arms"]] == [None, None, None]
    assert rows(report)["independent"]["failures"][0] == {"run": "cosine-0", "reason": "no such rows"}
    assert len(rows(report)["independent"]["failures"]) == 5


def test_one_seed_has_no_intervals_and_the_table_says_so() -> None:
    config = study(seeds=[0])
    report = study_report(config, outcomes_of(config))
    assert (rows(report)["cosine"]["metrics"]["error"]["sd"], rows(report)["cosine"]["metrics"]["error"]["low"]) == (None, None)
    assert rows(report)["independent"]["deep_ensemble_equivalent"]["interval"] is None
    assert "one seed gives no interval: add seeds" in report["notes"]


def test_the_budget_counts_networks_and_range_tests() -> None:
    config = study()
    outcomes: dict[str, Outcome] = {run.key: made_up_run(1, 2, 3, search_epochs=2.0) for run in plan_study(config).runs}
    found = rows(study_report(config, outcomes))
    assert {arm: row["budget_epochs"] for arm, row in found.items()} == {"cosine": 6.0, "no_cycle_cosine": 6.0, "independent": 18.0}


def test_arms_that_are_missing_are_named() -> None:
    config = study(arms=["step", "no_cycle"])
    report = study_report(config, outcomes_of(config))
    assert rows(report)["step"]["difference_to_cosine"] is None
    assert report["auto"] is None
    assert "without the arm cosine there are no differences to it" in report["notes"]
    assert "without the arm independent there is no deep-ensemble equivalent" in report["notes"]


def auto_study(auto: list[int], seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    config = study(arms=["auto", "cosine", "fixed"], seeds=list(seeds), cycles=5)
    outcomes: dict[str, Outcome] = {}
    for i, seed in enumerate(seeds):
        noisy = RunOutcome([made_up_outputs(50 + i, noise=4.0)], made_up_run(0).rows, 20, 0, 5)
        outcomes |= {f"cosine-{seed}": made_up_run(10 + i), f"fixed-{seed}": noisy}
        outcomes[f"auto-{seed}"] = noisy if auto[i] < 0 else made_up_run(auto[i])
    verdict: dict[str, Any] = study_report(config, outcomes)["auto"]
    return verdict


def test_the_automatic_plan_that_is_the_cosine_run_keeps_its_promise() -> None:
    verdict = auto_study([10, 11, 12])
    assert verdict["is_within"] is True
    assert verdict["text"] == "auto is within one standard error of the best single run, or better, in error and nll"
    assert {name: (one["best_single"], one["difference"]) for name, one in verdict["metrics"].items()} == {
        "error": ("cosine", 0.0),
        "nll": ("cosine", 0.0),
    }


def test_an_automatic_plan_that_is_worse_is_told_so() -> None:
    verdict = auto_study([-1, -1, -1])
    assert verdict["is_within"] is False
    assert verdict["metrics"]["nll"]["difference"] > verdict["metrics"]["nll"]["standard_error"] > 0
    assert verdict["text"].startswith("auto is not within")


def test_one_seed_gives_no_verdict() -> None:
    verdict = auto_study([10], seeds=(0,))
    assert verdict["is_within"] is None
    assert verdict["text"] == "auto cannot be compared: one seed has no standard error"


REAL_ARMS = ["snapshot_ensemble", "step", "no_cycle", "cosine", "single_cycle", "independent"]


def test_a_study_of_real_runs_agrees_with_what_the_runs_measured() -> None:
    dataset = make_images(90)
    model = {"architecture": "mlp", "params": {"hidden": [8]}}
    config = study(arms=REAL_ARMS, epochs=6, batch_size=16, seeds=[3, 4], model=model)
    trained = {run.key: trained_run(run, dataset) for run in plan_study(config).runs}
    report = study_report(config, {key: outcome for key, (outcome, _) in trained.items()})
    found = rows(report)
    for index, seed in enumerate(config.seeds):
        for arm, key in (("snapshot_ensemble", f"snapshot_ensemble-{seed}"), ("no_cycle", f"step-{seed}")):
            ensemble = trained[key][1][-1]
            assert found[arm]["metrics"]["nll"]["per_seed"][index] == pytest.approx(ensemble.test["nll"], rel=1e-9)
            assert found[arm]["metrics"]["error"]["per_seed"][index] == pytest.approx(1 - ensemble.test["accuracy"], abs=1e-12)
            assert found[arm]["num_members"][index] == ensemble.num_members == 3
    spent = {arm: row["budget_epochs"] for arm, row in found.items()}
    assert spent == pytest.approx({**dict.fromkeys(REAL_ARMS, 6.0), "independent": 18.0})
    assert all(row["loss"]["rows"][-1][0] == 6 * 5 for row in found.values())  # 73 rows train: five steps in an epoch
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_study_of_values_has_errors_in_their_unit_and_says_what_is_null() -> None:
    dataset = make_table(80, regression=True)
    config = study(arms=["cosine", "independent"], epochs=3, batch_size=16, seeds=[0, 1])
    trained = {run.key: trained_run(run, dataset) for run in plan_study(config).runs}
    report = study_report(config, {key: outcome for key, (outcome, _) in trained.items()})
    found = rows(report)["cosine"]["metrics"]
    assert found["rmse"]["per_seed"][0] == pytest.approx(trained["cosine-0"][1][-1].test["rmse"], rel=1e-6)
    assert [found[name] for name in ("error", "nll", "ece", "brier", "calibrated_nll", "temperature")] == [None] * 6
    assert report["deep_ensembles"] is None
    assert any("are null: they need classes" in note for note in report["notes"])
    assert rows(report)["independent"]["difference_to_cosine"]["rmse"]["mean"] == pytest.approx(
        rows(report)["independent"]["metrics"]["rmse"]["mean"] - found["rmse"]["mean"], rel=1e-9
    )


def test_arms_stand_in_the_order_they_were_asked_for() -> None:
    config = study(arms=["independent", "cosine"])
    assert [arm["arm"] for arm in study_report(config, outcomes_of(config))["arms"]] == [Arm.INDEPENDENT, Arm.COSINE]


def test_the_verdict_names_the_measures_that_fail() -> None:
    config = study(arms=["auto", "fixed"], seeds=[0, 1], cycles=5)
    sure, fair = (RunOutcome([_scaled(made_up_outputs(0), scale)], made_up_run(0).rows, 20, 0, 5) for scale in (100.0, 1.0))
    verdict = study_report(config, {"auto-0": sure, "auto-1": sure, "fixed-0": fair, "fixed-1": fair})["auto"]
    assert (verdict["metrics"]["error"]["is_within"], verdict["metrics"]["nll"]["is_within"]) == (True, False)
    assert verdict["text"] == "auto is not within one standard error of the best single run, or better, in nll"


def _scaled(outputs: Outputs, scale: float) -> Outputs:
    """The same classes, predicted with more confidence."""
    return Outputs(scale * outputs.validation_logits, outputs.validation_targets, scale * outputs.test_logits, outputs.test_targets)


def test_intervals_end_where_the_measures_do() -> None:
    config = study(seeds=[0, 1], arms=["fixed"], cycles=5)
    found = rows(study_report(config, {"fixed-0": made_up_run(0, losses=[1.0]), "fixed-1": _certain()}))["fixed"]["metrics"]
    assert [(found[name]["low"], found[name]["mean"] > 0) for name in ("error", "nll")] == [(0.0, True), (0.0, True)]
    assert found["error"]["high"] == 1.0


def _certain() -> RunOutcome:
    return RunOutcome([made_up_outputs(1, noise=0.0)], made_up_run(0).rows, 20, 0, 5)
