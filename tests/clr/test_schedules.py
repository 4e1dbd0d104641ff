"""The schedules against hand-computed vectors, 60-digit arithmetic, torch's own schedulers, and properties over all lengths.

Vectors: 1704.00109, equation 2; 1608.03983, equation 5, written out for small runs.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as sched
from torch.optim.lr_scheduler import LRScheduler

from clr.config import (
    CosineSchedule,
    ExponentialSchedule,
    ExpRangeSchedule,
    FixedSchedule,
    OneCycleSchedule,
    ScheduleConfig,
    StepSchedule,
    TriangularSchedule,
    WarmRestartsSchedule,
)
from clr.schedules import Schedule, ScheduleError, balanced_ends, build_schedule, cosine_rate, paper_ends


def rates(schedule: Schedule) -> list[float]:
    return [schedule(step) for step in range(schedule.num_steps)]


def over(config: ScheduleConfig, num_steps: int) -> Schedule:
    """The schedule over exactly ``num_steps`` steps."""
    return build_schedule(config, steps_per_epoch=num_steps, epochs=1)


def test_two_cycles_over_ten_steps_follow_the_paper() -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=2), 10)
    cycle = [0.1, 0.09045084971874737, 0.06545084971874737, 0.03454915028125263, 0.00954915028125263]
    assert rates(schedule) == pytest.approx(cycle * 2, rel=0, abs=1e-15)
    assert schedule.cycle_ends == (5, 10)


def test_three_cycles_over_twelve_steps_follow_the_paper() -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.2, cycles=3), 12)
    assert rates(schedule) == pytest.approx([0.2, 0.17071067811865476, 0.1, 0.029289321881345254] * 3, rel=0, abs=1e-15)
    assert schedule.cycle_ends == (4, 8, 12)


def test_growing_cycles_follow_sgdr() -> None:
    config = WarmRestartsSchedule(max_lr=0.1, min_lr=0.001, cycles=2, epochs_per_cycle=1, cycle_mult=2)
    schedule = build_schedule(config, steps_per_epoch=4)
    first = [0.1, 0.085501785668734, 0.0505, 0.015498214331266]
    second = [0.1, 0.096232036859309, 0.085501785668734, 0.069442829902072, 0.0505, 0.031557170097928, 0.015498214331266, 0.004767963140691]
    assert rates(schedule) == pytest.approx(first + second, rel=0, abs=1e-15)
    assert schedule.cycle_ends == (4, 12)


def test_balanced_cycles_share_the_steps_that_do_not_divide() -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=3), 10)
    short = [0.1, 0.075, 0.025]
    assert rates(schedule) == pytest.approx([*short, *short, 0.1, 0.08535533905932738, 0.05, 0.014644660940672625], rel=0, abs=1e-15)
    assert schedule.cycle_ends == (3, 6, 10)


@pytest.mark.parametrize(
    ("num_steps", "cycles", "paper", "last_rate", "balanced"),
    [
        (10, 3, (4, 8, 10), 0.08535533905932738, (3, 6, 10)),
        (100, 7, (15, 30, 45, 60, 75, 90, 100), 0.03454915028125263, (14, 28, 42, 57, 71, 85, 100)),
        (4690, 6, (782, 1564, 2346, 3128, 3910, 4690), 3.6e-6, (781, 1563, 2345, 3126, 3908, 4690)),
    ],
)
def test_paper_boundaries_cut_the_last_cycle_and_balanced_ones_do_not(
    num_steps: int, cycles: int, paper: tuple[int, ...], last_rate: float, balanced: tuple[int, ...]
) -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=cycles, boundaries="paper"), num_steps)
    assert schedule.cycle_ends == paper
    assert schedule(num_steps - 1) == pytest.approx(last_rate, rel=0.02)
    assert over(WarmRestartsSchedule(max_lr=0.1, cycles=cycles), num_steps).cycle_ends == balanced


def test_paper_boundaries_may_hold_fewer_cycles_than_asked() -> None:
    assert paper_ends(11, 4) == (3, 6, 9, 11)
    assert paper_ends(17, 7) == (3, 6, 9, 12, 15, 17)
    with pytest.raises(ScheduleError, match="between 1 and 5 for 10 steps"):
        paper_ends(10, 6)


def test_a_last_cycle_of_one_step_is_refused() -> None:
    with pytest.raises(ScheduleError, match="leave 1 of 7 steps to the last of 3 cycles: take boundaries 'balanced'"):
        paper_ends(7, 3)


@given(st.integers(2, 100_000), st.data())
def test_balanced_boundaries_hold_exactly_m_full_cycles(num_steps: int, data: st.DataObject) -> None:
    cycles = data.draw(st.integers(1, min(1000, num_steps // 2)))
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=cycles), num_steps)
    assert len(schedule.cycle_ends) == schedule.num_cycles == cycles
    assert schedule.cycle_ends[-1] == schedule.num_steps == num_steps
    lengths = [end - start for start, end in pairwise((0, *schedule.cycle_ends))]
    assert max(lengths) - min(lengths) <= 1
    for start, end in list(pairwise((0, *schedule.cycle_ends)))[:: max(1, cycles // 5)]:
        probes = {start, end - 2, end - 1, *range(start, end, max(1, (end - start) // 50))}
        assert schedule(end - 1) == min(schedule(step) for step in probes)
        assert schedule(start) == 0.1
        assert schedule.is_cycle_end(end - 1)
        assert not schedule.is_cycle_end(end - 2)


@given(st.integers(2, 400), st.data())
def test_rates_fall_strictly_inside_each_cycle(num_steps: int, data: st.DataObject) -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=data.draw(st.integers(1, num_steps // 2))), num_steps)
    for step in range(1, num_steps):
        if schedule.is_cycle_end(step - 1):
            assert schedule(step) == 0.1
        else:
            assert schedule(step) < schedule(step - 1)


@given(st.integers(2, 10_000), st.data())
def test_more_cycles_than_half_the_steps_are_refused_with_the_remedy(num_steps: int, data: st.DataObject) -> None:
    cycles = data.draw(st.integers(num_steps // 2 + 1, num_steps + 5))
    with pytest.raises(
        ScheduleError, match=rf"cycles must be between 1 and {num_steps // 2} .* got {cycles}: lower cycles, train for more"
    ):
        balanced_ends(num_steps, cycles)


@pytest.mark.parametrize("mult", [1, 2, 3, 10])
def test_grown_boundaries_are_exact_up_to_eight_cycles(mult: int) -> None:
    config = WarmRestartsSchedule(cycles=8, epochs_per_cycle=1, cycle_mult=mult)
    schedule = build_schedule(config, steps_per_epoch=3 if mult < 10 else 2)
    expected = [(3 if mult < 10 else 2) * sum(mult**i for i in range(j + 1)) for j in range(8)]
    assert list(schedule.cycle_ends) == expected


def test_cycles_may_shrink_by_a_ratio() -> None:
    schedule = build_schedule(WarmRestartsSchedule(cycles=3, epochs_per_cycle=9, cycle_mult="2/3"), steps_per_epoch=10)
    assert schedule.cycle_ends == (90, 150, 190)


def test_restart_decay_lowers_each_peak() -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.4, cycles=3, restart_decay=0.5), 12)
    assert [schedule(step) for step in (0, 4, 8)] == [0.4, 0.2, 0.1]


def test_warmup_scales_the_first_steps_and_moves_no_boundary() -> None:
    plain = over(WarmRestartsSchedule(max_lr=0.1, cycles=2), 20)
    warm = over(WarmRestartsSchedule(max_lr=0.1, cycles=2, warmup_steps=4), 20)
    assert warm.cycle_ends == plain.cycle_ends
    assert rates(warm)[:4] == pytest.approx([plain(k) * (k + 1) / 4 for k in range(4)], rel=1e-15)
    assert rates(warm)[4:] == rates(plain)[4:]
    with pytest.raises(ScheduleError, match="shorter than the first cycle"):
        over(WarmRestartsSchedule(cycles=2, warmup_steps=10), 20)


@given(st.integers(2, 10**6), st.data())
def test_rates_are_exact_to_1e_15_relative(length: int, data: st.DataObject) -> None:
    phase = data.draw(st.integers(0, length - 1) | st.integers(max(0, length - 3), length - 1))
    with mpmath.workdps(60):
        exact = (mpmath.mpf(0.1) / 2) * (1 + mpmath.cos(mpmath.pi * phase / length))
        assert abs(cosine_rate(0.1, 0.0, phase, length) - exact) / exact < 1e-15


def test_fraction_left_at_the_last_step_of_a_cycle() -> None:
    for length, left in [(2, 0.5), (5, 0.0955), (10, 0.02447), (40, 1.541e-3), (100, 2.467e-4), (15_640, 1.009e-8)]:
        assert cosine_rate(1.0, 0.0, length - 1, length) == pytest.approx(left, rel=1e-3)


LONG = 100_000


def torch_rates(build: Callable[[torch.optim.Optimizer], LRScheduler], max_lr: float, num_steps: int = LONG) -> Iterator[float]:
    """The rates that a torch scheduler sets, one per optimizer step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=max_lr)
    scheduler = build(optimizer)
    for _ in range(num_steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        if scheduler.last_epoch < num_steps - 1:
            scheduler.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "build"),
    [
        pytest.param(StepSchedule(max_lr=0.1), lambda o: sched.MultiStepLR(o, milestones=[LONG // 2, LONG * 3 // 4], gamma=0.1), id="step"),
        pytest.param(ExponentialSchedule(max_lr=0.1, gamma=0.9999), lambda o: sched.ExponentialLR(o, gamma=0.9999), id="exponential"),
        pytest.param(
            OneCycleSchedule(max_lr=0.1), lambda o: sched.OneCycleLR(o, max_lr=0.1, total_steps=LONG, cycle_momentum=False), id="one_cycle"
        ),
        pytest.param(
            TriangularSchedule(min_lr=0.01, max_lr=0.1, cycles=100),
            lambda o: sched.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=500, mode="triangular", cycle_momentum=False),
            id="triangular",
        ),
        pytest.param(
            TriangularSchedule(type="triangular2", min_lr=0.01, max_lr=0.1, cycles=100),
            lambda o: sched.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=500, mode="triangular2", cycle_momentum=False),
            id="triangular2",
        ),
        pytest.param(
            ExpRangeSchedule(min_lr=0.01, max_lr=0.1, cycles=100),
            lambda o: sched.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=500, mode="exp_range", gamma=0.99994, cycle_momentum=False),
            id="exp_range",
        ),
        pytest.param(
            WarmRestartsSchedule(max_lr=0.1, min_lr=0.001, cycles=100),
            lambda o: sched.CosineAnnealingWarmRestarts(o, T_0=1000, eta_min=0.001),
            id="warm_restarts",
        ),
    ],
)
def test_rates_agree_with_torch_over_a_hundred_thousand_steps(
    config: ScheduleConfig, build: Callable[[torch.optim.Optimizer], LRScheduler]
) -> None:
    schedule = over(config, LONG)
    worst = max(abs(schedule(step) - theirs) for step, theirs in enumerate(torch_rates(build, 0.1)))
    assert worst < 1e-12


