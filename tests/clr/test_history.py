"""The learning curve: an even grid of means, the same with and without an interruption."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clr.history import COLUMNS, History


@dataclass
class FakeStep:
    step: int
    loss: Tensor
    epoch: float = 0.5
    cycle: int = 0
    learning_rate: float = 0.1


def steps(num_steps: int) -> list[FakeStep]:
    draws = torch.Generator().manual_seed(num_steps)
    return [FakeStep(step, torch.rand((), generator=draws), step / 10, step // 7, 1 / step) for step in range(1, num_steps + 1)]


def test_each_row_is_the_mean_loss_since_the_last() -> None:
    history = History(num_steps=6, max_points=3)
    for step, loss in enumerate([1.0, 2.0, 3.0, 5.0, 8.0, 13.0], start=1):
        history.record(FakeStep(step, torch.tensor(loss), step / 2, step // 4, 0.1 * step))
    assert COLUMNS == ("step", "epoch", "cycle", "learning_rate", "train_loss")
    assert history.rows == [[2, 1.0, 0, 0.2, 1.5], [4, 2.0, 1, 0.4, 4.0], [6, 3.0, 1, pytest.approx(0.6), 10.5]]


@given(st.integers(1, 300), st.integers(1, 50))
def test_grid_has_at_most_so_many_points_and_ends_with_the_run(num_steps: int, max_points: int) -> None:
    history = History(num_steps, max_points)
    for report in steps(num_steps):
        history.record(report)
    positions = [int(row[0] or 0) for row in history.rows]
    assert len(positions) == min(num_steps, max_points)
    assert positions[-1] == num_steps
    gaps = {after - before for before, after in zip([0, *positions], positions, strict=False)}
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 60), st.data())
def test_interrupted_history_equals_the_undisturbed_one(num_steps: int, data: st.DataObject) -> None:
    undisturbed, resumed = History(num_steps, 7), History(num_steps, 7)
    stop = data.draw(st.integers(0, num_steps))
    for report in steps(num_steps):
        undisturbed.record(report)
    for report in steps(num_steps)[:stop]:
        resumed.record(report)
    resumed = History.from_state(json.loads(json.dumps(resumed.state(), allow_nan=False)))
    for report in steps(num_steps)[stop:]:
        resumed.record(report)
    assert resumed.rows == undisturbed.rows
    assert resumed.state() == undisturbed.state()


def test_new_rows_are_handed_out_once() -> None:
    history = History(num_steps=4, max_points=4)
    reports = steps(4)
    for report in reports[:2]:
        history.record(report)
    assert [row[0] for row in history.new_rows()] == [1, 2]
    assert history.new_rows() == []
    resumed = History.from_state(history.state())
    assert resumed.new_rows() == []
    resumed.record(reports[2])
    assert [row[0] for row in resumed.new_rows()] == [3]


def test_diverged_loss_survives_as_json() -> None:
    history = History(num_steps=4, max_points=2)
    for step in (1, 2, 3):
        history.record(FakeStep(step, torch.tensor(math.nan)))
    state = json.loads(json.dumps(history.state(), allow_nan=False))
    resumed = History.from_state(state)
    assert resumed.rows[0][-1] is None
    resumed.record(FakeStep(4, torch.tensor(1.0)))
    assert resumed.rows[1][-1] is None


def test_rewound_history_goes_on_from_the_step_it_went_back_to() -> None:
    history = History(num_steps=6, max_points=3)
    reports = steps(6)
    for report in reports[:5]:
        history.record(report)
    history.rewind(2)
    assert [row[0] for row in history.rows] == [2]
    assert history.new_rows() == []
    for report in reports[2:]:
        history.record(report)
    undisturbed = History(num_steps=6, max_points=3)
    for report in reports:
        undisturbed.record(report)
    assert history.rows == undisturbed.rows


@given(st.integers(2, 300), st.integers(2, 600), st.integers(2, 50), st.data())
def test_a_new_length_spreads_the_points_that_are_left(num_steps: int, new_length: int, max_points: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, min(num_steps, new_length) - 1))
    history = History(num_steps, max_points)
    reports = steps(new_length)
    for report in reports[:step]:
        history.record(report)
    before = len(history.rows)
    history.replan(step, new_length)
    history = History.from_state(json.loads(json.dumps(history.state())))
    for report in reports[step:]:
        history.record(report)
    positions = [int(row[0] or 0) for row in history.rows]
    assert positions[-1] == new_length
    assert len(positions) == before + min(max(1, max_points - before), new_length - step)
    gaps = {after - earlier for earlier, after in zip([step, *positions[before:]], positions[before:], strict=False)}
    assert max(gaps) - min(gaps) <= 1


def test_a_run_of_unknown_length_begins_with_a_row_a_step_and_gets_its_grid_with_its_length() -> None:
    history = History(num_steps=None, max_points=8)
    reports = steps(14)
    for report in reports[:6]:
        history.record(report)
    assert [row[0] for row in history.rows] == [1, 2, 3, 4], "half of the points"
    history = History.from_state(json.loads(json.dumps(history.state())))
    history.replan(6, 14)
    for report in reports[6:]:
        history.record(report)
    assert [row[0] for row in history.rows] == [1, 2, 3, 4, 8, 10, 12, 14]
    assert history.rows[4][-1] == pytest.approx(torch.stack([report.loss for report in reports[4:8]]).mean().item())


def test_rows_of_a_run_of_unknown_length_stand_further_and_further_apart() -> None:
    history = History(num_steps=None)
    for report in steps(1000):
        history.record(report)
    positions = [int(row[0] or 0) for row in history.rows]
    assert positions[:199] == [*range(1, 200)]
    assert positions[199:202] == [201, 203, 205], "each for 1 % of the steps before it"
    assert all(after - before == max(1, after // 100) for before, after in pairwise(positions))
    history.rewind(299)
    for step in (300, 301, 302):
        history.record(FakeStep(step, torch.tensor(1.0)))
    assert [row[0] for row in history.rows[-2:]] == [299, 302]


def test_recording_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        monkeypatch.setattr(Tensor, name, _noting(getattr(Tensor, name), name, reads))
    history = History(num_steps=50)
    for report in steps(50):
        history.record(report)
    assert reads == []
    assert len(history.rows) == 50
    assert reads == ["tolist"]


def _noting(method: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def noted(self: Tensor) -> Any:
        calls.append(name)
        return method(self)

    return noted
