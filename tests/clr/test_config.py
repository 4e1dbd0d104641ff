"""The training document: its defaults, that it reads back to itself, and what it refuses in which words."""

import json
from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from clr.config import Budget, MlpConfig, TrainingConfig, TriangularSchedule, WarmRestartsSchedule, as_fraction


def test_an_empty_document_is_a_complete_run() -> None:
    config = TrainingConfig()
    assert config.schedule == WarmRestartsSchedule(max_lr=0.1, min_lr=0.0, cycles="auto", epochs=20)
    assert isinstance(config.model, MlpConfig)
    assert (config.batch_size, config.seed, config.validation_fraction, config.test_fraction) == (128, 0, 0.1, None)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"schedule": {"type": "warm_restarts", "epochs": 12, "cycles": 3, "cycle_mult": "3/2"}},
        {"schedule": {"type": "step", "milestones": [0.3, 0.6, 0.9], "gamma": 0.2, "snapshots": 4}},
        {"model": {"architecture": "resnet", "params": {"depth": 8}}, "optimizer": {"type": "adamw"}},
        {"model": {"architecture": "mlp", "params": {"hidden": []}}, "precision": "bf16"},
        {"schedule": {"type": "warm_restarts", "epochs_per_cycle": 3}},
        {"schedule": {"type": "warm_restarts", "max_lr": "auto"}, "budget": {"minutes": 0.5}},
        {"schedule": {"type": "triangular", "max_lr": {"from_job": "job_1"}}, "budget": {"epochs": 12}},
        {"schedule": {"type": "one_cycle"}, "budget": {"epochs": 12}},
    ],
)
def test_a_stored_document_reads_back_to_the_same_run(document: dict[str, Any]) -> None:
    config = TrainingConfig.model_validate(document)
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainingConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"learning_rate": 0.1}, "Extra inputs are not permitted"),
        ({"batch_size": "128"}, "valid integer"),
        ({"batch_size": True}, "valid integer"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"schedule": {"type": "warm_restarts", "max_lr": "fast"}}, "valid number"),
        ({"schedule": {"type": "warm_restarts", "max_lr": {"job": "job_1"}}}, "from_job\n  Field required"),
        ({"schedule": {"type": "warm_restarts", "max_lr": "auto", "min_lr": 1.0}}, "min_lr must be < 1 where max_lr is measured, got 1"),
        (
            {"schedule": {"type": "warm_restarts", "cycles": "auto", "epochs_per_cycle": 4}},
            "but got epochs_per_cycle 4.0: give cycles a number",
        ),
        (
            {"schedule": {"type": "warm_restarts", "cycle_mult": 2, "boundaries": "paper"}},
            "but got cycle_mult 2.0, boundaries paper: give cycles a number, for example 5, or leave out cycle_mult and boundaries",
        ),
        ({"schedule": {"type": "warm_restarts", "cycles": "many"}}, "valid integer"),
        ({"budget": {}}, r"budget must give minutes or epochs, got neither: write for example \{\"minutes\": 20\}"),
        ({"budget": {"minutes": 1, "epochs": 2}}, "got minutes 1 and epochs 2"),
        ({"budget": {"minutes": 0.001}}, "greater than or equal to 0.01"),
        (
            {"schedule": {"type": "cosine", "epochs": 3}, "budget": {"epochs": 2}},
            "budget fixes the length of the run, but schedule gives epochs 3: leave epochs or budget out",
        ),
        (
            {"schedule": {"type": "warm_restarts", "cycles": 3, "boundaries": "paper"}, "budget": {"epochs": 2}},
            "may cut the last cycle, which a budget is to complete: take 'balanced'",
        ),
        ({"schedule": {"type": "warm_restarts", "max_lr": float("nan")}}, "finite number"),
        (
            {"schedule": {"type": "warm_restarts", "max_lr": 0.1, "min_lr": 0.1}},
            r"max_lr must be > min_lr \(0.1\), got 0.1",
        ),
        ({"schedule": {"type": "warm_restarts", "min_lr": 0.05, "restart_decay": 0.5, "cycles": 5}}, "the last one starts at 0.00625"),
        ({"schedule": {"type": "warm_restarts", "epochs": 4, "epochs_per_cycle": 2}}, "both fix the length of the run: give one"),
        ({"schedule": {"type": "warm_restarts", "cycle_mult": "3/0"}}, "write it as p/q"),
        ({"schedule": {"type": "warm_restarts", "cycle_mult": "1e1000000000"}}, "write it as p/q"),  # Fraction would write it out
        ({"schedule": {"type": "warm_restarts", "cycle_mult": "1e-1000000000"}}, "write it as p/q"),
        ({"schedule": {"type": "warm_restarts", "cycle_mult": "١/٢"}}, "write it as p/q"),
        ({"schedule": {"type": "warm_restarts", "cycle_mult": "1000"}}, "between 1/100 and 100"),
        ({"schedule": {"type": "warm_restarts", "cycle_mult": 1.00001}}, "denominator of at most 1000, got 1.00001: round it"),
        ({"schedule": {"type": "warm_restarts", "boundaries": "paper", "cycle_mult": 2, "cycles": 5}}, "'paper' needs cycle_mult 1, got 2"),
        ({"schedule": {"type": "cosine", "min_lr": 0.2}}, r"max_lr must be > min_lr \(0.2\), got 0.1"),
        ({"schedule": {"type": "step", "milestones": [0.5, 0.5]}}, "milestones must ascend strictly"),
        ({"schedule": {"type": "sawtooth"}}, "does not match any of the expected tags"),
        ({"model": {"architecture": "resnet", "params": {"depth": 19}}}, r"depth must be 6n \+ 2, got 19: take 14 or 20"),
        ({"model": {"architecture": "wide_resnet", "params": {"depth": 18}}}, r"depth must be 6n \+ 4, got 18: take 16 or 22"),
        ({"optimizer": {"type": "sgd", "momentum": 0.0}}, "nesterov needs momentum > 0"),
    ],
)
def test_wrong_documents_are_refused_in_words(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(document)


def test_documents_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainingConfig().seed = 1  # type: ignore[misc]  # the point of the test


def test_decimals_mean_what_a_person_wrote() -> None:
    assert as_fraction(0.1) == Fraction(1, 10)
    assert as_fraction("3/2") == Fraction(3, 2)


def test_the_length_of_a_cycle_alone_means_five_cycles() -> None:
    config = TrainingConfig.model_validate({"schedule": {"type": "warm_restarts", "epochs_per_cycle": 3}})
    assert config.schedule == WarmRestartsSchedule(cycles=5, epochs_per_cycle=3)


def test_a_budget_leaves_the_length_of_the_schedule_open() -> None:
    config = TrainingConfig.model_validate({"schedule": {"type": "triangular"}, "budget": {"epochs": 12}})
    assert config.budget == Budget(epochs=12)
    assert isinstance(config.schedule, TriangularSchedule)
    assert config.schedule.epochs_per_cycle is None
