"""Cosine annealing with warm restarts: where the peers agree with ours, and where they miss, delay or drop a restart."""

import math

import mpmath
import pytest
from torch.optim import lr_scheduler as sched

from clr.config import WarmRestartsSchedule
from clr.schedules import ScheduleError, build_schedule
from tests.peers.conftest import PeerError, Peers, Record
from tests.peers.measuring import grown, listed, over, power, rates, sgd, torch_rates, widest_gap
from tests.peers.transcribed import gaohuang_rate, titu1994_rate, titu1994_snapshots

RESTARTS = "cosine with warm restarts"
LONG = 100_000


def restart(first: int, mult: int, number: int) -> int:
    """The step of a restart, from 1."""
    return sum(first * int(mult**power) for power in range(number))


def test_torch_agrees_step_by_step_on_equal_cycles(record: Record, torch_version: str) -> None:
    schedule = over(WarmRestartsSchedule(max_lr=0.1, min_lr=0.001, cycles=100), LONG)
    gap = widest_gap(rates(schedule), torch_rates(lambda o: sched.CosineAnnealingWarmRestarts(o, T_0=1000, eta_min=0.001), LONG))
    assert gap < 1e-12
    record(RESTARTS, torch_version, "agrees", f"`step()`, 100 equal cycles over {LONG:,} steps: to {power(gap)}")


def test_torch_agrees_step_by_step_on_growing_cycles(record: Record, torch_version: str) -> None:
    worst = 0.0
    for mult in (2, 3, 10):
        schedule = grown(10, mult, 4)
        theirs = torch_rates(lambda o, mult=mult: sched.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=mult), schedule.num_steps)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        worst = max(worst, widest_gap(rates(schedule), theirs))
    assert worst < 1e-12
    record(RESTARTS, torch_version, "agrees", f"`step()`, 4 growing cycles, `T_mult` 2, 3 and 10: to {power(worst)}")


def test_torch_misses_restarts_when_told_the_step(record: Record, torch_version: str) -> None:
    missed = []
    for mult in range(2, 11):
        schedule = grown(10, mult, 7)
        for number in range(1, 7):
            step = restart(10, mult, number)
            assert schedule(step) == 0.1
            optimizer = sgd()
            sched.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=mult).step(step)
            rate = optimizer.param_groups[0]["lr"]
            if rate != 0.1:
                assert rate < 1e-12
                missed.append(f"`T_mult` {mult}: step {step}")
    assert len(missed) == 4
    record(RESTARTS, torch_version, "defect", f"`step(epoch)` finds the cycle by a logarithm and gives 0, not 0.1, at {'; '.join(missed)}")


def test_torch_resumes_wrongly_from_last_epoch(record: Record, torch_version: str) -> None:
    schedule = grown(10, 2, 4)
    wrong = {}
    for last in range(70):
        optimizer = sgd()
        optimizer.param_groups[0]["initial_lr"] = 0.1
        sched.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2, last_epoch=last)
        rate = optimizer.param_groups[0]["lr"]
        if abs(rate - schedule(last + 1)) > 1e-12:
            wrong[last] = rate
    assert min(wrong) == 19
    assert wrong[28] == pytest.approx(0.0578, abs=1e-4)
    finding = f"resumed by the constructor's `last_epoch` it is wrong at {len(wrong)} of 70 epochs (`T_0` 10, `T_mult` 2): "
    record(RESTARTS, torch_version, "defect", finding + f"at 28 {wrong[28]:.3g}, where the uninterrupted run has {schedule(29):.3g}")


