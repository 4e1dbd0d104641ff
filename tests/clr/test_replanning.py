"""Runs whose plan changes while they train: told, exact, and the same after an interruption at any step."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clr.checkpoints import Checkpoint
from clr.config import TrainingConfig
from clr.cycle_rule import look_steps
from clr.datasets import Dataset
from clr.errors import ScheduleError
from clr.history import History
from clr.snapshots import save_snapshot
from clr.training import CycleEnd, Replanned, Rollback, StepReport, run_plan, train
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of

Lengths = Mapping[int, int]
"""At which steps a caller asks for which length."""


class Told:
    """What a run told, and the checkpoints after its steps and cycles."""

    def __init__(self, config: TrainingConfig, dataset: Dataset, directory: Path, lengths: Lengths) -> None:
        self.config, self.dataset, self.directory, self.lengths = config, dataset, directory, lengths

    def run(self, checkpoint: Checkpoint | None = None, *, keeps: bool = True) -> tuple[list[tuple[Any, ...]], list[Checkpoint], list[Any]]:
        """Events in comparable form, a checkpoint after each, and the history."""
        told: list[tuple[Any, ...]] = []
        kept: list[Checkpoint] = []
        history = (
            History.from_state(checkpoint.caller_state) if checkpoint else History(run_plan(self.config, self.dataset).schedule.num_steps)
        )
        step = checkpoint.step if checkpoint else 0
        for event in train(self.config, self.dataset, resume_from=checkpoint):
            match event:
                case StepReport():
                    step = event.step
                    history.record(event)
                    if step in self.lengths and self.lengths[step] != event.schedule.num_steps:
                        event.replan(self.lengths[step], "a test", {"step": step})
                    told.append((step, event.learning_rate, event.cycle, str(event.loss.item())))  # NaN differs from itself
                case CycleEnd():
                    sha256 = save_snapshot(event.snapshot, self.directory / "snapshot")
                    told.append((event.step, sha256, event.snapshot.is_minimum, event.ensemble.num_members, event.ensemble.validation))
                case Replanned():
                    history.replan(step, event.schedule.num_steps)
                    told.append((event.decision, event.schedule.cycle_ends))
                    continue
                case Rollback():
                    step = event.step
                    history.rewind(step)
                    told.append((event,))
                    continue
                case _:
                    raise AssertionError(event)
            if keeps:
                kept.append(_as_stored(event.checkpoint(), history))
        return told, kept, history.rows


def _as_stored(checkpoint: Checkpoint, history: History) -> Checkpoint:
    """What comes back from a file, as far as JSON decides it; ``test_checkpoints`` has the files."""
    state, caller_state = json.loads(json.dumps([checkpoint.state, history.state()], allow_nan=False))
    return replace(checkpoint, state=state, caller_state=caller_state)


def check_resuming_everywhere(run: Told, *, every: int = 1) -> list[tuple[Any, ...]]:
    """Resumes from each checkpoint and compares all that follows; returns the undisturbed run's events."""
    told, kept, rows = run.run()
    saved = [index for index, event in enumerate(told) if not isinstance(event[0], Rollback) and len(event) > 2]
    assert len(saved) == len(kept)
    for index, checkpoint in list(zip(saved, kept, strict=True))[::every]:
        again, _, rows_again = run.run(checkpoint, keeps=False)
        assert again == told[index + 1 :]
        assert rows_again == rows
    return told


@pytest.mark.parametrize(
    ("schedule", "lengths"),
    [
        ({"type": "warm_restarts", "cycles": 3, "epochs": 9}, {7: 45, 20: 60, 30: 40}),
        ({"type": "warm_restarts", "cycles": 3, "epochs": 9}, {12: 24, 16: 50}),  # at the end of a cycle; a cycle is dropped
        ({"type": "triangular", "cycles": 2, "epochs_per_cycle": 4, "min_lr": 0.01}, {5: 50, 40: 45}),
        ({"type": "cosine", "epochs": 8, "snapshots": 2}, {10: 44, 30: 36}),
        ({"type": "step", "epochs": 8, "snapshots": 2}, {10: 44}),
    ],
)
def test_a_run_that_is_replanned_resumes_at_every_step(schedule: dict[str, Any], lengths: Lengths, tmp_path: Path) -> None:
    told = check_resuming_everywhere(Told(make_config(schedule=schedule), make_images(), tmp_path, lengths))
    changes = [event for event in told if len(event) == 2]
    assert len(changes) == len(lengths)
    steps = [event[0] for event in told if len(event) == 4]
    assert steps == list(range(1, changes[-1][1][-1] + 1))  # as many as the last plan says


def test_minima_of_a_replanned_run_are_minima(tmp_path: Path) -> None:
    config = make_config(schedule={"type": "warm_restarts", "cycles": 3, "epochs": 9})
    told, _, _ = Told(config, make_images(), tmp_path, {7: 60, 50: 57}).run()
    ends = [(event[0], event[2]) for event in told if len(event) == 5]
    assert ends == [(16, True), (38, True), (57, True)]
    rates = {event[0]: event[1] for event in told if len(event) == 4}
    for start, end in ((0, 16), (16, 38), (38, 57)):
        assert rates[end] == min(rates[step] for step in range(start + 1, end + 1)) < 0.1 * rates[start + 1]


def test_a_length_that_changes_nothing_is_not_told() -> None:
    events = train(make_config(), make_table())
    report = next(events)
    assert isinstance(report, StepReport)
    report.replan(report.schedule.num_steps, "a test")
    assert isinstance(next(events), StepReport)


def test_a_report_out_of_date_cannot_change_the_plan() -> None:
    events = train(make_config(), make_table())
    first = next(events)
    next(events)
    assert isinstance(first, StepReport)
    with pytest.raises(RuntimeError, match="out of date"):
        first.replan(100, "a test")


