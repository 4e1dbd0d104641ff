"""The error against the number of members, from stored outputs alone: equal to what the run itself measured, and to hand-made cases."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from clr import ensemble_sizes as module
from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.ensemble_sizes import ensemble_sizes, members_document, run_diversity
from clr.errors import EnsembleError
from clr.snapshots import Outputs
from clr.targets import Task
from clr.training import CycleEnd, train


def logits(*probs: tuple[float, float]) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).log()


@pytest.fixture(scope="module")
def ends() -> list[CycleEnd]:
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    dataset = Dataset.from_arrays((random.normal(size=(120, 4)) + y[:, None]).astype(np.float32), y)
    config = TrainingConfig.model_validate(
        {"model": {"architecture": "mlp", "params": {"hidden": [8]}}, "schedule": {"type": "warm_restarts", "cycles": 4, "epochs": 8}}
    )
    return [event for event in train(config, dataset) if isinstance(event, CycleEnd)]


def test_last_and_first_members_are_averaged_by_hand() -> None:
    """Two rows of class 0 and 1; the members say (.9, .4), (.6, .8), (.2, .5) for the right class."""
    members = [logits((0.9, 0.1), (0.6, 0.4)), logits((0.6, 0.4), (0.2, 0.8)), logits((0.2, 0.8), (0.5, 0.5))]
    found = ensemble_sizes(members, torch.tensor([0, 1]), Task.CLASSIFICATION)
    right = {"last": [(0.2, 0.5), (0.4, 0.65), (1.7 / 3, 1.7 / 3)], "first": [(0.9, 0.4), (0.75, 0.6), (1.7 / 3, 1.7 / 3)]}
    for name, curve in right.items():
        metrics = getattr(found, name)
        assert [each["nll"] for each in metrics] == pytest.approx([-(math.log(a) + math.log(b)) / 2 for a, b in curve])
    assert [each["accuracy"] for each in found.last] == [0.0, 0.5, 1.0]
    assert [each["accuracy"] for each in found.first] == [0.5, 1.0, 1.0]


def test_regression_averages_values() -> None:
    found = ensemble_sizes([torch.tensor([0.0, 4.0]), torch.tensor([2.0, 4.0])], torch.tensor([1.0, 4.0]), Task.REGRESSION)
    assert [each["rmse"] for each in found.first] == pytest.approx([math.sqrt(0.5), 0.0])


def test_stored_outputs_give_what_the_run_measured(ends: list[CycleEnd]) -> None:
    outputs = [end.snapshot.outputs for end in ends if end.snapshot.outputs is not None]
    document = members_document(outputs, Task.CLASSIFICATION)
    for part in ("validation", "test"):
        grown = document["ensemble_sizes"][part]["first"]
        assert [each["nll"] for each in grown] == pytest.approx([getattr(end.ensemble, part)["nll"] for end in ends], rel=1e-6)
        alone = document["ensemble_sizes"][part]["last"][0]
        assert alone["nll"] == pytest.approx(ends[-1].snapshot.metrics[part]["nll"], rel=1e-6)
    nll = document["diversity"]["decompositions"][0]
    assert nll["ensemble_loss"] == pytest.approx(ends[-1].ensemble.test["nll"], rel=1e-6)
    assert document["diversity"]["num_rows"] == 12
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_member_that_says_the_same_everywhere_has_no_correlation() -> None:
    """NaN in the library, null in the document."""
    flat, other = torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    targets = torch.zeros(3, dtype=torch.int64)
    document = members_document([Outputs(each, targets, each, targets) for each in (flat, other)], Task.CLASSIFICATION)
    assert document["diversity"]["correlation"] == [[None, None], [None, 1.0]]


def test_diversity_takes_the_first_rows_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VALUES", 2 * 2 * 3)  # two members, two classes: three rows
    draws = torch.Generator().manual_seed(0)
    targets = torch.zeros(10, dtype=torch.int64)
    outputs = [Outputs(torch.zeros(1, 2), targets[:1], torch.randn(10, 2, generator=draws), targets) for _ in range(2)]
    few = [Outputs(each.validation_logits, targets[:1], each.test_logits[:3], targets[:3]) for each in outputs]
    assert run_diversity(outputs, Task.CLASSIFICATION) == run_diversity(few, Task.CLASSIFICATION)


def test_the_matrices_are_of_the_last_members_where_there_are_many(monkeypatch: pytest.MonkeyPatch, ends: list[CycleEnd]) -> None:
    outputs = [end.snapshot.outputs for end in ends if end.snapshot.outputs is not None]
    whole = members_document(outputs, Task.CLASSIFICATION)
    assert whole["diversity"]["members"] == [0, 1, 2, 3]
    monkeypatch.setattr(module, "MAX_MEMBERS", 2)
    last = members_document(outputs, Task.CLASSIFICATION)
    assert last["diversity"]["members"] == [2, 3]
    assert last["diversity"]["correlation"] == [pytest.approx(row[2:]) for row in whole["diversity"]["correlation"][2:]]
    assert last["ensemble_sizes"] == whole["ensemble_sizes"]


def test_no_members_are_refused() -> None:
    with pytest.raises(EnsembleError, match="at least one snapshot"):
        ensemble_sizes([], torch.tensor([0]), Task.CLASSIFICATION)
