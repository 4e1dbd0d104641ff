"""The tiers, and what all arms of a tier share: rows, initial weights, order and learning rates, written as plain arrays.

They are our own: the split, the weights and the order that ``clr.training.train`` makes of the seed. Each arm begins with them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clr.config import ModelConfig, TrainingConfig, WarmRestartsSchedule
from clr.datasets import Dataset, load_builtin
from clr.models import build_model
from clr.preprocessing import Preprocessing
from clr.randomness import generator, mix
from clr.schedules import build_schedule
from clr.splits import split_dataset


@dataclass(frozen=True)
class Tier:
    """A network with its schedule.

    Attributes:
        network: The name of ``benchmarks.peers.networks.build``.
        model: The same as ``clr`` knows it.
        rows: Of Fashion-MNIST; a tenth is kept for validation, as our runs do.
    """

    name: str
    network: str
    model: dict[str, object]
    rows: int
    cycles: int
    epochs_per_cycle: int
    test_rows: int = 10_000

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        return self.cycles * self.epochs_per_cycle

    def config(self, seed: int, *, precision: str = "auto") -> TrainingConfig:
        """The run as ``clr`` takes it."""
        schedule = WarmRestartsSchedule(max_lr=MAX_LR, cycles=self.cycles, epochs_per_cycle=float(self.epochs_per_cycle))
        return TrainingConfig.model_validate(
            {"model": self.model, "seed": seed, "batch_size": BATCH_ROWS, "schedule": schedule, "precision": precision}
        )


MAX_LR, BATCH_ROWS = 0.1, 128
TIERS = {
    tier.name: tier
    for tier in (
        Tier("A", "mlp", {"architecture": "mlp", "params": {"hidden": [256, 256]}}, 30_000, 5, 2),
        Tier("B", "small_cnn", {"architecture": "small_cnn", "params": {"width": 16}}, 6_000, 5, 2, 5_000),
        Tier("C", "resnet", {"architecture": "resnet", "params": {"depth": 8, "width": 16}}, 6_000, 3, 1, 5_000),
    )
}
QUICK = {
    "A": Tier("A", "mlp", TIERS["A"].model, 6_000, 2, 1, 500),
    "B": Tier("B", "small_cnn", TIERS["B"].model, 1_000, 2, 1, 200),
    "C": Tier("C", "resnet", TIERS["C"].model, 500, 2, 1, 200),
}
"""Shows that everything runs; its figures mean nothing."""


def dataset_of(tier: Tier) -> Dataset:
    """The tier's rows with their test rows."""
    whole = load_builtin("fashion-mnist")
    assert whole.test_inputs is not None
    assert whole.test_targets is not None
    return Dataset.from_arrays(
        whole.inputs[: tier.rows].numpy(),
        whole.targets[: tier.rows].numpy(),
        x_test=whole.test_inputs[: tier.test_rows].numpy(),
        y_test=whole.test_targets[: tier.test_rows].numpy(),
        class_names=whole.class_names,
    )


def write_shared(tier: Tier, seed: int, directory: Path) -> None:
    """Writes ``train_x``, ``train_y``, the held-out rows, ``moments``, ``order``, ``rates`` and the weights as npy files."""
    config, dataset = tier.config(seed), dataset_of(tier)
    assert dataset.test_inputs is not None
    assert dataset.test_targets is not None
    split = split_dataset(dataset, config)
    rows = split.train
    preprocessing = Preprocessing.fit(dataset, rows)
    steps = -(-len(rows) // BATCH_ROWS)
    schedule = build_schedule(config.schedule, steps_per_epoch=steps)
    orders = [torch.randperm(len(rows), generator=generator(seed, "order", epoch)).numpy() for epoch in range(tier.epochs)]
    arrays = {
        "train_x": dataset.inputs[rows].numpy(),
        "train_y": dataset.targets[rows].numpy(),
        "validation_x": dataset.inputs[split.validation].numpy(),
        "test_x": dataset.test_inputs.numpy(),
        "test_y": dataset.test_targets.numpy(),
        "moments": np.array([preprocessing.mean.item(), preprocessing.std.item()], np.float32),
        "order": np.stack(orders),
        "rates": np.array([schedule.rate(step) for step in range(schedule.num_steps)]),
    }
    torch.manual_seed(mix(seed, "weights"))
    model: ModelConfig = config.model
    weights = build_model(model, dataset.input_shape, dataset.num_outputs).state_dict()
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in (arrays | {f"weight.{name}": tensor.numpy() for name, tensor in weights.items()}).items():
        np.save(directory / f"{name}.npy", array, allow_pickle=False)
