"""The whole landscape on real runs: digits, from one basin to many, and what cannot be measured."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clr.basins import Line
from clr.config import TrainingConfig
from clr.datasets import Dataset, load_builtin
from clr.ensemble import Ensemble
from clr.errors import EnsembleError, InputError
from clr.landscape import LandscapeReport, measure_landscape
from clr.landscape_config import LandscapeSettings
from clr.metrics import classification_metrics, negative_log_likelihood, regression_metrics
from clr.snapshots import Snapshot
from clr.splits import split_dataset
from tests.clr.tiny import make_config, make_table, snapshots_of

FEW = LandscapeSettings(max_rows=400, num_directions=3, ascent_steps=2, num_hessian_rows=200, max_iterations=40, num_lambdas=5)

CNN = {"architecture": "small_cnn", "params": {"width": 6}}


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_fixtures() -> None:
    """The report of the module is made before ``conftest.one_thread`` runs, and the last bits depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_builtin("digits")


def config_of(schedule: dict[str, Any], *, seed: int = 0, model: dict[str, Any] | None = None) -> TrainingConfig:
    model = model or {"architecture": "mlp", "params": {"hidden": [32]}}
    return TrainingConfig.model_validate({"model": model, "schedule": schedule, "batch_size": 64, "seed": seed})