def test_growing_cycles_agree_with_torch() -> None:
    schedule = build_schedule(
        WarmRestartsSchedule(max_lr=0.1, min_lr=0.001, cycles=5, epochs_per_cycle=1, cycle_mult=2), steps_per_epoch=50
    )
    theirs = torch_rates(lambda o: sched.CosineAnnealingWarmRestarts(o, T_0=50, T_mult=2, eta_min=0.001), 0.1, num_steps=schedule.num_steps)
    assert rates(schedule) == pytest.approx(list(theirs), rel=0, abs=1e-12)


@pytest.mark.parametrize(("mult", "restart"), [(3, 5), (10, 3)])
def test_a_restart_that_torch_misses_when_told_the_step_is_kept(mult: int, restart: int) -> None:
    """torch finds the cycle by ``int(log(…))`` in ``step(epoch)``: at these restarts it stays in the old cycle, near the minimum."""
    schedule = build_schedule(WarmRestartsSchedule(max_lr=0.1, cycles=restart + 1, epochs_per_cycle=1, cycle_mult=mult), steps_per_epoch=2)
    step = schedule.cycle_ends[restart - 1]
    assert step == 2 * (mult**restart - 1) // (mult - 1)
    assert schedule(step) == 0.1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1)
    theirs = sched.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=mult)
    optimizer.step()
    theirs.step(step)
    assert optimizer.param_groups[0]["lr"] < 0.01


