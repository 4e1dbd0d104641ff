"""The loss as a function of the weights: value, gradient and curvature against torch's own on small networks."""

import math

import pytest
import torch
from torch.func import functional_call, jacrev
from torch.nn import functional

from clr.datasets import Dataset, load_builtin
from clr.loss_surface import CHUNK_ROWS, LossSurface, Rows, Weights
from clr.metrics import rmse
from clr.snapshots import Snapshot
from clr.targets import Task
from tests.clr.tiny import make_config, make_table, snapshots_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table() -> Dataset:
    return make_table(CHUNK_ROWS + 44)  # two chunks, the last one smaller


@pytest.fixture(scope="module")
def snapshot(table: Dataset) -> Snapshot:
    return snapshots_of(make_config(model={"architecture": "mlp", "params": {"hidden": [3]}}, batch_size=64), table)[-1]


def rows_of(dataset: Dataset) -> Rows:
    return Rows(dataset.inputs, dataset.targets, dataset.task)


def full_hessian(snapshot: Snapshot, rows: Rows) -> torch.Tensor:
    """The Hessian of the mean loss as one matrix, by ``torch.func`` on all rows at once."""
    network, x = snapshot.build_network(CPU), snapshot.preprocessing(rows.inputs)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def loss(values: Weights) -> torch.Tensor:
        return functional.cross_entropy(functional_call(network, values, (x,)), rows.targets)

    blocks = jacrev(jacrev(loss))(weights)  # torch.func.hessian is jacfwd(jacrev), and its jacfwd warns of a deprecation of torch's own
    return torch.cat(
        [torch.cat([blocks[a][b].reshape(weights[a].numel(), weights[b].numel()) for b in weights], dim=1) for a in weights], dim=0
    )


def test_value_and_gradient_are_those_of_all_rows_at_once(table: Dataset, snapshot: Snapshot) -> None:
    rows = rows_of(table)
    surface = LossSurface(snapshot, rows, CPU)
    network = snapshot.build_network(CPU).requires_grad_()
    loss = functional.cross_entropy(network(snapshot.preprocessing(table.inputs)), table.targets)
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
    assert surface.loss(surface.weights) == pytest.approx(loss.item(), rel=1e-6)
    gradient = surface.gradient(surface.weights)
    assert list(gradient) == [name for name, _ in network.named_parameters()]
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad)


def test_product_is_that_of_the_full_hessian(table: Dataset, snapshot: Snapshot) -> None:
    surface = LossSurface(snapshot, rows_of(table), CPU)
    draws = torch.Generator().manual_seed(3)
    vector = {name: torch.randn(weight.shape, generator=draws) for name, weight in surface.weights.items()}
    product = surface.hessian_product(vector)
    expected = full_hessian(snapshot, rows_of(table)) @ torch.cat([tensor.flatten() for tensor in vector.values()])
    torch.testing.assert_close(torch.cat([tensor.flatten() for tensor in product.values()]), expected, rtol=1e-4, atol=1e-6)


def test_measuring_leaves_the_weights_and_the_snapshot_alone(table: Dataset, snapshot: Snapshot) -> None:
    kept = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    surface = LossSurface(snapshot, rows_of(table), CPU)
    surface.gradient(surface.weights)
    surface.hessian_product(surface.weights)
    assert all(torch.equal(kept[name], tensor) for name, tensor in snapshot.tensors.items())
    assert all(torch.equal(kept[name], tensor) for name, tensor in surface.weights.items())


def test_values_are_measured_in_the_unit_of_the_rows() -> None:
    table = make_table(regression=True)
    snapshot = snapshots_of(make_config(), table)[-1]
    preprocessing = snapshot.preprocessing
    outputs = snapshot.build_network(CPU)(preprocessing(table.inputs))
    values = outputs.squeeze(1) * preprocessing.target_std + preprocessing.target_mean
    for unit in (1.0, 10.0):
        surface = LossSurface(snapshot, Rows(table.inputs, table.targets, table.task, unit), CPU)
        assert surface.loss(surface.weights) == pytest.approx((rmse(values, table.targets) / unit) ** 2, rel=1e-5)


def test_loss_of_a_constant_by_hand() -> None:
    x = torch.zeros(4, 1)
    labels = Rows(x, torch.tensor([0, 0, 0, 2]), Task.CLASSIFICATION)
    assert labels.constant_loss() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert Rows(x, torch.tensor([1.0, 1.0, 3.0, 3.0]), Task.REGRESSION, 2.0).constant_loss() == 0.25


def test_first_rows_are_the_first_of_inputs_and_targets() -> None:
    digits = load_builtin("digits")
    few = rows_of(digits).first(5)
    assert len(few) == 5
    assert torch.equal(few.inputs, digits.inputs[:5])
    assert torch.equal(few.targets, digits.targets[:5])
