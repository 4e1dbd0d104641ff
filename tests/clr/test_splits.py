"""Splits: a partition of the rows, stratified, the same for the same seed."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.errors import DatasetError
from clr.splits import split_dataset, split_sizes


def dataset_of(labels: list[int] | np.ndarray[tuple[int], np.dtype[np.int64]], *, test_rows: int = 0) -> Dataset:
    y = np.asarray(labels)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    return Dataset.from_arrays(x, y, x_test=x[:test_rows] if test_rows else None, y_test=y[:test_rows] if test_rows else None)


fractions = st.floats(0.01, 0.5)


@given(st.lists(st.integers(0, 5), min_size=4, max_size=80), fractions, fractions, st.integers(0, 2**63 - 1))
def test_parts_partition_the_rows_and_each_class_keeps_a_training_row(
    labels: list[int], validation_fraction: float, test_fraction: float, seed: int
) -> None:
    assume(len(set(labels)) > 1)
    dataset = dataset_of(labels)
    config = TrainingConfig(validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed)
    try:
        sizes = split_sizes(dataset, config)
    except DatasetError:
        num_spare = len(labels) - len(set(labels))
        assert num_spare < 2  # every class needs a row, validation and test one each
        return
    split = split_dataset(dataset, config)
    rows = torch.cat([split.train, split.validation, split.test])
    assert rows.sort().values.tolist() == list(range(len(labels)))
    assert (len(split.train), len(split.validation), len(split.test)) == (sizes.train, sizes.validation, sizes.test)
    assert set(dataset.targets[split.train].tolist()) == set(range(len(dataset.class_names)))
    again = split_dataset(dataset, config)
    assert torch.equal(split.test, again.test)
    assert torch.equal(split.validation, again.validation)


@given(st.lists(st.integers(2, 60), min_size=2, max_size=5), fractions)
def test_each_class_is_held_out_in_its_share(counts: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sizes = split_sizes(dataset_of(labels, test_rows=1), TrainingConfig(validation_fraction=fraction))
    wanted = max(1, round(fraction * len(labels)))
    assert sizes.validation <= wanted
    for count, quota in zip(counts, sizes.validation_quotas, strict=True):
        assert quota <= count - 1
        assert quota >= int(count * wanted / len(labels)) - 1e-9
    if all(count * wanted / len(labels) <= count - 2 for count in counts):
        assert sizes.validation == wanted
        for count, quota in zip(counts, sizes.validation_quotas, strict=True):
            assert abs(quota - count * wanted / len(labels)) < 1


def test_largest_remainders_get_the_left_over_rows() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    sizes = split_sizes(dataset_of(labels, test_rows=3), TrainingConfig(validation_fraction=0.15))
    assert sizes.validation_quotas.tolist() == [8, 4, 3]  # 7.5, 4.5, 3: the tie goes to the lower class
    assert (sizes.train, sizes.validation, sizes.test) == (85, 15, 3)


def test_parts_have_known_sizes_without_own_test_rows() -> None:
    sizes = split_sizes(dataset_of(np.repeat([0, 1], 500)), TrainingConfig())
    assert (sizes.train, sizes.validation, sizes.test) == (810, 90, 100)
    regression = Dataset.from_arrays(np.zeros((40, 1), np.float32), np.arange(40) / 2)
    sizes = split_sizes(regression, TrainingConfig(test_fraction=0.25, validation_fraction=0.2))
    assert (sizes.train, sizes.validation, sizes.test) == (24, 6, 10)


def test_another_seed_splits_otherwise() -> None:
    dataset = dataset_of(np.arange(100) % 2)
    one, two = (split_dataset(dataset, TrainingConfig(seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.test, two.test)


def test_only_row_of_a_class_trains() -> None:
    split = split_dataset(dataset_of([0] * 20 + [1]), TrainingConfig(validation_fraction=0.5, test_fraction=0.5))
    assert 20 in split.train


def test_test_fraction_beside_own_test_rows_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"test_fraction must be left out, got 0.2: the dataset has 2 test rows") as caught:
        split_sizes(dataset_of([0, 1] * 10, test_rows=2), TrainingConfig(test_fraction=0.2))
    assert caught.value.pointer == "#/test_fraction"


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DatasetError, match="training, validation and test must have a row each, got 2, 1 and 0 of 3 rows"):
        split_sizes(dataset_of([0, 1, 1]), TrainingConfig())


def test_runs_with_other_seeds_can_share_a_split() -> None:
    dataset = dataset_of(np.arange(60) % 3)
    alone = split_dataset(dataset, TrainingConfig(seed=4))
    shared = split_dataset(dataset, TrainingConfig(seed=9, split_seed=4))
    assert torch.equal(alone.train, shared.train)
    assert torch.equal(alone.validation, shared.validation)
    assert torch.equal(alone.test, shared.test)
    assert not torch.equal(alone.train, split_dataset(dataset, TrainingConfig(seed=9)).train)
