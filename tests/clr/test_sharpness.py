"""Sharpness: power iteration on known matrices, the ball on a model whose loss is exactly quadratic."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clr.datasets import Dataset
from clr.loss_surface import LossSurface, Rows, Weights
from clr.randomness import generator
from clr.sharpness import BallRises, ball_rises, filter_norms, hessian_eigenvalue, largest_eigenvalue, random_direction
from clr.snapshots import Snapshot
from tests.clr.test_loss_surface import full_hessian
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of

CPU = torch.device("cpu")


def times(matrix: Tensor) -> Callable[[Weights], Weights]:
    return lambda vector: {"x": matrix @ vector["x"]}


def start_of(size: int) -> Weights:
    return {"x": torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}


@pytest.mark.parametrize(
    ("diagonal", "expected"),
    [
        ([5.0, 3.0, 1.0], 5.0),
        ([-5.0, 3.0, 1.0], 3.0),  # the largest in size is the wrong end
        ([-5.0, -3.0, -1.0], -1.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([-2.0, -2.0, -2.0], -2.0),
        ([1e-6, 1e-7, 0.0], 1e-6),
    ],
)
def test_largest_eigenvalue_of_known_matrices(diagonal: list[float], expected: float) -> None:
    matrix = torch.tensor(diagonal, dtype=torch.float64).diag()
    found = largest_eigenvalue(times(matrix), start_of(3), max_iterations=200)
    assert found.is_converged
    assert found.value == pytest.approx(expected, rel=2e-3)
    assert found.residual <= 0.1 * max(map(abs, diagonal))


@given(st.integers(0, 10_000), st.integers(2, 8))
@settings(max_examples=40)
def test_an_eigenvalue_lies_within_the_residual(seed: int, size: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=draws, dtype=torch.float64)
    matrix = root + root.T
    found = largest_eigenvalue(times(matrix), start_of(size), max_iterations=300)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert (eigenvalues - found.value).abs().min() <= found.residual + 1e-9
    assert found.value <= eigenvalues.max() + 1e-9


def test_too_few_iterations_are_admitted() -> None:
    matrix = torch.tensor([1.0, 0.999, -0.998], dtype=torch.float64).diag()
    found = largest_eigenvalue(times(matrix), start_of(3), max_iterations=3)
    assert not found.is_converged
    assert found.iterations == 3


def test_iterations_on_the_shifted_matrix_are_counted() -> None:
    matrix, products = torch.tensor([-5.0, 3.0], dtype=torch.float64).diag(), []

    def counted(vector: Weights) -> Weights:
        products.append(1)
        return {"x": matrix @ vector["x"]}

    assert largest_eigenvalue(counted, start_of(2), max_iterations=200).iterations == len(products)


def test_eigenvalue_of_a_network_is_that_of_its_full_hessian() -> None:
    table = make_table(120)
    snapshot = snapshots_of(make_config(model={"architecture": "mlp", "params": {"hidden": [4]}}), table)[-1]
    rows = Rows(table.inputs, table.targets, table.task)
    found = hessian_eigenvalue(LossSurface(snapshot, rows, CPU), max_iterations=200, seed=0)
    assert found.is_converged
    assert found.value == pytest.approx(torch.linalg.eigvalsh(full_hessian(snapshot, rows)).max().item(), rel=0.01)


def test_directions_have_the_norms_of_the_filters_they_move() -> None:
    snapshot = snapshots_of(make_config(model={"architecture": "small_cnn", "params": {"width": 2}}), make_images())[-1]
    weights = {name: parameter.detach() for name, parameter in snapshot.build_network(CPU).named_parameters()}
    weights["0.weight"][1] = 0  # a dead filter stays where it is
    direction = random_direction(weights, generator(0, "test"))
    moved = {name for name, weight in weights.items() if weight.ndim > 1}
    assert direction.keys() == moved
    assert moved < weights.keys()  # biases and batch-norm parameters are left out
    for name in moved:
        torch.testing.assert_close(filter_norms(direction[name]), filter_norms(weights[name]))
    assert direction["0.weight"][1].abs().max() == 0
    by_hand = weights["4.weight"][3].square().sum().sqrt()
    assert filter_norms(weights["4.weight"])[3].item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.fixture(scope="module")
def plane() -> tuple[LossSurface, Tensor, Tensor, Tensor]:
    """A linear model of two features: loss = |X (w + d) + b - y|^2 / N, so the rise of a step d is g d + d A d."""
    draws = np.random.default_rng(5)
    x = draws.normal(0, [1.0, 4.0], (50, 2)) @ np.array([[1.0, 0.6], [0.0, 1.0]])
    table = Dataset.from_arrays(x.astype(np.float32), x @ np.array([2.0, -1.0]) + draws.normal(0, 1, 50))
    config = make_config(
        model={"architecture": "mlp", "params": {"hidden": []}}, optimizer={"type": "sgd", "momentum": 0.0, "nesterov": False}
    )
    snapshot: Snapshot = snapshots_of(config, table)[-1]
    preprocessing = snapshot.preprocessing
    surface = LossSurface(snapshot, Rows(table.inputs, table.targets, table.task, preprocessing.target_std), CPU)
    features = preprocessing(table.inputs).double()
    (weight, bias) = (tensor.double() for tensor in surface.weights.values())
    errors = features @ weight[0] + bias - (table.targets.double() - preprocessing.target_mean) / preprocessing.target_std
    return surface, weight[0], 2 * features.T @ errors / 50, features.T @ features / 50


def test_worst_rise_is_the_maximum_over_the_ball(plane: tuple[LossSurface, Tensor, Tensor, Tensor]) -> None:
    surface, weight, gradient, curvature = plane
    angles = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    steps = 0.3 * weight.norm() * torch.stack([angles.cos(), angles.sin()])
    expected = (gradient @ steps + (steps * (curvature @ steps)).sum(0)).max().item()  # convex, so it lies on the edge
    found = ball_rises(surface, radius=0.3, num_directions=5, ascent_steps=20, seed=0)
    assert found.worst == pytest.approx(expected, rel=1e-3)
    assert found.worst >= found.largest_sampled >= found.mean


def test_mean_rise_is_half_the_trace_of_the_curvature_times_the_radius_squared(plane: tuple[LossSurface, Tensor, Tensor, Tensor]) -> None:
    surface, weight, _, curvature = plane
    found = ball_rises(surface, radius=0.5, num_directions=2000, ascent_steps=0, seed=0)
    expected = (0.5 * weight.norm()) ** 2 * curvature.trace() / 2
    assert found.mean == pytest.approx(expected.item(), rel=0.05)


def test_worst_rise_is_never_below_the_samples_and_grows_with_ascent() -> None:
    images = make_images()
    snapshot = snapshots_of(make_config(model={"architecture": "small_cnn", "params": {"width": 2}}), images)[-1]
    surface = LossSurface(snapshot, Rows(images.inputs, images.targets, images.task), CPU)

    def rises(ascent_steps: int) -> BallRises:
        return ball_rises(surface, radius=0.1, num_directions=8, ascent_steps=ascent_steps, seed=0)

    none, some, again = rises(0), rises(6), rises(6)
    assert none.worst == max(0.0, none.largest_sampled)
    assert some.worst > 2 * none.worst  # random directions hardly ever meet the steep ones
    assert (some.mean, some.largest_sampled) == (none.mean, none.largest_sampled)
    assert some == again


def test_a_network_that_is_not_finite_has_no_sharpness() -> None:
    table = make_table()
    snapshot = snapshots_of(make_config(), table)[-1]
    surface = LossSurface(snapshot, Rows(table.inputs, table.targets, table.task), CPU)
    surface.weights["1.weight"][0, 0] = torch.nan
    rises = ball_rises(surface, radius=0.1, num_directions=2, ascent_steps=1, seed=0)
    assert all(math.isnan(value) for value in (rises.mean, rises.largest_sampled, rises.worst))
    eigenvalue = hessian_eigenvalue(surface, max_iterations=5, seed=0)
    assert math.isnan(eigenvalue.value)
    assert not eigenvalue.is_converged
    assert eigenvalue.iterations == 1
