"""Basins: lines, batch-norm statistics along them, barriers, and which snapshots are joined."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from clr.basins import (
    BasinMap,
    Line,
    PointLoss,
    chosen_pairs,
    find_basins,
    interpolate,
    map_basins,
    point_loss,
    reestimate_batch_norm,
)
from clr.datasets import Dataset
from clr.ensemble import Ensemble
from clr.loss_surface import CHUNK_ROWS, Rows
from clr.metrics import accuracy, negative_log_likelihood, regression_metrics
from clr.preprocessing import Preprocessing
from clr.snapshots import Snapshot
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of

CPU = torch.device("cpu")


def line(first: int, second: int, *losses: float, threshold: float = 0.5) -> Line:
    lambdas = tuple(index / (len(losses) - 1) for index in range(len(losses)))
    return Line(first, second, lambdas, tuple(PointLoss(loss, None) for loss in losses), threshold)


@pytest.fixture(scope="module")
def images() -> Dataset:
    return make_images()


@pytest.fixture(scope="module")
def snapshots(images: Dataset) -> list[Snapshot]:
    return snapshots_of(make_config(model={"architecture": "small_cnn", "params": {"width": 2}}), images)


@pytest.mark.parametrize(
    ("losses", "barrier"),
    [
        ((1.0, 4.0, 3.0), 2.0),  # over the straight line between the ends, not over the higher end
        ((1.0, 1.0, 3.0), 0.0),
        ((2.0, 0.5, 2.0), 0.0),  # a valley is no barrier
        ((0.0, 5.0, 1.0, 0.0, 0.0), 5.0),
        ((1.0, math.nan, 1.0), math.inf),
        ((1.0, 2.0, math.inf), math.inf),
    ],
)
def test_barrier_by_hand(losses: tuple[float, ...], barrier: float) -> None:
    assert line(0, 1, *losses).barrier == pytest.approx(barrier)


def test_two_share_a_basin_up_to_the_threshold() -> None:
    assert line(0, 1, 1.0, 1.5, 1.0).is_one_basin
    assert not line(0, 1, 1.0, 1.5001, 1.0).is_one_basin
    assert not line(0, 1, 1.0, math.nan, 1.0, threshold=math.inf).is_one_basin


def test_ends_of_a_line_are_the_snapshots(snapshots: list[Snapshot]) -> None:
    other = replace(snapshots[1], preprocessing=Preprocessing("grey", torch.ones(1, 1, 1), torch.full((1, 1, 1), 3.0), 2.0, 7.0))
    for position, end in ((0.0, snapshots[0]), (1.0, other)):
        point = interpolate(snapshots[0], other, position)
        floats = [name for name, tensor in end.tensors.items() if tensor.is_floating_point()]
        assert all(torch.equal(point.tensors[name], end.tensors[name]) for name in floats)
        assert torch.equal(point.preprocessing.mean, end.preprocessing.mean)
        assert torch.equal(point.preprocessing.std, end.preprocessing.std)
        assert (point.preprocessing.target_mean, point.preprocessing.target_std) == (
            end.preprocessing.target_mean,
            end.preprocessing.target_std,
        )


def test_a_quarter_of_the_way_by_hand(snapshots: list[Snapshot]) -> None:
    point = interpolate(snapshots[0], snapshots[1], 0.25)
    for name, tensor in point.tensors.items():
        a, b = snapshots[0].tensors[name], snapshots[1].tensors[name]
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * a + 0.25 * b)
        else:
            assert torch.equal(tensor, a)
    assert interpolate(snapshots[0], snapshots[0], 0.3).tensors.keys() == snapshots[0].tensors.keys()
    assert all(torch.equal(t, snapshots[0].tensors[n]) for n, t in interpolate(snapshots[0], snapshots[0], 0.3).tensors.items())


def test_loss_at_a_snapshot_is_the_members_own() -> None:
    table = make_table()
    snapshot = snapshots_of(make_config(), table)[-1]
    point = point_loss(snapshot, Rows(table.inputs, table.targets, table.task), table.inputs, CPU)
    probs = Ensemble([snapshot]).predict(table.inputs)
    assert point.loss == pytest.approx(negative_log_likelihood(probs, table.targets), rel=1e-5)
    assert point.error == pytest.approx(1 - accuracy(probs, table.targets))


def test_loss_of_a_regression_is_in_the_unit_of_the_rows() -> None:
    table = make_table(regression=True)
    snapshot = snapshots_of(make_config(), table)[-1]
    point = point_loss(snapshot, Rows(table.inputs, table.targets, table.task, 5.0), table.inputs, CPU)
    assert point.loss == pytest.approx(regression_metrics(Ensemble([snapshot]).predict(table.inputs), table.targets)["loss"] / 25, rel=1e-4)
    assert point.error is None


def test_every_row_counts_the_same_in_batch_norm_statistics() -> None:
    draws = torch.Generator().manual_seed(4)
    inputs = torch.cat([torch.randn(CHUNK_ROWS, 3, generator=draws), 9 + 5 * torch.randn(20, 3, generator=draws)])
    norm = nn.BatchNorm1d(3)
    norm.load_state_dict(norm.state_dict() | {"running_mean": torch.full((3,), torch.nan)})  # what was there must not matter
    network = nn.Sequential(norm, nn.Dropout(0.5)).eval()
    reestimate_batch_norm(network, Preprocessing("features", torch.zeros(3), torch.ones(3), 0.0, 1.0), inputs)
    torch.testing.assert_close(norm.running_mean, inputs.mean(0))
    weights = torch.tensor([CHUNK_ROWS, 20]) / len(inputs)
    variances = torch.stack([inputs[:CHUNK_ROWS].var(0), inputs[CHUNK_ROWS:].var(0)])
    torch.testing.assert_close(norm.running_var, weights @ variances)
    assert not any(module.training for module in network.modules())


def test_nothing_is_dropped_while_statistics_are_estimated(images: Dataset) -> None:
    def estimated(dropout: float) -> dict[str, torch.Tensor]:
        params = {"depth": 10, "widen": 1, "dropout": dropout}
        config = make_config(model={"architecture": "wide_resnet", "params": params})
        network = replace(trained, config=config).build_network(CPU)
        reestimate_batch_norm(network, trained.preprocessing, images.inputs)
        return network.state_dict()

    trained = snapshots_of(make_config(model={"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}}), images)[-1]
    with_dropout, without = estimated(0.5), estimated(0.0)
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_dropout.items())
    assert not torch.equal(without["norm.running_mean"], trained.tensors["norm.running_mean"])


def test_statistics_are_estimated_anew_at_each_point(snapshots: list[Snapshot], images: Dataset) -> None:
    spoilt = {name: torch.full_like(tensor, 50) if "running" in name else tensor for name, tensor in snapshots[0].tensors.items()}
    rows = Rows(images.inputs, images.targets, images.task)
    whole = point_loss(snapshots[0], rows, images.inputs, CPU)
    assert point_loss(replace(snapshots[0], tensors=spoilt), rows, images.inputs, CPU) == whole
    assert point_loss(snapshots[0], rows, images.inputs[:9], CPU) != whole


def test_a_chain_of_low_barriers_does_not_join_what_a_high_one_parts() -> None:
    lines = [line(0, 1, 1, 1.1, 1), line(1, 2, 1, 1.2, 1), line(0, 2, 1, 9, 1)]
    assert find_basins(3, lines) == ((0, 1), (2,))  # the lower barrier joins first
    assert find_basins(3, lines[:2]) == ((0, 1, 2),)  # a line that was not measured does not object


def test_basins_hold_every_snapshot_once() -> None:
    assert find_basins(4, []) == ((0,), (1,), (2,), (3,))
    assert find_basins(5, [line(0, 3, 1, 1, 1), line(1, 4, 1, 1, 1), line(3, 1, 1, 7, 1)]) == ((0, 3), (1, 4), (2,))


def test_pairs_are_all_or_neighbours_and_the_ends() -> None:
    assert chosen_pairs(1, 28) == []
    assert chosen_pairs(3, 3) == [(0, 1), (0, 2), (1, 2)]
    assert len(chosen_pairs(8, 28)) == 28
    assert chosen_pairs(4, 5) == [(0, 1), (1, 2), (2, 3), (0, 3)]


def basin_map(*lines: Line, num_snapshots: int = 3, loss: float = 1.0) -> BasinMap:
    return map_basins([PointLoss(loss, None)] * num_snapshots, lines, constant_loss=2.3)


def test_matrix_and_advice() -> None:
    same, far = line(0, 1, 1, 1, 1), line(1, 2, 1, 4, 1)
    found = basin_map(same, far)
    assert found.barriers == ((0.0, 0.0, None), (0.0, 0.0, 3.0), (None, 3.0, 0.0))
    assert found.coverage.startswith("2 of 3 pairs were measured: neighbours, and the first with the last")
    assert found.advice == (
        "inside a basin (snapshots 1, 2) average weights, with batch-norm statistics estimated anew where there are any; "
        "average predictions across the 2 basins, never weights: the loss between them rises by up to 3"
    )
    assert basin_map(far, line(0, 1, 1, 2, 1), line(0, 2, 1, 3, 1)).advice.startswith("every snapshot has a basin of its own; average")
    together = basin_map(same, line(1, 2, 1, 1, 1), line(0, 2, 1, 1, 1))
    assert together.coverage == "all 3 pairs were measured"
    assert together.advice.startswith("all 3 snapshots share one basin: their weights may be averaged")
    assert "a loss between them is not finite" in basin_map(line(0, 1, 1, math.nan, 1)).advice
    assert basin_map(num_snapshots=1).advice == "one snapshot: there is nothing to average"


def test_snapshots_that_learned_nothing_are_named() -> None:
    ends = [PointLoss(loss, None) for loss in (0.2, 2.29, math.nan)]
    advice = map_basins(ends, [line(0, 1, 0.2, 1, 2.29)], constant_loss=2.3).advice
    assert advice.startswith("leave out snapshots 2, 3: they predict hardly better than a constant (loss 2.3), or worse; ")
    assert "leave out" not in basin_map(loss=2.1).advice
