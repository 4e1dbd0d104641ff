"""A run that diverges goes back to its last minimum with lower rates, exactly, and gives up after three tries."""

from pathlib import Path
from typing import Any

import pytest

from clr.checkpoints import load_checkpoint, save_checkpoint
from clr.config import TrainingConfig
from clr.errors import DivergedError
from clr.history import History
from clr.snapshots import save_snapshot
from clr.training import CycleEnd, Rollback, StepReport, run_plan, train
from tests.clr.tiny import make_config, make_table

DATASET = make_table(regression=True)


def config(max_lr: float) -> TrainingConfig:
    """Two cycles of 120 steps; the warm-up keeps the first one from the peak."""
    return make_config(
        model={"architecture": "mlp", "params": {"hidden": [16, 16]}},
        schedule={"type": "warm_restarts", "cycles": 2, "epochs": 60, "max_lr": max_lr, "warmup_steps": 119},
    )


def test_a_diverged_cycle_begins_again_at_its_minimum_with_half_the_rates() -> None:
    events = list(train(config(3.0), DATASET))
    rollbacks = [event for event in events if isinstance(event, Rollback)]
    assert [(event.step, event.cycle, event.peak_scale, event.attempt) for event in rollbacks] == [(120, 1, 0.5, 1), (120, 1, 0.25, 2)]
    assert all(event.diverged_at > 120 for event in rollbacks)
    after = next(event for event in events[events.index(rollbacks[-1]) :] if isinstance(event, StepReport))
    assert (after.step, after.learning_rate) == (121, 0.25 * 3.0)
    ends = [event for event in events if isinstance(event, CycleEnd)]
    assert [(end.step, end.ensemble.num_members) for end in ends] == [(120, 1), (240, 2)]
    assert ends[-1].snapshot.metrics["test"]["rmse"] < 100


def test_the_first_cycle_goes_back_to_the_initial_weights() -> None:
    events = list(train(config(10.0), DATASET))
    first, *_ = (event for event in events if isinstance(event, Rollback))
    assert (first.step, first.cycle) == (0, 0)
    steps = [event for event in events if isinstance(event, StepReport)]
    again = next(report for report in steps[1:] if report.step == 1)
    assert again.loss.item() == steps[0].loss.item()


def test_a_run_that_keeps_diverging_fails_with_the_remedy() -> None:
    with pytest.raises(DivergedError, match=r"at step \d+, also with the rates of cycle 0 lowered to 0.125 .* lower max_lr"):
        list(train(config(100.0), DATASET))


def test_a_run_resumed_between_rollbacks_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def run(resume_after: int | None) -> tuple[list[Any], list[Any]]:
        checkpoint = load_checkpoint(tmp_path / f"{resume_after}") if resume_after is not None else None
        num_steps = run_plan(config(3.0), DATASET).schedule.num_steps
        history = History.from_state(checkpoint.caller_state) if checkpoint else History(num_steps, max_points=10)
        hashes = []
        for index, event in enumerate(train(config(3.0), DATASET, resume_from=checkpoint)):
            match event:
                case Rollback():
                    history.rewind(event.step)
                    continue
                case CycleEnd():
                    hashes.append(save_snapshot(event.snapshot, tmp_path / "snapshot"))
                case StepReport():
                    history.record(event)
                case _:
                    raise AssertionError(event)
            if checkpoint is None and index % 37 == 0:
                save_checkpoint(event.checkpoint().with_caller_state(history.state()), tmp_path / f"{index}")
        return hashes, history.rows

    undisturbed = run(None)
    saved = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert len(saved) > 5
    for index in saved:
        hashes, rows = run(index)
        assert hashes == undisturbed[0][-len(hashes) :]
        assert rows == undisturbed[1]


def test_accumulated_mini_batches_give_the_gradient_of_the_whole_batch() -> None:
    table = make_table()
    whole = [event.loss.item() for event in train(make_config(batch_size=12), table) if isinstance(event, StepReport)]
    parts = [event.loss.item() for event in train(make_config(batch_size=4, accumulation=3), table) if isinstance(event, StepReport)]
    assert len(whole) == len(parts) == run_plan(make_config(batch_size=4, accumulation=3), table).schedule.num_steps
    assert parts == pytest.approx(whole, rel=1e-5)
