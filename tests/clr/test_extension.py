"""More cycles for a run: nothing before them changes, and the run is the one that had them from the start."""

import pytest
import torch

from clr.checkpoints import Checkpoint, with_more_cycles
from clr.config import TrainingConfig
from clr.errors import CheckpointError
from clr.extension import ExtensionError, extended
from clr.history import History
from clr.schedules import build_schedule
from clr.snapshots import Snapshot
from clr.training import CycleEnd, run_plan
from tests.clr.tiny import make_config, make_table, snapshots_of, steady

STEPS_PER_EPOCH = 7


def config(schedule: dict[str, object], **fields: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"schedule": {"type": "warm_restarts", **schedule}, **fields})


@pytest.mark.parametrize(
    "schedule",
    [
        {"cycles": 3, "epochs_per_cycle": 2},
        {"cycles": 3},
        {"cycles": 3, "epochs_per_cycle": 0.5},  # cycles of 3.5 steps
        {"cycles": 3, "epochs": 6},
        {"cycles": 3, "epochs_per_cycle": 2, "cycle_mult": 2, "restart_decay": 0.5, "warmup_steps": 5},
        {"cycles": 2, "epochs_per_cycle": 3, "boundaries": "paper", "min_lr": 0.01},
    ],
)
def test_no_earlier_rate_changes(schedule: dict[str, object]) -> None:
    before = config(schedule)
    after = extended(before, 2, steps_per_epoch=STEPS_PER_EPOCH)
    old, new = (build_schedule(each.schedule, steps_per_epoch=STEPS_PER_EPOCH) for each in (before, after))
    assert new.num_cycles == old.num_cycles + 2
    assert new.cycle_ends[: old.num_cycles] == old.cycle_ends
    assert [new(step) for step in range(old.num_steps)] == [old(step) for step in range(old.num_steps)]
    assert new(old.num_steps) == pytest.approx(0.1 * float(schedule.get("restart_decay", 1)) ** old.num_cycles)  # type: ignore[arg-type]  # a float


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (config({"cycles": "auto"}), "the number of cycles must be given, got auto: submit a new job"),
        (config({"cycles": 2}, budget={"epochs": 4}), "got 2 within a budget"),
        (TrainingConfig.model_validate({"schedule": {"type": "cosine"}}), "must be warm_restarts, got cosine: submit a new job"),
        (config({"cycles": 3, "epochs": 2}), "1 more cycles would change the 3 that there are"),  # 14 steps: 4, 5 and 5
        (config({"cycles": 1000, "epochs_per_cycle": 1}), "1001 cycles are not possible"),
        (config({"cycles": 3, "epochs_per_cycle": 1, "cycle_limit": 2}), "would change the 3"),
    ],
)
def test_what_cannot_get_more_cycles_says_why(before: TrainingConfig, message: str) -> None:
    with pytest.raises(ExtensionError, match=message):
        extended(before, 1, steps_per_epoch=STEPS_PER_EPOCH)


def cycles_of(count: int) -> TrainingConfig:
    return make_config(schedule={"type": "warm_restarts", "cycles": count, "epochs_per_cycle": 2})


@pytest.mark.parametrize("interrupted_after", [3, 7, None])  # within a cycle, in the last one, at the end
def test_an_extended_run_is_the_one_that_had_the_cycles_from_the_start(interrupted_after: int | None) -> None:
    dataset, short = make_table(), cycles_of(2)
    longer = extended(short, 2, steps_per_epoch=build_length(short) // 4)
    checkpoint: Checkpoint | None = None
    snapshots: list[Snapshot] = []
    for event in steady(short, dataset):
        if isinstance(event, CycleEnd):
            snapshots.append(event.snapshot)
        if event.step == (interrupted_after or event.step):
            checkpoint = event.checkpoint()
            if interrupted_after:
                break
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match="config must be this run's"):
        next(steady(longer, dataset, resume_from=checkpoint))
    snapshots += snapshots_of(longer, dataset, with_more_cycles(checkpoint, longer))
    expected = snapshots_of(longer, dataset)
    assert [(each.cycle, each.step, each.learning_rate, each.metrics) for each in snapshots] == [
        (each.cycle, each.step, each.learning_rate, each.metrics) for each in expected
    ]
    for found, wanted in zip(snapshots, expected, strict=True):
        assert all(torch.equal(found.tensors[name], wanted.tensors[name]) for name in wanted.tensors)


def build_length(config: TrainingConfig) -> int:
    return run_plan(config, make_table()).schedule.num_steps


def test_a_checkpoint_of_another_run_stays_one() -> None:
    other = next(event for event in steady(cycles_of(2), make_table()) if event.step == 1).checkpoint()
    changed = with_more_cycles(other, make_config(seed=1, schedule={"type": "warm_restarts", "cycles": 3, "epochs_per_cycle": 2}))
    with pytest.raises(CheckpointError, match="config must be this run's"):
        next(steady(make_config(seed=1, schedule={"type": "warm_restarts", "cycles": 3, "epochs_per_cycle": 2}), make_table(), changed))
    assert with_more_cycles(other, cycles_of(2)) is other


def test_the_curve_of_a_longer_run_has_as_many_points_in_its_new_part() -> None:
    history = History(40, max_points=10)
    for step in range(1, 41):
        history.record(Step(step))
    history.extend(40, 80)
    for step in range(41, 81):
        history.record(Step(step))
    assert [row[0] for row in history.rows] == list(range(4, 81, 4))


class Step:
    """A step of a run."""

    epoch, cycle, learning_rate, loss = 0.0, 0, 0.1, torch.tensor(1.0)

    def __init__(self, step: int) -> None:
        self.step = step
