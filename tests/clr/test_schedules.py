"""The schedules against hand-computed vectors, 60-digit arithmetic, torch's own schedulers, and properties over all lengths.

Vectors: 1704.00109, equation 2; 1608.03983, equation 5, written out for small runs.
"""

import math
from itertools import pairwise

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clr.config import CosineSchedule, ExponentialSchedule, FixedSchedule, ScheduleConfig, StepSchedule, WarmRestartsSchedule
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
    assert paper_ends(16, 7) == (3, 6, 9, 12, 15, 16)
    with pytest.raises(ScheduleError, match="between 1 and 5 for 10 steps"):
        paper_ends(10, 6)


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


def test_rates_agree_with_torch_warm_restarts() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=50, T_mult=2, eta_min=0.001)
    schedule = build_schedule(
        WarmRestartsSchedule(max_lr=0.1, min_lr=0.001, cycles=5, epochs_per_cycle=1, cycle_mult=2), steps_per_epoch=50
    )
    for step in range(schedule.num_steps):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()


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
