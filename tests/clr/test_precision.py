"""What precision "auto" means: a rule over config, data and device, whose answer stays with the run."""

from typing import Any

import numpy as np
import pytest
import torch

from clr.datasets import Dataset
from clr.models import multiply_adds
from clr.plans import resolve
from clr.precision import MIN_PRODUCTS, auto_precision
from clr.training import StepReport, train
from tests.clr.tiny import make_config, make_images, make_table


@pytest.fixture
def native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor multiplies in bf16, whatever it is."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ({"architecture": "mlp", "params": {"hidden": [256, 256]}}, 784 * 256 + 256 * 256 + 256 * 10),
        ({"architecture": "small_cnn", "params": {"width": 16}}, 9 * (784 * 16 + 196 * 16 * 32 + 49 * 32 * 64) + 640),
        (
            {"architecture": "resnet", "params": {"depth": 8, "width": 16}},
            9 * (784 * (16 + 2 * 256) + 196 * (512 + 1024) + 49 * (2048 + 4096)) + 640,
        ),
        (
            {"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}},
            784 * (9 * (16 + 2 * 256)) + 196 * (9 * (512 + 1024) + 512) + 49 * (9 * (2048 + 4096) + 2048) + 640,
        ),
    ],
)
def test_products_of_a_row_are_counted_layer_by_layer(model: dict[str, object], count: int) -> None:
    assert multiply_adds(make_config(model=model).model, (28, 28), 10) == count


def wide(batch_size: int, **changes: Any) -> Any:
    """An MLP with as many products a row of ``wide_rows`` as make ``MIN_PRODUCTS`` at a batch of 256, and a few more."""
    units = -(-MIN_PRODUCTS["mlp"] // (256 * (128 + 2)))
    return make_config(**{"model": {"architecture": "mlp", "params": {"hidden": [units]}}, "batch_size": batch_size} | changes)


@pytest.fixture(scope="module")
def wide_rows() -> Dataset:
    draws = np.random.default_rng(3)
    return Dataset.from_arrays(draws.normal(size=(600, 128)).astype(np.float32), np.arange(600) % 2)


@pytest.mark.usefixtures("native_bf16")
def test_bf16_is_taken_where_a_mini_batch_is_enough_work(wide_rows: Dataset) -> None:
    assert resolve(wide(256), wide_rows, "cpu").precision == "bf16"
    assert resolve(wide(254), wide_rows, "cpu").precision == "fp32"
    assert resolve(wide(256, precision="fp32"), wide_rows, "cpu").precision == "fp32"
    assert resolve(make_config(precision="bf16"), make_images(), "cpu").precision == "bf16"


@pytest.mark.usefixtures("native_bf16")
def test_what_the_accuracy_gate_has_not_seen_stays_in_float32() -> None:
    large = {"batch_size": 65_536}
    wide_resnet = make_config(model={"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}}, **large)
    assert auto_precision(wide_resnet, make_images(size=28), "cpu") == "fp32"
    values = wide(65_536)
    assert auto_precision(values, make_table(regression=True), "cpu") == "fp32"
    assert auto_precision(values, make_table(), "cpu") == "bf16"


def test_a_processor_without_bf16_units_stays_in_float32(wide_rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert auto_precision(wide(256), wide_rows, "cpu") == "fp32"


def test_a_resumed_run_keeps_its_precision_on_another_processor(wide_rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    events = train(wide(256), wide_rows)
    first = next(events)
    assert isinstance(first, StepReport)
    checkpoint = first.checkpoint()
    assert checkpoint.state["config"]["precision"] == "bf16"
    expected = next(events)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    resumed = next(train(wide(256), wide_rows, resume_from=checkpoint))
    assert isinstance(resumed, StepReport)
    assert isinstance(expected, StepReport)
    assert torch.equal(resumed.loss, expected.loss)
    other = next(train(wide(256, precision="fp32"), wide_rows))
    assert isinstance(other, StepReport)
    assert not torch.equal(other.loss, first.loss)