def test_the_length_cannot_change_after_the_last_step() -> None:
    events = list(train(make_config(), make_table()))
    report = next(event for event in reversed(events) if isinstance(event, StepReport))
    with pytest.raises(ScheduleError, match="the run is over after 16 steps"):
        report.replan(100, "a test")


def auto_config(**changes: Any) -> TrainingConfig:
    return make_config(
        model={"architecture": "mlp", "params": {"hidden": [32]}},
        schedule={"type": "warm_restarts", "cycles": "auto", "epochs": 30, "max_lr": 0.3} | changes.pop("schedule", {}),
        **changes,
    )


MEMORISABLE = make_images(48)
"""Rows that a small network soon knows by heart, so that restarts pay."""


def random_labels() -> Dataset:
    """Rows whose labels say nothing, so that nothing is learned for the validation rows either."""
    images = make_images(48)
    return Dataset.from_arrays(images.inputs.numpy(), images.targets.flip(0).roll(5).numpy())


def test_an_automatic_run_that_restarts_resumes_at_every_step(tmp_path: Path) -> None:
    told = check_resuming_everywhere(Told(auto_config(), random_labels(), tmp_path, {}), every=4)
    (decision, ends), *others = [event for event in told if len(event) == 2]
    assert others == []
    assert decision.subject == "cycles"
    assert decision.step in look_steps(150)
    assert len(ends) > 1
    assert ends[-1] == 150
    assert decision.evidence["train_loss"] < decision.evidence["validation_loss"]
    assert [(event[0], event[2]) for event in told if len(event) == 5] == [(end, True) for end in ends]


def test_an_automatic_run_whose_length_changes_resumes_at_every_step(tmp_path: Path) -> None:
    run = Told(auto_config(), random_labels(), tmp_path, {5: 120, 40: 160, 100: 140})
    told = check_resuming_everywhere(run, every=7)
    assert {event[0].subject for event in told if len(event) == 2} == {"cycles", "length"}
    assert all(event[2] for event in told if len(event) == 5)


def test_a_single_cycle_is_the_single_cosine_bit_for_bit() -> None:
    """So few steps leave no room for a restart: the looks change nothing."""
    auto, cosine = auto_config(schedule={"epochs": 2}), auto_config(schedule={"epochs": 2, "cycles": 1})
    (one,), (other,) = snapshots_of(auto, MEMORISABLE), snapshots_of(cosine, MEMORISABLE)
    assert one.tensors.keys() == other.tensors.keys()
    assert all((one.tensors[name] == other.tensors[name]).all() for name in one.tensors)
    assert one.metrics == other.metrics


def test_looks_leave_batch_norm_and_dropout_alone() -> None:
    shared: dict[str, Any] = {
        "model": {"architecture": "wide_resnet", "params": {"depth": 10, "widen": 1, "dropout": 0.3}},
        "batch_size": 16,
    }
    auto, cosine = ({**shared, "schedule": {"type": kind, "epochs": 2, "max_lr": 0.1}} for kind in ("warm_restarts", "cosine"))
    (one,), (other,) = (snapshots_of(make_config(**changes), MEMORISABLE) for changes in (auto, cosine))
    assert all((one.tensors[name] == other.tensors[name]).all() for name in one.tensors)


def test_the_ensemble_of_an_automatic_run_takes_the_members_that_are_best_on_validation() -> None:
    dataset = random_labels()
    ends = [event for event in train(auto_config(), dataset) if isinstance(event, CycleEnd)]
    outputs = [end.snapshot.outputs for end in ends]
    assert len(ends) > 1
    for count, end in enumerate(ends, start=1):
        probs = [each.validation_logits.double().softmax(1) for each in outputs[:count] if each]
        truth = outputs[0].validation_targets if outputs[0] else None
        losses = [-(sum(probs[-m:]) / m).gather(1, truth[:, None]).log().mean().item() for m in range(1, count + 1)]  # type: ignore[index, union-attr]  # each end of a fresh run has outputs
        assert end.ensemble.validation["loss"] == pytest.approx(losses[end.ensemble.num_members - 1], rel=1e-9)
        assert end.ensemble.reason
    assert all(math.isfinite(end.ensemble.test["loss"]) for end in ends)


def test_a_run_with_a_number_of_cycles_averages_all_members() -> None:
    ends = [event for event in train(make_config(), make_table()) if isinstance(event, CycleEnd)]
    assert [(end.ensemble.num_members, end.ensemble.reason) for end in ends] == [(1, ""), (2, "")]


def test_rollbacks_and_changes_of_plan_go_together(tmp_path: Path) -> None:
    config = make_config(
        model={"architecture": "mlp", "params": {"hidden": [16, 16]}},
        schedule={"type": "warm_restarts", "cycles": 2, "epochs": 60, "max_lr": 3.0, "warmup_steps": 119},
    )
    run = Told(config, make_table(regression=True), tmp_path, {130: 260, 140: 250, 200: 230})
    told = check_resuming_everywhere(run, every=29)
    assert any(isinstance(event[0], Rollback) for event in told)
    assert [event[1] for event in told if len(event) == 2][-1] == (120, 230)


def test_an_automatic_run_that_diverges_looks_again(tmp_path: Path) -> None:
    config = make_config(
        model={"architecture": "mlp", "params": {"hidden": [16, 16]}},
        schedule={"type": "warm_restarts", "cycles": "auto", "epochs": 40, "max_lr": 1.0},
    )
    told = check_resuming_everywhere(Told(config, make_table(regression=True), tmp_path, {}), every=13)
    assert any(isinstance(event[0], Rollback) for event in told)
    assert len([event for event in told if len(event) == 2]) == 1
