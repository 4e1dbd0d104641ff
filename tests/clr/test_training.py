"""The loop: its events, its arithmetic against a loop written by hand, and what it refuses."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.errors import DatasetError, ModelError
from clr.randomness import generator, mix
from clr.schedules import ScheduleError
from clr.splits import split_dataset
from clr.training import CycleEnd, StepReport, resolve, run_plan, train
from tests.clr.tiny import make_config, make_images, make_table, snapshots_of


def test_events_come_in_order_with_exact_numbers() -> None:
    dataset, config = make_images(36), make_config(batch_size=10)
    plan = run_plan(config, dataset)
    assert (plan.num_train_rows, plan.num_validation, plan.num_test) == (29, 3, 4)
    assert (plan.steps_per_epoch, plan.schedule.num_steps, plan.epochs) == (3, 12, 4.0)
    events = list(train(config, dataset))
    steps = [event for event in events if isinstance(event, StepReport)]
    ends = [event for event in events if isinstance(event, CycleEnd)]
    assert [event.step for event in steps] == list(range(1, 13))
    assert [event.learning_rate for event in steps] == [plan.schedule(step) for step in range(12)]
    assert [event.cycle for event in steps] == [0] * 6 + [1] * 6
    assert [event.num_rows for event in steps] == [10, 10, 9] * 4
    assert [event.epoch for event in steps] == [step / 3 for step in range(1, 13)]
    assert all(event.loss.shape == () and math.isfinite(event.loss.item()) for event in steps)
    assert [events.index(end) for end in ends] == [6, 13]  # each right after its last step
    assert [(end.step, end.cycle, end.epoch) for end in ends] == [(6, 0, 2.0), (12, 1, 4.0)]
    assert [end.snapshot.learning_rate for end in ends] == [plan.schedule(5), plan.schedule(11)]
    assert [end.snapshot.next_learning_rate for end in ends] == [plan.schedule(6), None]
    assert [end.snapshot.is_minimum for end in ends] == [True, True]
    assert ends[0].snapshot.dataset_sha256 == dataset.sha256


def test_plan_counts_parameters_and_does_not_train() -> None:
    plan = run_plan(make_config(), make_images())
    assert plan.num_parameters == 64 * 8 + 8 + 8 * 3 + 3


def hand_written_losses(config: TrainingConfig, dataset: Dataset) -> list[float]:
    """The same run as a plain loop with torch's plain optimizer and normalised inputs."""
    split = split_dataset(dataset, config)
    x = dataset.inputs.double().flatten(1)
    image_mean, image_std = x[split.train].mean(), x[split.train].std(correction=0)
    x = ((x - image_mean) / image_std).float()
    torch.manual_seed(mix(config.seed, "weights"))
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=False)
    plan = run_plan(config, dataset)
    losses: list[float] = []
    for epoch in range(4):
        order = split.train[torch.randperm(len(split.train), generator=generator(config.seed, "order", epoch))]
        for rows in torch.split(order, config.batch_size):
            optimizer.param_groups[0]["lr"] = plan.schedule(len(losses))
            loss = nn.functional.cross_entropy(model(x[rows]), dataset.targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_losses_are_those_of_a_loop_written_by_hand() -> None:
    dataset, config = make_images(36), make_config(seed=5)
    ours = [event.loss.item() for event in train(config, dataset) if isinstance(event, StepReport)]
    np.testing.assert_allclose(ours, hand_written_losses(config, dataset), rtol=2e-5)
    assert np.mean(ours[-4:]) < 0.5 * ours[0]


def test_every_training_row_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    rows = np.arange(40, dtype=np.float32)[:, None]
    dataset, config = Dataset.from_arrays(rows, np.arange(40) % 2), make_config()
    split = split_dataset(dataset, config)
    orders = []
    for event in train(config, dataset):
        if isinstance(event, StepReport) and event.step % 4 == 1:
            batches = event._run.batches((event.step - 1) // 4)
            orders.append(torch.cat(batches).tolist())
    assert len(orders) == 4
    assert all(sorted(order) == split.train.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_regression_learns_in_standardized_units_and_reports_its_own() -> None:
    config = make_config(schedule={"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 10, "max_lr": 0.05})
    dataset = make_table(200, regression=True)
    events = list(train(config, dataset))
    losses = [event.loss.item() for event in events if isinstance(event, StepReport)]
    assert 0.3 < losses[0] < 3  # of a target with unit variance, not of one around 110
    end = events[-1]
    assert isinstance(end, CycleEnd)
    assert end.snapshot.metrics["test"].keys() == {"loss", "rmse", "mae"}
    assert end.ensemble.test["rmse"] < 0.2 * dataset.targets.std().item()


@pytest.mark.parametrize(
    ("schedule", "minima"),
    [
        ({"type": "warm_restarts", "cycles": 3, "epochs": 4}, [True, True, True]),
        ({"type": "warm_restarts", "cycles": 3, "epochs": 4, "boundaries": "paper"}, [True, True, False]),  # 6, 12, 16 of 16 steps
        ({"type": "warm_restarts", "cycles": 4, "epochs": 4, "boundaries": "paper"}, [True, True, True, True]),
        ({"type": "warm_restarts", "cycles": 4, "epochs": 4, "cycle_limit": 2}, [True, True, False]),  # the plateau anneals nothing
        ({"type": "triangular", "cycles": 2, "epochs_per_cycle": 2, "min_lr": 0.001}, [True, True]),
        ({"type": "cosine", "epochs": 4, "snapshots": 2}, [False, True]),
        ({"type": "one_cycle", "epochs": 4}, [True]),
        ({"type": "fixed", "epochs": 4, "snapshots": 2}, [False, False]),
        ({"type": "step", "epochs": 4, "snapshots": 2}, [False, False]),
        ({"type": "exponential", "epochs": 4}, [False]),
    ],
)
def test_only_the_end_of_a_full_annealing_counts_as_a_minimum(schedule: dict[str, Any], minima: list[bool]) -> None:
    assert [snapshot.is_minimum for snapshot in snapshots_of(make_config(schedule=schedule), make_table(40))] == minima


def test_run_can_be_stopped_with_a_snapshot_of_the_weights_as_they_are() -> None:
    events = train(make_config(), make_table())
    for _ in range(3):
        report = next(events)
    assert isinstance(report, StepReport)
    end = report.stop_here()
    assert (end.step, end.cycle, end.snapshot.is_minimum, end.ensemble.num_members) == (3, 0, False, 1)
    assert end.snapshot.next_learning_rate == run_plan(make_config(), make_table()).schedule(3)
    assert list(events) == []


def test_stopping_at_the_end_of_a_cycle_gives_its_minimum() -> None:
    events = train(make_config(), make_table())
    reports = [next(events) for _ in range(8)]
    assert isinstance(reports[-1], StepReport)
    end = reports[-1].stop_here()
    assert (end.step, end.snapshot.is_minimum) == (8, True)
    assert torch.equal(end.snapshot.tensors["1.weight"], snapshots_of(make_config(), make_table())[0].tensors["1.weight"])


def test_report_of_an_earlier_step_is_out_of_date() -> None:
    events = train(make_config(), make_table())
    first, _ = next(events), next(events)
    assert isinstance(first, StepReport)
    with pytest.raises(RuntimeError, match="the report of step 1 is out of date, the run is at step 2"):
        first.checkpoint()


def test_seed_fixes_the_run_and_another_seed_changes_it() -> None:
    one, same, other = (snapshots_of(make_config(seed=seed), make_table())[1].tensors["1.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_training_without_dropout_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    snapshots_of(make_config(augmentation="none"), make_table())
    assert torch.equal(before, torch.get_rng_state())


def test_batch_norm_counts_every_step_and_evaluation_changes_nothing() -> None:
    config = make_config(model={"architecture": "small_cnn", "params": {"width": 2}})
    snapshots = snapshots_of(config, make_images())
    assert [int(snapshot.tensors["1.num_batches_tracked"]) for snapshot in snapshots] == [8, 16]
    often = make_config(model=config.model, schedule={"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 2})
    assert torch.equal(snapshots_of(often, make_images())[1].tensors["1.running_mean"], snapshots[1].tensors["1.running_mean"])


def test_auto_is_replaced_by_what_was_taken() -> None:
    resolved = resolve(make_config(), make_table(), "cpu")
    assert (resolved.precision, resolved.augmentation) == ("fp32", "none")
    assert snapshots_of(make_config(), make_table())[0].config == resolved
    assert resolve(make_config(precision="bf16", augmentation="crop"), make_table(), "cpu").precision == "bf16"


def test_bf16_trains_with_float32_weights() -> None:
    config = make_config(precision="bf16", schedule={"type": "warm_restarts", "cycles": 1, "epochs": 6})
    losses = [event.loss for event in train(config, make_images()) if isinstance(event, StepReport)]
    assert losses[-1].item() < losses[0].item()
    assert snapshots_of(config, make_images())[0].tensors["1.weight"].dtype == torch.float32


def test_augmentation_changes_what_the_network_sees() -> None:
    plain, cropped = (snapshots_of(make_config(augmentation=name), make_images())[0].tensors["1.weight"] for name in ("none", "crop"))
    assert not torch.equal(plain, cropped)


@pytest.mark.parametrize(
    ("changes", "dataset", "error", "message"),
    [
        ({"model": {"architecture": "small_cnn"}}, make_table(), ModelError, "small_cnn needs images"),
        ({"augmentation": "crop"}, make_table(), ModelError, "augmentation 'crop' needs images, but a row has the shape .4,.: take none"),
        ({"schedule": {"type": "warm_restarts", "cycles": 20, "epochs": 2}}, make_table(), ScheduleError, "cycles must be between 1 and 4"),
        ({}, Dataset.from_arrays(np.zeros((3, 1), np.float32), np.array([0, 1, 1])), DatasetError, "add rows"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(
    changes: dict[str, Any], dataset: Dataset, error: type[Exception], message: str
) -> None:
    config = make_config(**changes)
    with pytest.raises(error, match=message):
        run_plan(config, dataset)
    with pytest.raises(error, match=message):
        next(train(config, dataset))


def test_one_row_in_the_last_batch_is_enough_for_batch_norm() -> None:
    config = make_config(model={"architecture": "resnet", "params": {"depth": 8, "width": 2}}, batch_size=7)
    assert run_plan(config, make_images()).num_train_rows % 7 == 1
    assert len(snapshots_of(config, make_images())) == 2


def test_learning_rates_fall_within_each_cycle() -> None:
    rates = [event.learning_rate for event in train(make_config(), make_table()) if isinstance(event, StepReport)]
    assert all(before > after for index, (before, after) in enumerate(pairwise(rates)) if index != 7)
    assert rates[8] == rates[0] == 0.1