def train_rows(dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    train = split_dataset(dataset, config_of({"type": "fixed"})).train
    return dataset.inputs[train], dataset.targets[train], dataset.inputs[train]


@pytest.fixture(scope="module")
def independent(digits: Dataset) -> list[Snapshot]:
    """Three networks that share nothing but the data."""
    return [snapshots_of(config_of({"type": "cosine", "epochs": 8}, seed=seed), digits)[0] for seed in range(3)]


@pytest.fixture(scope="module")
def report(digits: Dataset, independent: list[Snapshot]) -> LandscapeReport:
    return measure_landscape(independent, *train_rows(digits), settings=FEW)


def test_independent_networks_have_basins_of_their_own(report: LandscapeReport) -> None:
    assert report.basins.basins == ((0,), (1,), (2,))
    assert all(line.barrier > 4 * line.threshold for line in report.basins.lines)
    assert "every snapshot has a basin of its own" in report.basins.advice


def test_threshold_is_a_share_of_the_losses_or_of_the_loss_of_a_constant(
    report: LandscapeReport, independent: list[Snapshot], digits: Dataset
) -> None:
    for line in report.basins.lines:
        assert line.threshold == pytest.approx(0.02 * math.log(10), rel=0.01)  # ten classes, about as many of each
    lenient = measure_landscape(independent[:2], *train_rows(digits), settings=FEW.model_copy(update={"relative_threshold": 1000.0}))
    (line,) = lenient.basins.lines
    assert line.threshold == pytest.approx(500 * (line.points[0].loss + line.points[-1].loss))
    assert lenient.basins.basins == ((0, 1),)


def test_eigenvalue_is_measured_on_the_first_rows_of_the_sample(
    report: LandscapeReport, independent: list[Snapshot], digits: Dataset
) -> None:
    fewer = measure_landscape(independent[:1], *train_rows(digits), settings=FEW.model_copy(update={"max_rows": 200}))
    assert fewer.snapshots[0].sharpness.eigenvalue == report.snapshots[0].sharpness.eigenvalue
    assert fewer.snapshots[0].sharpness.loss != report.snapshots[0].sharpness.loss
    assert fewer.num_hessian_rows == 200


def test_ends_of_lines_are_the_members_losses(report: LandscapeReport, independent: list[Snapshot], digits: Dataset) -> None:
    inputs, targets, _ = train_rows(digits)
    everything = measure_landscape(
        independent[:2], inputs, targets, inputs, settings=FEW.model_copy(update={"max_rows": 5000, "num_lambdas": 3})
    )
    assert everything.num_rows == len(inputs)
    losses = [negative_log_likelihood(Ensemble([snapshot]).predict(inputs), targets) for snapshot in independent[:2]]
    (line,) = everything.basins.lines
    assert [line.points[0].loss, line.points[-1].loss] == pytest.approx(losses, rel=1e-4)
    assert [one.sharpness.loss for one in everything.snapshots] == pytest.approx(losses, rel=1e-4)
    assert {line.points[0] for line in report.basins.lines if line.first == 0} == {report.basins.lines[0].points[0]}


def test_a_network_shares_its_basin_with_itself(digits: Dataset, independent: list[Snapshot]) -> None:
    snapshots = [independent[0], independent[1], independent[0]]
    found = measure_landscape(snapshots, *train_rows(digits), settings=FEW)
    assert found.basins.barriers[0][2] == pytest.approx(0, abs=1e-12)
    assert found.basins.basins == ((0, 2), (1,))
    assert found.diversity.disagreement is not None
    assert found.diversity.disagreement[0][2] == 0
    assert found.diversity.correlation[0][2] == pytest.approx(1)
    assert found.snapshots[0] == found.snapshots[2]


def test_snapshots_of_one_run_share_a_basin_at_a_low_rate_and_part_at_a_high_one(digits: Dataset) -> None:
    fixed = config_of({"type": "fixed", "epochs": 16, "snapshots": 2, "max_lr": 0.05}, model=CNN)
    restarts = config_of({"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 8, "max_lr": 3.0}, model=CNN)
    lines: list[Line] = []
    for config in (fixed, restarts):
        lines += measure_landscape(
            snapshots_of(config, digits), *train_rows(digits), settings=FEW.model_copy(update={"num_lambdas": 7})
        ).basins.lines
    assert lines[0].is_one_basin
    assert not lines[1].is_one_basin
    assert lines[1].barrier > 10 * lines[1].threshold


def test_rescaling_is_checked_on_the_last_snapshot(report: LandscapeReport) -> None:
    check = report.rescaling
    assert check is not None
    assert check.before == report.snapshots[-1].sharpness
    assert check.output_change == 0  # a power of two rounds nothing
    assert check.after.rises == check.before.rises
    assert check.after.eigenvalue.value > 4 * check.before.eigenvalue.value
    assert report.rescaling_note == check.verdict
    assert "by itself it says nothing" in check.verdict


def test_diversity_is_that_of_the_held_out_rows(digits: Dataset, independent: list[Snapshot], report: LandscapeReport) -> None:
    held_out = split_dataset(digits, independent[0].config).test
    rows = (digits.inputs[held_out], digits.targets[held_out])
    found = measure_landscape(independent, *train_rows(digits), held_out=rows, settings=FEW)
    assert found.is_diversity_held_out
    assert not report.is_diversity_held_out
    assert found.diversity.num_rows == len(held_out)
    expected = classification_metrics(Ensemble(independent).predict(rows[0]), rows[1])
    for one in found.diversity.decompositions:
        assert one.ensemble_loss == pytest.approx(expected[one.loss], rel=1e-4)
        assert one.ensemble_loss == pytest.approx(one.mean_member_loss - one.diversity, abs=1e-12)
        assert one.diversity > 0


def test_a_regression_in_units_of_its_variance() -> None:
    table = make_table(200, regression=True)
    snapshots = snapshots_of(make_config(model={"architecture": "mlp", "params": {"hidden": [6]}}), table)
    found = measure_landscape(snapshots, table.inputs, table.targets, table.inputs, settings=FEW)
    unit = snapshots[0].preprocessing.target_std
    for snapshot, one in zip(snapshots, found.snapshots, strict=True):
        expected = regression_metrics(Ensemble([snapshot]).predict(table.inputs), table.targets)["loss"] / unit**2
        assert one.sharpness.loss == pytest.approx(expected, rel=1e-3)
    assert found.basins.lines[0].points[0].error is None
    (decomposition,) = found.diversity.decompositions
    assert decomposition.ensemble_loss == pytest.approx(
        regression_metrics(Ensemble(snapshots).predict(table.inputs), table.targets)["loss"]
    )


def test_the_same_measurement_gives_the_same_report_and_draws_nothing(
    digits: Dataset, independent: list[Snapshot], report: LandscapeReport
) -> None:
    state = torch.get_rng_state()
    assert measure_landscape(independent, *train_rows(digits), settings=FEW) == report
    assert torch.equal(torch.get_rng_state(), state)


def test_the_document_is_json_and_says_what_was_measured(report: LandscapeReport) -> None:
    document = json.loads(json.dumps(report.to_document(), allow_nan=False))
    assert document["num_rows"] == 400
    assert document["num_hessian_rows"] == 200
    assert document["settings"]["radius"] == 0.05
    assert document["basins"]["lines"][0]["barrier"] == report.basins.lines[0].barrier
    assert document["basins"]["lines"][0]["is_one_basin"] is False
    assert document["basins"]["lines"][0]["lambdas"] == [0, 0.25, 0.5, 0.75, 1]
    assert document["basins"]["basins"] == [[0], [1], [2]]
    assert document["snapshots"][1]["sharpness"]["eigenvalue"]["value"] == report.snapshots[1].sharpness.eigenvalue.value
    assert document["snapshots"][1]["step"] == report.snapshots[1].step


def test_a_diverged_snapshot_is_reported_and_kept_apart(digits: Dataset, independent: list[Snapshot]) -> None:
    broken = replace(independent[0], tensors={name: torch.full_like(t, math.nan) for name, t in independent[0].tensors.items()})
    found = measure_landscape([independent[0], broken, independent[0]], *train_rows(digits), settings=FEW)
    assert found.basins.basins == ((0, 2), (1,))
    assert "leave out snapshots 2:" in found.basins.advice
    document = json.loads(json.dumps(found.to_document(), allow_nan=False))
    assert document["snapshots"][1]["sharpness"]["loss"] is None
    assert document["basins"]["barriers"][0][1] is None


def test_one_snapshot_has_sharpness_and_nothing_to_compare(digits: Dataset, independent: list[Snapshot]) -> None:
    found = measure_landscape(independent[:1], *train_rows(digits), settings=FEW)
    assert found.basins.lines == ()
    assert found.basins.advice == "one snapshot: there is nothing to average"
    assert found.basins.coverage == "there is no pair to measure"
    assert found.diversity.correlation[0] == pytest.approx((1.0,))
    assert [one.diversity for one in found.diversity.decompositions] == pytest.approx([0, 0], abs=1e-12)


def test_a_network_without_a_hidden_layer_says_why_it_has_no_check() -> None:
    table = make_table()
    snapshots = snapshots_of(make_config(model={"architecture": "mlp", "params": {"hidden": []}}), table)
    found = measure_landscape(snapshots, table.inputs, table.targets, table.inputs, settings=FEW)
    assert found.rescaling is None
    assert found.rescaling_note.startswith("no verdict: the network has no two layers")


def test_many_snapshots_are_compared_along_the_run_only(digits: Dataset, independent: list[Snapshot]) -> None:
    parts: list[tuple[int, int]] = []
    found = measure_landscape(
        [*independent, independent[0]],
        *train_rows(digits),
        settings=FEW.model_copy(update={"max_pairs": 5}),
        on_progress=lambda done, total: parts.append((done, total)),
    )
    assert [(line.first, line.second) for line in found.basins.lines] == [(0, 1), (1, 2), (2, 3), (0, 3)]
    assert found.basins.coverage.startswith("4 of 6 pairs were measured")
    assert parts == [(done, 13) for done in range(1, 14)]  # 4 snapshots twice, 4 lines, the rescaling check


def test_a_measurement_ends_where_its_caller_says_so(digits: Dataset, independent: list[Snapshot]) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match="1 of 10"):
        measure_landscape(independent, *train_rows(digits), settings=FEW, on_progress=stop)


def test_snapshots_and_rows_must_belong_together(digits: Dataset, independent: list[Snapshot]) -> None:
    inputs, targets, train = train_rows(digits)
    wider = snapshots_of(config_of({"type": "fixed", "epochs": 1}, model={"architecture": "mlp", "params": {"hidden": [33]}}), digits)
    with pytest.raises(EnsembleError, match="at least one snapshot, got none"):
        measure_landscape([], inputs, targets, train)
    with pytest.raises(EnsembleError, match="must agree in network, got"):
        measure_landscape([independent[0], *wider], inputs, targets, train)
    with pytest.raises(EnsembleError, match="must agree in class_names"):
        measure_landscape([independent[0], replace(independent[1], class_names=("a",))], inputs, targets, train)
    with pytest.raises(InputError, match=r"inputs must have the shape \(rows, 8, 8\) with at least one row, got \(1455, 64\)"):
        measure_landscape(independent, inputs.flatten(1), targets, train)
    with pytest.raises(InputError, match=r"train_inputs must have the shape .* got \(0, 8, 8\)"):
        measure_landscape(independent, inputs, targets, train[:0])
    with pytest.raises(InputError, match="held-out inputs must have one target each, got 5 rows"):
        measure_landscape(independent, inputs, targets, train, held_out=(inputs[:5], targets[:4]))