def test_triangular_follows_smith() -> None:
    config = TriangularSchedule(min_lr=0.001, max_lr=0.006, cycles=2)
    up_and_down = [0.001, 0.00225, 0.0035, 0.00475, 0.006, 0.00475, 0.0035, 0.00225]
    assert rates(over(config, 16)) == pytest.approx(up_and_down * 2, rel=1e-15)
    assert over(config, 16).cycle_ends == (8, 16)


def test_triangular2_halves_the_height_each_cycle() -> None:
    config = TriangularSchedule(type="triangular2", min_lr=0.001, max_lr=0.006, cycles=3)
    schedule = over(config, 24)
    assert rates(schedule)[8:13] == pytest.approx([0.001, 0.001625, 0.00225, 0.002875, 0.0035], rel=1e-15)
    assert schedule(16) == 0.001
    assert schedule(20) == pytest.approx(0.00225, rel=1e-15)


def test_triangular2_survives_more_cycles_than_a_power_of_two_can_hold() -> None:
    schedule = build_schedule(TriangularSchedule(type="triangular2", min_lr=0.01, cycles=1000, epochs_per_cycle=1), steps_per_epoch=2)
    assert schedule(1999) == 0.01


def test_exp_range_shrinks_from_the_start_of_the_run() -> None:
    config = ExpRangeSchedule(min_lr=0.001, max_lr=0.006, gamma=0.99, cycles=2)
    expected = [0.001, 0.0022375, 0.00345025, 0.00463862125, 0.00580298005]
    assert rates(over(config, 16))[:5] == pytest.approx(expected, rel=1e-12)
    assert over(config, 16)(12) == pytest.approx(0.001 + 0.005 * 0.99**12, rel=1e-14)


