"""The landscape of a run on its own data: training rows for the losses, test rows for the diversity."""

from dataclasses import replace

import numpy as np
import pytest

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.errors import EnsembleError
from clr.landscape_config import LandscapeSettings
from clr.metrics import negative_log_likelihood
from clr.run_landscape import run_landscape
from clr.snapshots import Snapshot
from clr.splits import split_dataset
from tests.clr.tiny import snapshots_of

FEW = LandscapeSettings(num_directions=1, ascent_steps=1, num_hessian_rows=32, max_iterations=2, num_lambdas=3)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    random = np.random.default_rng(0)
    y = np.arange(150) % 3
    return Dataset.from_arrays((random.normal(size=(150, 4)) + y[:, None]).astype(np.float32), y)


@pytest.fixture(scope="module")
def snapshots(dataset: Dataset) -> list[Snapshot]:
    document = {
        "model": {"architecture": "mlp", "params": {"hidden": [8]}},
        "schedule": {"type": "warm_restarts", "cycles": 2, "epochs": 6},
        "batch_size": 32,
    }
    return snapshots_of(TrainingConfig.model_validate(document), dataset)


def test_losses_are_the_training_rows_and_diversity_the_test_rows(dataset: Dataset, snapshots: list[Snapshot]) -> None:
    split = split_dataset(dataset, snapshots[0].config)
    found = run_landscape(snapshots, dataset, settings=FEW)
    assert (found.num_rows, found.diversity.num_rows, found.is_diversity_held_out) == (len(split.train), len(split.test), True)
    for one, snapshot in zip(found.snapshots, snapshots, strict=True):
        network, scale = snapshot.build_network(split.train.device), snapshot.preprocessing
        probs = network(scale(dataset.inputs[split.train])).double().softmax(1)
        assert one.sharpness.loss == pytest.approx(negative_log_likelihood(probs, dataset.targets[split.train]), rel=1e-4)


def test_a_datasets_own_test_rows_are_used(dataset: Dataset, snapshots: list[Snapshot]) -> None:
    own = replace(dataset, test_inputs=dataset.inputs[:7], test_targets=dataset.targets[:7])
    assert run_landscape(snapshots, own, settings=FEW).diversity.num_rows == 7


def test_no_more_rows_are_read_than_asked_for(dataset: Dataset, snapshots: list[Snapshot]) -> None:
    assert run_landscape(snapshots, dataset, settings=FEW.model_copy(update={"max_rows": 40})).num_rows == 40


def test_snapshots_of_other_data_are_refused(dataset: Dataset, snapshots: list[Snapshot]) -> None:
    with pytest.raises(EnsembleError, match="measure it on its own data"):
        run_landscape([replace(snapshots[0], dataset_sha256="0" * 64)], dataset, settings=FEW)
    with pytest.raises(EnsembleError, match="at least one snapshot"):
        run_landscape([], dataset, settings=FEW)
