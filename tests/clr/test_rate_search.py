"""``max_lr: "auto"``: a range test first, on networks of its own; then the run that has the number."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.errors import RateNotFoundError
from clr.plans import run_plan
from clr.range_test import RangeTestError, range_test
from clr.rate_search import search_config
from clr.snapshots import Snapshot
from clr.training import CycleEnd, Event, RateFound, RateSearch, StepReport, resolve, train
from tests.clr.tiny import make_config, make_images, snapshots_of

IMAGES = make_images(120)


def auto(**schedule: Any) -> TrainingConfig:
    return make_config(schedule={"type": "cosine", "epochs": 2, "max_lr": "auto"} | schedule)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """All events of a run that searched."""
    return list(train(auto(), IMAGES))


def found_in(events: Sequence[Event]) -> RateFound:
    (found,) = [event for event in events if isinstance(event, RateFound)]
    return found


def last_snapshot(events: Sequence[Event]) -> Snapshot:
    return [event.snapshot for event in events if isinstance(event, CycleEnd)][-1]


def test_the_search_comes_first_and_says_how_far_it_is(events: list[Event]) -> None:
    index = events.index(found_in(events))
    fractions = [event.fraction for event in events[:index] if isinstance(event, RateSearch)]
    assert len(fractions) == index > 100
    assert all(0 < earlier <= later <= 1 for earlier, later in pairwise(fractions))
    assert not any(isinstance(event, RateSearch) for event in events[index + 1 :])


def test_the_run_is_the_one_that_was_given_the_number(events: list[Event]) -> None:
    found = found_in(events)
    given = snapshots_of(found.config, IMAGES)[-1]
    taken = last_snapshot(events)
    assert found.config.schedule.max_lr == found.max_lr == taken.config.schedule.max_lr
    assert taken.config == given.config
    assert all(torch.equal(taken.tensors[name], given.tensors[name]) for name in given.tensors)


def test_the_number_is_that_of_the_range_test_of_the_same_rows(events: list[Event]) -> None:
    found = found_in(events)
    test = search_config(resolve(auto(), IMAGES, "cpu"))
    assert (test.split_seed, test.batch_size, test.model) == (0, 8, auto().model)
    assert test.seed != 0
    alone = range_test(test, IMAGES)
    assert (alone.max_lr, alone.reason) == (found.max_lr, found.result.reason)
    assert found.epochs == alone.num_steps / run_plan(auto(), IMAGES).steps_per_epoch


def test_a_resumed_run_does_not_search_again(events: list[Event]) -> None:
    for event in train(auto(), IMAGES):
        if isinstance(event, StepReport) and event.step == 5:
            checkpoint = event.checkpoint()
            break
    rest = list(train(auto(), IMAGES, resume_from=checkpoint))
    assert not any(isinstance(event, RateSearch | RateFound) for event in rest)
    taken, resumed = last_snapshot(events), last_snapshot(rest)
    assert all(torch.equal(taken.tensors[name], resumed.tensors[name]) for name in taken.tensors)


def test_the_search_leaves_torchs_generators_alone() -> None:
    config = make_config(
        model={"architecture": "mlp", "params": {"hidden": [8], "dropout": 0.2}}, schedule={"type": "cosine", "epochs": 1, "max_lr": "auto"}
    )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for event in train(config, IMAGES):
        if isinstance(event, RateFound):
            break
    assert torch.equal(before, torch.get_rng_state())


def test_labels_that_say_nothing_give_no_rate() -> None:
    draws = np.random.default_rng(3)
    noise = Dataset.from_arrays(draws.normal(size=(120, 4)).astype(np.float32), np.arange(120) % 2)
    with pytest.raises(
        RateNotFoundError,
        match=r"^the range test found no max_lr: (?!.*(steps_per_rate|probe_steps)).*; give max_lr a number, for example 0.1$",
    ):
        list(train(auto(), noise))


def test_a_rate_that_the_schedule_cannot_take_is_refused() -> None:
    with pytest.raises(RateNotFoundError, match=r"which the schedule cannot take: max_lr must be > min_lr \(0.999\)"):
        list(train(auto(min_lr=0.999), IMAGES))


def test_data_without_a_second_batch_are_refused() -> None:
    with pytest.raises(RangeTestError, match="fill one batch of 4096"):
        list(train(auto().model_copy(update={"batch_size": 4096}), IMAGES))


def test_another_jobs_rate_is_for_the_service_to_look_up() -> None:
    with pytest.raises(RateNotFoundError, match="which only the service can look up; give max_lr a number"):
        list(train(auto(max_lr={"from_job": "job_1"}), IMAGES))


def test_schedules_are_laid_out_in_shares_of_a_rate_that_is_unknown() -> None:
    plan = run_plan(auto(), IMAGES)
    share = run_plan(auto(max_lr=1.0), IMAGES)
    assert [plan.schedule(step) for step in range(plan.schedule.num_steps)] == [
        share.schedule(step) for step in range(plan.schedule.num_steps)
    ]