def test_one_cycle_follows_torch_vector() -> None:
    expected = [
        0.04, 0.52, 1.0, 0.9504846320134737, 0.8117456539497631, 0.6112620219362893,
        0.38874197806371075, 0.18825834605023697, 0.049519367986526286, 4e-6,
    ]  # fmt: skip
    assert rates(over(OneCycleSchedule(max_lr=1.0), 10)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ScheduleError, match="rise_fraction must leave at least one step"):
        over(OneCycleSchedule(rise_fraction=0.3), 3)


def test_cycle_limit_holds_the_minimum_afterwards() -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, min_lr=0.01, cycles=4, cycle_limit=2), 40)
    free = over(WarmRestartsSchedule(max_lr=0.1, min_lr=0.01, cycles=4), 40)
    assert rates(schedule)[:20] == rates(free)[:20]
    assert rates(schedule)[20:] == [0.01] * 20
    assert schedule.cycle_ends == (10, 20, 40)
    assert over(TriangularSchedule(cycles=4, cycle_limit=4), 40).cycle_ends == (10, 20, 30, 40)


def test_more_cycles_leave_the_earlier_rates_unchanged() -> None:
    for length, mult, expected in [(0.5, 1, (3, 7, 10)), (2, "3/2", (14, 35, 66)), (1.3, "2/3", (9, 15, 19))]:
        short = build_schedule(WarmRestartsSchedule(cycles=3, epochs_per_cycle=length, cycle_mult=mult), steps_per_epoch=7)
        long = build_schedule(WarmRestartsSchedule(cycles=5, epochs_per_cycle=length, cycle_mult=mult), steps_per_epoch=7)
        assert short.cycle_ends == expected
        assert long.cycle_ends[:3] == expected
        assert rates(long)[: short.num_steps] == rates(short)