def test_the_cosine_cancels_near_the_minimum_where_sin_squared_does_not(record: Record, torch_version: str) -> None:
    *_, theirs = torch_rates(lambda o: sched.CosineAnnealingWarmRestarts(o, T_0=LONG), LONG)
    ours = over(WarmRestartsSchedule(max_lr=0.1, cycles=1), LONG)(LONG - 1)
    with mpmath.workdps(60):
        exact = (mpmath.mpf(0.1) / 2) * (1 + mpmath.cos(mpmath.pi * (LONG - 1) / LONG))
        our_error, their_error = float(abs(ours - exact) / exact), float(abs(theirs - exact) / exact)
    assert our_error < 1e-15
    assert 1e-9 < their_error < 1e-6
    finding = f"relative error at the last of {LONG:,} steps, against 60 digits: {their_error:.1e}; ours is below {power(our_error)}"
    record(RESTARTS, torch_version, "differs", finding)


def test_timm_agrees_where_its_limit_is_raised(record: Record, peers: Peers) -> None:
    worst = 0.0
    for mult, decay in [(1, 1.0), (2, 1.0), (2, 0.5)]:
        config = WarmRestartsSchedule(max_lr=0.1, min_lr=0.001, cycles=5, epochs_per_cycle=1, cycle_mult=mult, restart_decay=decay)
        ours = rates(build_schedule(config, steps_per_epoch=50))
        options = {"t_initial": 50, "cycle_mul": mult, "cycle_decay": decay, "cycle_limit": 5, "lr_min": 0.001}
        worst = max(worst, widest_gap(ours, peers("timm", "cosine", steps=list(range(len(ours))), **options)))
    assert worst < 1e-12
    record(RESTARTS, peers("timm", "peer"), "agrees", f"5 cycles, `cycle_mul` 1 and 2, `cycle_decay` 1 and 0.5: to {power(worst)}")


def test_timm_holds_the_minimum_after_the_limit_as_ours_does(record: Record, peers: Peers) -> None:
    config = WarmRestartsSchedule(max_lr=0.1, min_lr=0.01, cycles=4, cycle_limit=2)
    theirs = peers("timm", "cosine", steps=list(range(40)), t_initial=10, cycle_limit=2, lr_min=0.01)
    gap = widest_gap(rates(over(config, 40)), theirs)
    assert gap < 1e-12
    record("cycle limit", peers("timm", "peer"), "agrees", f"2 of 4 cycles, then the minimum: to {power(gap)}")


def test_timm_restarts_never_by_default(record: Record, peers: Peers) -> None:
    theirs = peers("timm", "cosine", steps=[0, 10, 15, 20, 30], t_initial=10)
    assert theirs == [0.1, 0, 0, 0, 0]
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=4), 40)
    assert [schedule(step) for step in (0, 10, 20, 30)] == [0.1] * 4
    finding = f"`cycle_limit` is 1 by default, no restart ever: `t_initial` 10 gives {listed(theirs)} at steps 0, 10, 15, 20, 30"
    record("cycle limit", peers("timm", "peer"), "differs", finding)


def test_timm_misses_restarts_of_growing_cycles(record: Record, peers: Peers) -> None:
    missed = []
    for mult in range(2, 11):
        schedule = grown(10, mult, 7)
        steps = [restart(10, mult, number) for number in range(1, 7)]
        theirs = peers("timm", "cosine", steps=steps, t_initial=10, cycle_mul=mult, cycle_limit=7)
        assert [schedule(step) for step in steps] == [0.1] * 6
        missed += [f"`cycle_mul` {mult}: step {step}" for step, rate in zip(steps, theirs, strict=True) if rate < 0.05]
    assert "`cycle_mul` 3: step 1210" in missed
    record(RESTARTS, peers("timm", "peer"), "defect", f"the logarithm of the cycle is floored: 0, not 0.1, at {'; '.join(missed)}")


def test_timm_decays_by_another_default_in_its_factory(record: Record, peers: Peers) -> None:
    defaults = peers("timm", "default_cycle_decay")
    assert defaults == {"class": 1.0, "factory": 0.1, "command line": 0.1}
    finding = f"unset, `cycle_decay` is {defaults['class']:g} in the class and {defaults['factory']:g} in `create_scheduler_v2`"
    record("restart decay", peers("timm", "peer"), "defect", f"{finding}; ours is {WarmRestartsSchedule().restart_decay:g} everywhere")


