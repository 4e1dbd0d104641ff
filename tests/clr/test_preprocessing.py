"""Preprocessing: axes in order, training rows with zero mean and unit variance."""

import numpy as np
import pytest
import torch

from clr.datasets import Dataset
from clr.preprocessing import Preprocessing, arrange, image_layout, image_size


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        ((28, 28), "grey", (1, 28, 28)),
        ((32, 16, 3), "channels_last", (3, 32, 16)),
        ((3, 32, 16), "channels_first", (3, 32, 16)),
        ((3, 32, 3), "channels_last", (3, 3, 32)),
        ((5, 6, 7), "features", None),
        ((784,), "features", None),
    ],
)
def test_axes_are_read_by_their_sizes(shape: tuple[int, ...], layout: str, size: tuple[int, int, int] | None) -> None:
    assert image_layout(shape) == layout
    assert image_size(shape) == size
    rows = torch.arange(2 * int(np.prod(shape))).reshape(2, *shape)
    arranged = arrange(rows, image_layout(shape))
    assert tuple(arranged.shape) == ((2, *size) if size else (2, int(np.prod(shape))))
    assert arranged.data_ptr() == rows.data_ptr()


def test_channels_are_standardized_over_the_training_rows_only() -> None:
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (600, 5, 4, 3)).astype(np.uint8)
    x[..., 1] //= 4
    rows = torch.arange(0, 600, 2)
    fitted = Preprocessing.fit(Dataset.from_arrays(x, np.arange(600) % 2), rows)
    training = x[::2].astype(np.float64)
    np.testing.assert_allclose(fitted.mean.flatten().numpy(), training.mean((0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(fitted.std.flatten().numpy(), training.std((0, 1, 2)), rtol=1e-7)
    standardized = fitted(torch.from_numpy(x[::2]))
    assert standardized.dtype == torch.float32
    np.testing.assert_allclose(standardized.double().mean((0, 2, 3)).numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(standardized.double().std((0, 2, 3), correction=0).numpy(), 1, rtol=1e-6)
    assert standardized[1, 2, 3, 0] == pytest.approx((float(x[2, 3, 0, 2]) - fitted.mean[2].item()) / fitted.std[2].item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(9, 8), (8, 8, 3), (4, 8, 8)])
def test_counted_bytes_have_the_bits_of_the_same_values_as_floats(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(5).integers(0, 200, (500, *shape)).astype(np.uint8)
    rows = torch.arange(0, 500, 3)
    counted, summed = (Preprocessing.fit(Dataset.from_arrays(values, np.arange(500) % 2), rows) for values in (x, x.astype(np.float32)))
    assert torch.equal(counted.mean, summed.mean)
    assert torch.equal(counted.std, summed.std)


def test_large_offset_costs_no_accuracy() -> None:
    x = (1e4 + np.random.default_rng(0).normal(0, 0.25, (1000, 1))).astype(np.float32)
    fitted = Preprocessing.fit(Dataset.from_arrays(x, np.arange(1000) % 2), torch.arange(1000))
    assert fitted.std.item() == pytest.approx(x.astype(np.float64).std(), rel=1e-6)


def test_constant_features_have_unit_scale() -> None:
    x = np.full((700, 2), 0.1, np.float32)
    x[:, 1] = np.arange(700)
    fitted = Preprocessing.fit(Dataset.from_arrays(x, np.arange(700) % 2), torch.arange(700))
    assert fitted.std[0] == 1
    assert fitted(torch.from_numpy(x))[:, 0].abs().max() == 0


def test_regression_targets_have_their_own_moments() -> None:
    y = np.array([1.0, 2.0, 3.0, 100.0])
    fitted = Preprocessing.fit(Dataset.from_arrays(np.zeros((4, 1), np.float32), y), torch.tensor([0, 1, 2]))
    assert fitted.target_mean == 2.0
    assert fitted.target_std == pytest.approx(np.sqrt(2 / 3))
    constant = Preprocessing.fit(Dataset.from_arrays(np.zeros((4, 1), np.float32), y), torch.tensor([1]))
    assert (constant.target_mean, constant.target_std) == (2.0, 1.0)
