"""Step, exponential, cosine, one-cycle, triangular and warm-up: where the peers agree with ours and where they end elsewhere."""

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler as sched
from torch.optim.lr_scheduler import LRScheduler

from clr.config import (
    CosineSchedule,
    ExponentialSchedule,
    ExpRangeSchedule,
    OneCycleSchedule,
    ScheduleConfig,
    StepSchedule,
    TriangularSchedule,
    WarmRestartsSchedule,
)
from clr.schedules import build_schedule
from tests.peers.conftest import Peers, Record
from tests.peers.measuring import listed, over, power, rates, sgd, torch_rates, widest_gap

LONG = 100_000
Build = Callable[[torch.optim.Optimizer], LRScheduler]


def cyclic(mode: str, **options: float) -> Build:
    """Builds torch's CyclicLR, 100 cycles over the long run."""
    return lambda o: sched.CyclicLR(
        o, base_lr=0.01, max_lr=0.1, step_size_up=LONG // 200, mode=mode, cycle_momentum=False, **options  # type: ignore[arg-type]  # mode is a literal
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "build"),
    [
        ("step", StepSchedule(max_lr=0.1), lambda o: sched.MultiStepLR(o, milestones=[LONG // 2, LONG * 3 // 4], gamma=0.1)),
        ("exponential", ExponentialSchedule(max_lr=0.1, gamma=0.9999), lambda o: sched.ExponentialLR(o, gamma=0.9999)),
        ("cosine", CosineSchedule(max_lr=0.1, min_lr=0.001), lambda o: sched.CosineAnnealingLR(o, T_max=LONG, eta_min=0.001)),
        ("one_cycle", OneCycleSchedule(max_lr=0.1), lambda o: sched.OneCycleLR(o, max_lr=0.1, total_steps=LONG, cycle_momentum=False)),
        ("triangular", TriangularSchedule(min_lr=0.01, max_lr=0.1, cycles=100), cyclic("triangular")),
        ("triangular2", TriangularSchedule(type="triangular2", min_lr=0.01, max_lr=0.1, cycles=100), cyclic("triangular2")),
        ("exp_range", ExpRangeSchedule(min_lr=0.01, max_lr=0.1, cycles=100), cyclic("exp_range", gamma=0.99994)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_torch_agrees_over_a_hundred_thousand_steps(
    name: str, config: ScheduleConfig, build: Build, record: Record, torch_version: str
) -> None:
    gap = widest_gap(rates(over(config, LONG)), torch_rates(build, LONG))
    assert gap < 1e-12
    record(name, torch_version, "agrees", f"{LONG:,} steps: to {power(gap)}")


def test_torch_one_cycle_allows_a_step_that_raises_the_rate(record: Record, torch_version: str) -> None:
    optimizer = sgd()
    scheduler = sched.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    seen = [optimizer.param_groups[0]["lr"]]
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        scheduler.step()
    assert seen[9] == pytest.approx(4e-6)
    assert seen[10] > 1000 * seen[9]
    ours = over(OneCycleSchedule(max_lr=1.0), 10)
    assert rates(ours) == pytest.approx(seen[:10], rel=1e-12)
    with pytest.raises(ValueError, match="step must be between 0 and 9, got 10"):
        ours(10)
    finding = f"`total_steps` 10 allows an eleventh rate: from {seen[9]:.2g} back up to {seen[10]:.2g}; ours refuses step 10"
    record("one_cycle", torch_version, "defect", finding)


def test_torch_triangular2_overflows(record: Record, torch_version: str) -> None:
    optimizer = sgd()
    scheduler = sched.CyclicLR(optimizer, base_lr=0.01, max_lr=0.1, step_size_up=1, mode="triangular2", cycle_momentum=False)
    optimizer.step()
    cycle, length = 1025, 2
    for _ in range((cycle - 1) * length - 1):
        scheduler.step()
    with pytest.raises(OverflowError):
        scheduler.step()
    longest = TriangularSchedule(type="triangular2", min_lr=0.01, max_lr=0.1, cycles=1000, epochs_per_cycle=length)
    ours = build_schedule(longest, steps_per_epoch=1)
    assert ours(ours.num_steps - 1) == 0.01
    with pytest.raises(ValidationError, match="less than or equal to 1000"):
        TriangularSchedule(type="triangular2", cycles=cycle)
    finding = (
        f"`OverflowError` at the start of cycle {cycle:,}: `2.0 ** {cycle - 1}`; ours refuses more than {longest.cycles:,} cycles at once"
    )
    record("triangular2", torch_version, "defect", finding)


def test_fastai_one_cycle_ends_elsewhere(record: Record, peers: Peers) -> None:
    theirs = peers("fastai", "one_cycle", num_steps=100, max_lr=1.0)
    ours = rates(over(OneCycleSchedule(max_lr=1.0, rise_fraction=0.25), 100))
    assert theirs[0] == pytest.approx(ours[0], rel=1e-6)
    assert max(ours) == 1.0
    assert ours[-1] == pytest.approx(4e-6)
    assert theirs[-1] == pytest.approx(1e-5 + (1 - 1e-5) * 0.5 * (1 + math.cos(math.pi * 74 / 75)), rel=1e-3)
    assert theirs[-1] > 10 * ours[-1]
    finding = f"of 100 steps at 1.0 the last has {theirs[-1]:.2g}: 1e-5, max/1e5, is not reached; torch and ours end at {ours[-1]:.2g}"
    record("one_cycle", peers("fastai", "peer"), "defect", finding)


def test_timm_step_agrees(record: Record, peers: Peers) -> None:
    ours = rates(over(StepSchedule(max_lr=0.1, milestones=(0.25, 0.5, 0.75)), 1000))
    gap = widest_gap(ours, peers("timm", "step", steps=list(range(1000)), max_lr=0.1, decay_t=250, decay_rate=0.1))
    assert gap < 1e-12
    record("step", peers("timm", "peer"), "agrees", f"`StepLRScheduler`, 1,000 steps: to {power(gap)}")


def test_timm_multistep_drops_one_step_early(record: Record, peers: Peers) -> None:
    theirs = peers("timm", "multistep", steps=list(range(8)), max_lr=0.1, decay_t=[4, 6], decay_rate=0.1)
    ours = rates(over(StepSchedule(max_lr=0.1), 8))
    assert theirs == pytest.approx([*ours[1:], ours[-1]], rel=1e-12)
    finding = f"milestones 4 and 6 act one step early, by intent: {listed(theirs)}; torch and ours: {listed(ours)}"
    record("step", peers("timm", "peer"), "differs", f"`MultiStepLRScheduler`: {finding}")


def test_timm_warmup_trains_its_first_step_at_zero(record: Record, peers: Peers) -> None:
    theirs = peers("timm", "cosine", steps=list(range(8)), t_initial=20, cycle_limit=2, warmup_t=4)
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=2, warmup_steps=4), 40)
    assert theirs[0] == 0
    assert schedule(0) == 0.025
    assert theirs[4:] == pytest.approx(rates(schedule)[4:8], rel=1e-12)
    finding = f"4 steps: {listed(theirs[:4])}, the first trains nothing; ours {listed(rates(schedule)[:4])}; the same from step 4 on"
    record("warm-up", peers("timm", "peer"), "differs", finding)