def test_fastai_divides_by_zero_for_equal_cycles(record: Record, peers: Peers) -> None:
    with pytest.raises(PeerError, match="ZeroDivisionError") as raised:
        peers("fastai", "sgdr", steps_per_epoch=4, cycles=3, epochs_per_cycle=1, cycle_mult=1, max_lr=0.1)
    assert grown(4, 1, 3).cycle_ends == (4, 8, 12)
    record(RESTARTS, peers("fastai", "peer"), "defect", f"`fit_sgdr` with `cycle_mult` 1, the paper's case: `{raised.value}`")


def test_fastai_restarts_one_step_late(record: Record, peers: Peers) -> None:
    late, settings, worst = [], 0, 0.0
    for cycles, mult in [(2, 2), (3, 2), (4, 2), (5, 2), (2, 3), (3, 3), (4, 3), (5, 3)]:
        schedule = grown(4, mult, cycles)
        theirs = peers("fastai", "sgdr", steps_per_epoch=4, cycles=cycles, epochs_per_cycle=1, cycle_mult=mult, max_lr=0.1)
        settings += 1
        missed = [end for end in schedule.cycle_ends[:-1] if theirs[end] < 0.05]
        assert all(theirs[end + 1] > 0.05 for end in missed)
        late += [f"{cycles} cycles, `cycle_mult` {mult}: step {end}"] if (end := missed[0] if missed else 0) else []
        others = [step for step in range(schedule.num_steps) if step not in missed]
        worst = max(worst, widest_gap([schedule(step) for step in others], [theirs[step] for step in others]))
    assert late
    assert worst < 1e-6
    finding = f"`fit_sgdr` adds its boundaries up in float32: one step late in {len(late)} of {settings} settings ({'; '.join(late)})"
    record(RESTARTS, peers("fastai", "peer"), "defect", f"{finding}; elsewhere it agrees to {power(worst)}")


def test_torchensemble_agrees_in_float32(record: Record, peers: Peers) -> None:
    theirs = peers("torchensemble", "rates", num_steps=4000, cycles=4, max_lr=0.2)
    schedule = over(WarmRestartsSchedule(max_lr=0.2, cycles=4), 4000)
    gap = widest_gap(rates(schedule), theirs["rates"])
    assert theirs["type"] == "torch.float32"
    assert 1e-9 < gap < 1e-6
    last, exact = theirs["rates"][999], schedule(999)
    assert abs(last / exact - 1) > 1e-3
    finding = f"to {power(gap)}: the rate is a float32 tensor; at the minimum of 1,000 steps {last:.3g}, where the formula has {exact:.3g}"
    record(RESTARTS, peers("torchensemble", "peer"), "differs", finding)


def test_torchensemble_refuses_epochs_that_the_cycles_do_not_divide(record: Record, peers: Peers) -> None:
    assert peers("torchensemble", "fit", epochs=6, cycles=3) == 3
    with pytest.raises(PeerError, match="ValueError: The number of training epochs = 10 should be a multiple of n_estimators = 3"):
        peers("torchensemble", "fit", epochs=10, cycles=3)
    ends = build_schedule(WarmRestartsSchedule(cycles=3, epochs=10), steps_per_epoch=4).cycle_ends
    assert ends == (13, 26, 40)
    finding = f"`fit` refuses 10 epochs and 3 members; ours lays 40 steps out as cycles that end at {', '.join(map(str, ends))}"
    record("boundaries of cycles", peers("torchensemble", "peer"), "defect", finding)


