"""The rescaling check: the function stays, the curvature does not, the filter-normalised rises do (1703.04933)."""

from typing import Any

import pytest
import torch

from clr.datasets import Dataset
from clr.inference import network_outputs
from clr.loss_surface import LossSurface, Rows
from clr.rescaling import check_rescaling, rescale
from clr.sharpness import BallRises, Eigenvalue, Sharpness, ball_rises, hessian_eigenvalue
from clr.snapshots import Snapshot
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of

CPU = torch.device("cpu")

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"architecture": "mlp", "params": {"hidden": [8, 6], "dropout": 0.1}},
    "small_cnn": {"architecture": "small_cnn", "params": {"width": 2}},
    "resnet": {"architecture": "resnet", "params": {"depth": 8, "width": 2}},
    "wide_resnet": {"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}},
}


@pytest.fixture(scope="module")
def images() -> Dataset:
    return make_images()


@pytest.fixture(scope="module", params=list(NETWORKS))
def snapshot(request: pytest.FixtureRequest, images: Dataset) -> Snapshot:
    return snapshots_of(make_config(model=NETWORKS[request.param]), images)[-1]


def outputs_of(snapshot: Snapshot, dataset: Dataset) -> torch.Tensor:
    return network_outputs(snapshot.build_network(CPU), snapshot.preprocessing, dataset.inputs)


@pytest.mark.parametrize("alpha", [4.0, 0.25])
def test_outputs_stay_while_weights_change(snapshot: Snapshot, images: Dataset, alpha: float) -> None:
    rescaled = rescale(snapshot, alpha)
    assert rescaled is not None
    torch.testing.assert_close(outputs_of(rescaled.snapshot, images), outputs_of(snapshot, images), rtol=1e-4, atol=1e-5)
    changed = [name for name, tensor in snapshot.tensors.items() if not torch.equal(tensor, rescaled.snapshot.tensors[name])]
    divided = [name for name in changed if snapshot.tensors[name].ndim > 1]
    assert divided
    expected = {1 / alpha, alpha} if snapshot.config.model.architecture == "mlp" else {1 / alpha}
    ratios = {(rescaled.snapshot.tensors[name].norm() / snapshot.tensors[name].norm()).item() for name in divided}
    assert {round(ratio, 4) for ratio in ratios} == expected


def test_curvature_along_divided_weights_grows_by_alpha_squared(snapshot: Snapshot, images: Dataset) -> None:
    rescaled = rescale(snapshot, 4.0)
    assert rescaled is not None
    rows = Rows(images.inputs, images.targets, images.task)
    before, after = (LossSurface(one, rows, CPU) for one in (snapshot, rescaled.snapshot))
    divided = next(
        name for name in before.weights if before.weights[name].ndim > 1 and after.weights[name].norm() < before.weights[name].norm()
    )
    direction = torch.randn(before.weights[divided].shape, generator=torch.Generator().manual_seed(2))
    vector = {name: torch.zeros_like(weight) for name, weight in before.weights.items()} | {divided: direction}
    curvatures = [(surface.hessian_product(vector)[divided] * direction).sum().item() for surface in (before, after)]
    assert curvatures[1] / curvatures[0] == pytest.approx(16, rel=0.01)


def test_verdict_on_real_networks(snapshot: Snapshot, images: Dataset) -> None:
    rows = Rows(images.inputs, images.targets, images.task)

    def measure(one: Snapshot) -> Sharpness:
        surface = LossSurface(one, rows, CPU)
        rises = ball_rises(surface, radius=0.05, num_directions=4, ascent_steps=3, seed=0)
        return Sharpness(surface.loss(surface.weights), rises, hessian_eigenvalue(surface, max_iterations=60, seed=0))

    check = check_rescaling(snapshot, images.inputs, measure(snapshot), measure, alpha=4.0, device=CPU)
    assert check is not None
    assert check.output_change < 1e-4
    assert check.after.rises.mean == pytest.approx(check.before.rises.mean, rel=0.02, abs=1e-6)
    assert check.after.rises.worst == pytest.approx(check.before.rises.worst, rel=0.05)
    assert "the filter-normalised rises did not change" in check.verdict
    if snapshot.config.model.architecture in ("mlp", "small_cnn"):  # a deep residual network's curvature may sit in its other weights
        assert 2 < check.after.eigenvalue.value / check.before.eigenvalue.value < 16.5
        assert "says nothing about how good a minimum is" in check.verdict


def test_a_single_layer_has_nothing_to_rescale() -> None:
    table = make_table()
    snapshot = snapshots_of(make_config(model={"architecture": "mlp", "params": {"hidden": []}}), table)[-1]
    assert rescale(snapshot, 4.0) is None
    sharpness = made_up(1.0, 1.0)
    assert check_rescaling(snapshot, table.inputs, sharpness, lambda _: sharpness, alpha=4.0, device=CPU) is None


def made_up(eigenvalue: float, rise: float) -> Sharpness:
    return Sharpness(0.1, BallRises(rise, rise, rise), Eigenvalue(eigenvalue, 0.0, 5, is_converged=True))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (made_up(16.0, 1.0), ["became 16 times as large", "did not change: compare snapshots by them"]),
        (made_up(1.0, 1.05), ["kept its size", "not cleared either", "did not change"]),
        (made_up(16.0, 1.5), ["says nothing", "changed too (1.5 and 1.5 times as large): do not rely on them"]),
        (made_up(float("nan"), 1.0), ["no verdict: a measure is not finite"]),
    ],
)
def test_verdicts_in_words(after: Sharpness, words: list[str]) -> None:
    table = make_table()
    snapshot = snapshots_of(make_config(), table)[-1]
    check = check_rescaling(snapshot, table.inputs, made_up(1.0, 1.0), lambda _: after, alpha=4.0, device=CPU)
    assert check is not None
    assert [part for part in words if part not in check.verdict] == []


def test_no_verdict_where_rounding_changed_the_function() -> None:
    table = make_table()
    snapshot = snapshots_of(make_config(), table)[-1]
    check = check_rescaling(snapshot, table.inputs, made_up(1.0, 1.0), lambda _: made_up(1.0, 1.0), alpha=1e42, device=CPU)
    assert check is not None
    assert check.verdict.startswith("no verdict: the outputs moved by")
