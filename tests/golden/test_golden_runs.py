"""Tiny seeded CPU runs against numbers that were kept: a change of results must be meant.

Within one machine runs agree bit for bit (``tests/clr/test_checkpoints.py``); between processors the last digits differ, hence
the tolerance. After a change that is meant: ``python -m tests.golden.test_golden_runs`` writes the numbers anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clr.datasets import Dataset
from clr.training import CycleEnd, StepReport, train
from tests.clr.tiny import make_config, make_images, make_table

NUMBERS = Path(__file__).with_name("runs.json")
NAMES = ("mlp", "small_cnn", "resnet", "wide_resnet", "regression")


def golden_case(name: str) -> tuple[dict[str, Any], Dataset]:
    """Config changes and data of one run."""
    match name:
        case "mlp":
            return {"model": {"architecture": "mlp", "params": {"hidden": [8], "dropout": 0.2}}}, make_images(90)
        case "small_cnn":
            model = {"architecture": "small_cnn", "params": {"width": 4}}
            return {"model": model, "augmentation": "flip_crop"}, make_images(90)
        case "resnet":
            return {"model": {"architecture": "resnet", "params": {"depth": 8, "width": 4}}}, make_images(90, channels=3)
        case "wide_resnet":
            return {"model": {"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1}}}, make_images(60)
    return {"optimizer": {"type": "adamw"}}, make_table(80, regression=True)


def golden_numbers(name: str) -> dict[str, Any]:
    """Losses of all steps and metrics of all cycle ends of one run."""
    changes, dataset = golden_case(name)
    torch.set_num_threads(1)
    events = list(train(make_config(**changes), dataset))
    return {
        "dataset_sha256": dataset.sha256,
        "losses": [event.loss.item() for event in events if isinstance(event, StepReport)],
        "members": [event.snapshot.metrics for event in events if isinstance(event, CycleEnd)],
        "ensembles": [{"validation": end.ensemble.validation, "test": end.ensemble.test} for end in events if isinstance(end, CycleEnd)],
    }


@pytest.mark.parametrize("name", NAMES)
def test_run_gives_the_kept_numbers(name: str) -> None:
    kept, found = json.loads(NUMBERS.read_text())[name], golden_numbers(name)
    assert found["dataset_sha256"] == kept["dataset_sha256"]
    assert found["losses"] == pytest.approx(kept["losses"], rel=1e-3)
    for kind in ("members", "ensembles"):
        for ours, theirs in zip(found[kind], kept[kind], strict=True):
            for part in ("validation", "test"):
                assert ours[part] == pytest.approx(theirs[part], rel=1e-3, abs=1e-6)


if __name__ == "__main__":
    NUMBERS.write_text(json.dumps({name: golden_numbers(name) for name in NAMES}, indent=1) + "\n")
