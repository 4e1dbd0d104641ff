"""Small data sets and configs that train within a tenth of a second."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from clr.checkpoints import Checkpoint
from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.snapshots import Snapshot
from clr.training import CycleEnd, StepReport, train


def make_images(num_rows: int = 36, *, size: int = 8, channels: int | None = None, num_classes: int = 3) -> Dataset:
    """Noise with one bright row per class: learnable, and the same each time."""
    draws = np.random.default_rng(7)
    labels = np.arange(num_rows) % num_classes
    shape = (num_rows, size, size) if channels is None else (num_rows, size, size, channels)
    images = draws.integers(0, 100, shape).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, 2 * label] += 100
    return Dataset.from_arrays(images, labels)


def make_table(num_rows: int = 40, *, regression: bool = False) -> Dataset:
    """Four float features; the target is a linear function of two of them, or the sign of it."""
    draws = np.random.default_rng(11)
    features = draws.normal(5, 3, (num_rows, 4)).astype(np.float32)
    value = 100 + 10 * features[:, 0] - 4 * features[:, 2]
    return Dataset.from_arrays(features, value if regression else (value > np.median(value)).astype(np.int64))


def make_config(**changes: Any) -> TrainingConfig:
    """Two cycles of two epochs over batches of eight; ``changes`` replace whole fields."""
    document = {
        "model": {"architecture": "mlp", "params": {"hidden": [8]}},
        "schedule": {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 2},
        "batch_size": 8,
        **changes,
    }
    return TrainingConfig.model_validate(document)


def steady(config: TrainingConfig, dataset: Dataset, resume_from: Checkpoint | None = None) -> Iterator[StepReport | CycleEnd]:
    """The events of a run that is expected neither to diverge nor to change its plan."""
    for event in train(config, dataset, resume_from=resume_from):
        assert isinstance(event, StepReport | CycleEnd)
        yield event


def snapshots_of(config: TrainingConfig, dataset: Dataset, resume_from: Checkpoint | None = None) -> list[Snapshot]:
    """All snapshots of a run."""
    return [event.snapshot for event in train(config, dataset, resume_from=resume_from) if isinstance(event, CycleEnd)]