def test_step_schedule_drops_at_half_and_three_quarters() -> None:
    assert rates(over(StepSchedule(max_lr=0.1), 8)) == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2, rel=1e-15)


def test_exponential_schedule_multiplies_every_step() -> None:
    assert rates(over(ExponentialSchedule(max_lr=0.1, gamma=0.5), 3)) == [0.1, 0.05, 0.025]
    default = over(ExponentialSchedule(max_lr=0.1), 101)
    assert default(0) == 0.1
    assert default(100) == pytest.approx(0.001, rel=1e-12)
    assert default(50) == pytest.approx(0.01, rel=1e-12)


def test_cosine_schedule_is_one_cycle_without_restart() -> None:
    assert rates(over(CosineSchedule(max_lr=0.1), 10)) == rates(over(WarmRestartsSchedule(max_lr=0.1, cycles=1), 10))


def test_schedules_without_cycles_take_equally_spaced_snapshots() -> None:
    schedule = over(FixedSchedule(max_lr=0.3, snapshots=3), 10)
    assert schedule.cycle_ends == (3, 6, 10)
    assert rates(schedule) == [0.3] * 10
    assert [schedule.cycle_of(step) for step in (0, 2, 3, 9)] == [0, 0, 1, 2]
    with pytest.raises(ScheduleError, match=r"snapshots must be between 1 and num_steps \(2\), got 3"):
        over(FixedSchedule(snapshots=3), 2)


def test_epochs_may_be_a_fraction_without_rounding_errors() -> None:
    config = WarmRestartsSchedule(cycles=10, epochs_per_cycle=0.1)
    assert build_schedule(config, steps_per_epoch=30).cycle_ends == tuple(range(3, 31, 3))


def test_length_comes_from_epochs_or_from_epochs_per_cycle() -> None:
    by_cycle = build_schedule(WarmRestartsSchedule(cycles=5, epochs_per_cycle=4), steps_per_epoch=422)
    by_total = build_schedule(WarmRestartsSchedule(cycles=5, epochs=20), steps_per_epoch=422)
    assert by_cycle.cycle_ends == by_total.cycle_ends
    assert by_cycle.num_steps == 8440


@pytest.mark.parametrize("step", [-1, 10])
def test_steps_outside_the_run_are_refused(step: int) -> None:
    with pytest.raises(ScheduleError, match="step must be between 0 and 9"):
        over(WarmRestartsSchedule(cycles=2), 10)(step)


@pytest.mark.parametrize(
    ("config", "steps_per_epoch", "message"),
    [
        (FixedSchedule(), 0, "steps_per_epoch must be >= 1, got 0"),
        (FixedSchedule(epochs=0.1), 5, "between 1 and 100000000 optimizer steps, got 0"),
        (FixedSchedule(epochs=100_000), 100_000, "got 10000000000"),
        (WarmRestartsSchedule(cycles=1000, cycle_mult=100), 10, "at most 100000000 optimizer steps"),
        (WarmRestartsSchedule(cycles=8, epochs=1, cycle_mult=3), 100, "each cycle must have at least 2 steps"),
    ],
)
def test_impossible_lengths_are_refused_with_the_remedy(config: ScheduleConfig, steps_per_epoch: int, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        build_schedule(config, steps_per_epoch=steps_per_epoch)


def test_a_million_step_cycle_ends_where_arithmetic_says() -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=1), 10**6)
    assert schedule(10**6 - 1) == pytest.approx(0.1 * (math.pi / 2e6) ** 2, rel=1e-11)
