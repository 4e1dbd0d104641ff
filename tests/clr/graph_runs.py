"""Runs that suit a CUDA graph, and all that they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clr.checkpoints import Checkpoint
from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.snapshots import save_snapshot
from clr.training import CycleEnd, Event, Rollback, StepReport
from tests.clr.tiny import make_config, make_table

MLP = {"architecture": "mlp", "params": {"hidden": [8]}}
CNN = {"architecture": "small_cnn", "params": {"width": 4}}
ADAMW = {"type": "adamw"}

CHANGES: dict[str, dict[str, Any]] = {
    "sgd": {"model": MLP, "batch_size": 6},
    "adamw": {"model": MLP, "batch_size": 6, "optimizer": ADAMW},
    "cnn": {"model": CNN, "batch_size": 6, "augmentation": "flip_crop"},
}
"""29 training rows: the fifth batch of an epoch is short."""


def diverging() -> tuple[TrainingConfig, Dataset]:
    """A run of two cycles of 120 steps that goes back twice to the minimum of the first."""
    schedule = {"type": "warm_restarts", "cycles": 2, "epochs": 60, "max_lr": 3.0, "warmup_steps": 119}
    model = {"architecture": "mlp", "params": {"hidden": [16, 16]}}
    return make_config(model=model, schedule=schedule, precision="fp32"), make_table(regression=True)


def facts(events: Iterator[Event], directory: Path) -> list[Any]:
    """All that a run says, to the bit."""
    said: list[Any] = []
    for event in events:
        match event:
            case StepReport():
                said.append((event.step, event.learning_rate, event.loss.item(), event.num_rows))
            case CycleEnd():
                said.append((event.step, save_snapshot(event.snapshot, directory / "snapshot"), event.ensemble))
            case Rollback():
                said.append(event)
            case _:
                pytest.fail(f"unexpected {type(event).__name__}")
    return said


def resumable(event: Event) -> Checkpoint:
    """The checkpoint at an event that has one."""
    assert isinstance(event, StepReport | CycleEnd)
    return event.checkpoint()
