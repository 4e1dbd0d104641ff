"""Which rows train, validate and test: a function of the data, the seed and the fractions."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.errors import DatasetError
from clr.randomness import generator
from clr.targets import Task

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]

DEFAULT_TEST_FRACTION = 0.1
"""Of the rows, where a data set has no test rows and no fraction is asked for."""


@dataclass(frozen=True, eq=False)
class Split:
    """Ascending row indices, int64. ``test`` counts rows of ``dataset.test_inputs`` where the data set has them, else of ``inputs``."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class SplitSizes:
    """Rows of each part, and how many of each class go to validation and test (one class for regression)."""

    train: int
    validation: int
    test: int
    validation_quotas: Counts
    test_quotas: Counts


def split_sizes(dataset: Dataset, config: TrainingConfig) -> SplitSizes:
    """The sizes of ``split_dataset``'s parts, without looking at single rows.

    Raises:
        DatasetError: A test fraction beside the data set's own test rows, or too few rows for a part.
    """
    if config.test_fraction is not None and dataset.num_test_rows:
        raise DatasetError(
            f"test_fraction must be left out, got {config.test_fraction:g}: the dataset has {dataset.num_test_rows} test rows of its own",
            "#/test_fraction",
        )
    counts = _class_counts(dataset)
    test_quotas = np.zeros_like(counts)
    if not dataset.num_test_rows:
        test_quotas = _quotas(counts, config.test_fraction or DEFAULT_TEST_FRACTION, reserve=1)
    validation_quotas = _quotas(counts - test_quotas, config.validation_fraction)
    test = dataset.num_test_rows or int(test_quotas.sum())
    validation = int(validation_quotas.sum())
    train = int(counts.sum()) - validation - int(test_quotas.sum())
    if min(train, validation, test) < 1:
        raise DatasetError(
            f"training, validation and test must have a row each, got {train}, {validation} and {test} of {dataset.num_rows} rows "
            "(one row of each class stays in training): add rows",
            "#/dataset_id",
        )
    return SplitSizes(train, validation, test, validation_quotas, test_quotas)


def split_dataset(dataset: Dataset, config: TrainingConfig) -> Split:
    """Splits the rows at random, the same way for the same seed; stratified by class for classification.

    Every class keeps a row for training. The test rows are the data set's own where it has them.

    Raises:
        DatasetError: As ``split_sizes``.
    """
    sizes = split_sizes(dataset, config)
    seed = config.seed if config.split_seed is None else config.split_seed
    shuffled = torch.randperm(dataset.num_rows, generator=generator(seed, "split"))
    classes = dataset.targets[shuffled] if dataset.task is Task.CLASSIFICATION else torch.zeros_like(shuffled)
    rows = shuffled[classes.argsort(stable=True)]  # class by class, each in random order
    counts = torch.from_numpy(_class_counts(dataset))
    within = torch.arange(len(rows)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    test_quota = torch.from_numpy(sizes.test_quotas)
    held_quota = test_quota + torch.from_numpy(sizes.validation_quotas)
    is_test = within < test_quota.repeat_interleave(counts)
    is_held = within < held_quota.repeat_interleave(counts)
    test = torch.arange(dataset.num_test_rows) if dataset.num_test_rows else rows[is_test].sort().values
    return Split(rows[~is_held].sort().values, rows[is_held & ~is_test].sort().values, test)


def _class_counts(dataset: Dataset) -> Counts:
    """Rows of each class; for regression, all rows as one class."""
    if dataset.task is Task.REGRESSION:
        return np.array([dataset.num_rows], np.int64)
    return np.bincount(dataset.targets.numpy(), minlength=len(dataset.class_names))


def _quotas(counts: Counts, fraction: float, *, reserve: int = 0) -> Counts:
    """How many rows of each class to hold out: shares by largest remainder, never a class's last row.

    The total is ``fraction`` of the rows, rounded, at least 1; less where that would not leave ``reserve`` rows to hold out later.
    """
    total, num_spare = int(counts.sum()), int((counts - 1).clip(min=0).sum())
    wanted = min(max(1, round(Fraction(str(fraction)) * total)), max(0, num_spare - reserve))
    quotas = counts * wanted // total
    by_remainder = np.argsort(-(counts * wanted % total), kind="stable")
    while (missing := wanted - int(quotas.sum())) > 0:
        open_classes = by_remainder[quotas[by_remainder] < counts[by_remainder] - 1]
        quotas[open_classes[:missing]] += 1
    return quotas