def test_the_authors_code_cuts_the_last_cycle_where_the_cycles_do_not_divide(record: Record) -> None:
    def rate(epoch: int, iteration: int = 1) -> float:
        return gaohuang_rate(epoch, iteration, epochs=200, cycles=6, batches=391, max_lr=0.1)

    restarts = [epoch for epoch in range(2, 201) if rate(epoch) > rate(epoch - 1, 391) + 1e-3]
    assert restarts == [34, 67, 100, 133, 166, 176]
    assert rate(166) < 0.02
    assert rate(200, 391) > 0.018
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=6), 200 * 391)
    assert [schedule(end) for end in schedule.cycle_ends[:-1]] == [0.1] * 5
    assert schedule(200 * 391 - 1) < 1e-8
    finding = f"200 epochs, 6 cycles: the last starts at {rate(166):.3g}, restarts by itself at epoch 176, ends at {rate(200, 391):.3g}"
    record("boundaries of cycles", "gaohuang/SnapshotEnsemble (transcribed)", "defect", finding)


def test_the_authors_code_is_ours_one_step_later_where_the_cycles_divide(record: Record) -> None:
    theirs = [
        gaohuang_rate(epoch, iteration, epochs=12, cycles=3, batches=50, max_lr=0.1) for epoch in range(1, 13) for iteration in range(1, 51)
    ]
    schedule = over(WarmRestartsSchedule(max_lr=0.1, cycles=3), 600)
    inner = [step for step in range(600) if not schedule.is_cycle_end(step)]
    gap = widest_gap([schedule(step + 1) for step in inner], [theirs[step] for step in inner])
    assert gap < 1e-15
    ends = [theirs[end - 1] for end in schedule.cycle_ends]
    assert max(ends) < 1e-16
    finding = f"counts steps from 1: its step k has our rate of step k + 1, to {power(gap)}, and trains each cycle's last step at 0"
    record(RESTARTS, "gaohuang/SnapshotEnsemble (transcribed)", "differs", finding)


def test_titu1994_trains_epochs_that_no_snapshot_keeps(record: Record) -> None:
    kept = titu1994_snapshots(epochs=200, cycles=6)
    assert kept == [33, 66, 99, 132, 165, 198]
    lost = [titu1994_rate(epoch, epochs=200, cycles=6, max_lr=0.1) for epoch in (198, 199)]
    assert lost[0] == 0.1
    balanced = build_schedule(WarmRestartsSchedule(max_lr=0.1, cycles=6, epochs=200), steps_per_epoch=391)
    assert balanced.num_cycles == 6
    assert balanced.cycle_ends[-1] == balanced.num_steps
    finding = f"200 epochs, 6 cycles: a seventh cycle of 2 epochs at {listed(lost)} which no snapshot keeps"
    record("boundaries of cycles", "titu1994/Snapshot-Ensembles (transcribed)", "defect", finding)


def test_titu1994_changes_the_rate_once_per_epoch(record: Record) -> None:
    last = titu1994_rate(39, epochs=200, cycles=5, max_lr=0.1)
    ours = over(WarmRestartsSchedule(max_lr=0.1, cycles=5), 200 * 391)(40 * 391 - 1)
    assert last == pytest.approx(0.05 * (1 + math.cos(math.pi * 39 / 40)))
    assert last > 1000 * ours
    finding = f"one rate per epoch: the snapshot after 40 epochs is taken at {last:.2g}; ours, per step of 391 batches, at {ours:.2g}"
    record(RESTARTS, "titu1994/Snapshot-Ensembles (transcribed)", "defect", finding)


def test_cycles_of_one_step_are_refused_where_peers_train_at_a_constant_rate(record: Record, peers: Peers) -> None:
    theirs = peers("timm", "cosine", steps=list(range(8)), t_initial=1, cycle_limit=8)
    assert theirs == [0.1] * 8
    with pytest.raises(ScheduleError, match="two steps each at least"):
        over(WarmRestartsSchedule(cycles=8), 8)
    finding = f"8 cycles over 8 steps: {listed(theirs)}, a restart at every step and never a minimum; ours refuses with the remedy"
    record("boundaries of cycles", peers("timm", "peer"), "differs", finding)
