"""The schedule preview is the schedule."""

from typing import Any

import httpx2
import pytest

from clr.config import WarmRestartsSchedule
from clr.schedules import build_schedule
from tests.service.conftest import field_error

Json = dict[str, Any]


def preview(api: httpx2.Client, **fields: Any) -> httpx2.Response:
    schedule = {"type": "warm_restarts", "max_lr": 0.1, "cycles": 5, "epochs_per_cycle": 4}
    return api.post("/v1/schedules/preview", json={"schedule": schedule, "steps_per_epoch": 100, **fields})


def test_preview_has_every_step_exactly(api: httpx2.Client) -> None:
    found = preview(api).json()
    schedule = build_schedule(WarmRestartsSchedule(max_lr=0.1, cycles=5, epochs_per_cycle=4), steps_per_epoch=100)
    assert found["num_steps"] == 2000
    assert found["step"] == list(range(2000))
    assert found["learning_rate"] == [schedule(step) for step in range(2000)]
    assert found["cycle_ends"] == [400, 800, 1200, 1600, 2000]


def test_epochs_override_the_length(api: httpx2.Client) -> None:
    assert preview(api, epochs=10).json()["cycle_ends"] == [200, 400, 600, 800, 1000]


def test_doubtful_schedules_come_with_warnings(api: httpx2.Client) -> None:
    assert preview(api).json()["warnings"] == []
    schedule = {"type": "warm_restarts", "cycles": 7, "epochs": 1, "boundaries": "paper"}
    assert any("the last cycle is cut 5 steps short" in warning for warning in preview(api, schedule=schedule).json()["warnings"])


def test_thinned_preview_keeps_both_ends_of_each_cycle(api: httpx2.Client) -> None:
    found = preview(api, max_points=50).json()
    assert {0, 399, 400, 799, 800, 1199, 1200, 1599, 1600, 1999} <= set(found["step"])
    assert len(found["step"]) <= 60
    assert found["step"] == sorted(set(found["step"]))
    assert dict(zip(found["step"], found["learning_rate"], strict=True))[400] == 0.1


@pytest.mark.parametrize(
    ("fields", "place", "part"),
    [
        ({"steps_per_epoch": 0}, "#/steps_per_epoch", "greater than or equal to 1, got 0"),
        ({"steps_per_epoch": 2.5}, "#/steps_per_epoch", "integer"),
        ({"epochs": 0}, "#/epochs", "greater than 0"),
        ({"epoch": 3}, "#/epoch", "unknown field"),
        ({"schedule": {"type": "warm_restarts", "cycles": 60, "epochs": 1}, "steps_per_epoch": 100}, "#/schedule", "between 1 and 50"),
        ({"schedule": {"type": "fixed", "snapshots": 3, "epochs": 1}, "steps_per_epoch": 2}, "#/schedule", "between 1 and num_steps (2)"),
        ({"schedule": {"type": "warm_restarts", "cycles": 5, "warmup_steps": 400}}, "#/schedule", "warmup_steps must be shorter"),
        ({"steps_per_epoch": 100_000}, "#/max_points", "2000000"),
        ({"steps_per_epoch": 10_000_000, "epochs": 1000}, "#/schedule", "100000000"),
    ],
)
def test_impossible_preview_is_refused(api: httpx2.Client, fields: Json, place: str, part: str) -> None:
    assert part in field_error(preview(api, **fields), place)["detail"]


def test_long_schedule_is_previewed_with_fewer_points(api: httpx2.Client) -> None:
    found = preview(api, steps_per_epoch=1_000_000, max_points=1000).json()
    assert found["num_steps"] == 20_000_000
    assert len(found["step"]) <= 1010


def test_the_preview_of_an_unknown_rate_shows_shares_of_it(api: httpx2.Client) -> None:
    found = preview(api, schedule={"type": "cosine", "max_lr": "auto", "epochs": 2}, steps_per_epoch=10).json()
    assert found["learning_rate"][0] == 1.0
    assert "max_lr is still to be measured: the rates are shares of it" in found["warnings"]
