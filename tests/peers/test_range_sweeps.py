"""The sweep of a range test: which rates it uses, how it smooths, and when it stops. The peers train on scripted losses."""

import math

import pytest

from clr.config import RangeTestConfig
from clr.range_test import finish_sweep
from clr.rate_curve import smooth, sweep_rates
from tests.peers.conftest import Peers, Record
from tests.peers.measuring import listed, power

SWEEP, SMOOTHING, STOPPING = "range test: sweep", "range test: smoothing", "range test: stopping"


def relative_gap(ours: list[float], theirs: list[float]) -> float:
    return max(abs(b / a - 1) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("mode", "exponential"), [("exp", True), ("linear", False)])
def test_lr_finder_sweeps_as_ours(mode: str, exponential: bool, record: Record, peers: Peers) -> None:
    theirs = peers("lr_finder", "range_test", losses=[1.0] * 100, start=1e-5, end=10, mode=mode)["rates"]
    gap = relative_gap(sweep_rates(1e-5, 10, 100, exponential=exponential), theirs)
    assert gap < 1e-12
    kind = "exponential" if exponential else "linear"
    record(SWEEP, peers("lr_finder", "peer"), "agrees", f"{kind}, 100 rates from 1e-5 to 10, relative gap: to {power(gap)}")


def test_fastai_never_reaches_the_last_rate(record: Record, peers: Peers) -> None:
    theirs = peers("fastai", "range_test", losses=[1.0] * 100, start=1e-5, end=10)["rates"]
    assert len(theirs) == 100
    assert theirs == pytest.approx([1e-5 * 1e6 ** (i / 100) for i in range(100)], rel=1e-12)
    assert sweep_rates(1e-5, 10, 100, exponential=True)[-1] == 10
    record(SWEEP, peers("fastai", "peer"), "defect", f"100 rates from 1e-5 to 10 end at {theirs[-1]:.3g}: it divides by N, not by N - 1")


def test_lightning_leaves_a_hole_after_the_first_rate(record: Record, peers: Peers) -> None:
    exponential = peers("lightning", "range_test", losses=[1.0] * 12, start=1e-5, end=10)["rates"]
    linear = peers("lightning", "range_test", losses=[1.0] * 5, start=0.01, end=1.01, mode="linear")["rates"]
    ratio = 1e6 ** (1 / 12)
    assert exponential == pytest.approx([1e-5, *(1e-5 * ratio**i for i in range(2, 13))], rel=1e-12)
    assert linear == pytest.approx([0.01, 0.41, 0.61, 0.81, 1.01], rel=1e-12)
    ours = sweep_rates(0.01, 1.01, 5, exponential=False)
    assert ours == pytest.approx([0.01, 0.26, 0.51, 0.76, 1.01], rel=1e-12)
    finding = f"the second rate is left out: 5 linear rates from 0.01 to 1.01 are {listed(linear)}; ours {listed(ours)}"
    record(SWEEP, peers("lightning", "peer"), "defect", finding)


def test_fastai_smooths_as_ours(record: Record, peers: Peers) -> None:
    losses = [2.0 + math.sin(i) - 0.01 * i for i in range(100)]
    theirs = peers("fastai", "range_test", losses=losses, start=1e-5, end=10)["losses"]
    gap = relative_gap(smooth(losses, 0.98), theirs)
    assert gap < 1e-5
    record(SMOOTHING, peers("fastai", "peer"), "agrees", f"beta 0.98, 100 losses, relative gap: to {power(gap)}, in its float32")


def test_lightning_corrects_its_bias_by_one_step_too_many(record: Record, peers: Peers) -> None:
    theirs = peers("lightning", "range_test", losses=[1.0] * 10, start=1e-5, end=10)["losses"]
    assert theirs == pytest.approx([(1 - 0.98**n) / (1 - 0.98 ** (n + 1)) for n in range(1, 11)], rel=1e-6)
    assert smooth([1.0] * 10, 0.98) == pytest.approx([1.0] * 10, rel=1e-14)
    finding = f"a constant loss of 1 is smoothed to {listed(theirs[:3])}, … {theirs[9]:.3g} at step 10: `n + 1` for `n`; ours stays at 1"
    record(SMOOTHING, peers("lightning", "peer"), "defect", finding)


def test_lr_finder_is_seeded_by_its_first_loss(record: Record, peers: Peers) -> None:
    losses = [10.0] + [1.0] * 49
    theirs = peers("lr_finder", "range_test", losses=losses, start=1e-5, end=10)["losses"]
    ours = smooth(losses, 0.95)
    assert theirs[9] == pytest.approx(1 + 9 * 0.95**9, rel=1e-6)
    assert ours[9] == pytest.approx(1 + 9 * 0.05 * 0.95**9 / (1 - 0.95**10), rel=1e-12)
    assert theirs[49] > 1.5 > ours[49]
    after = f"{theirs[9]:.3g} at step 10 and {theirs[49]:.3g} at step 50; ours {ours[9]:.3g} and {ours[49]:.3g}"
    record(SMOOTHING, peers("lr_finder", "peer"), "defect", f"a first loss of 10 before losses of 1 leaves {after}")


@pytest.mark.parametrize("module", ["lr_finder", "fastai", "lightning"])
def test_a_loss_that_is_not_finite_stops_no_peer(module: str, record: Record, peers: Peers) -> None:
    losses = [2.0] * 30 + [math.nan] * 70
    ours = [[loss] for loss in losses]
    theirs = peers(module, "range_test", losses=losses, start=1e-5, end=10)
    assert len(theirs["rates"]) == 100
    config = RangeTestConfig()
    assert finish_sweep(config, 0, ours[:30]).stop_reason is None
    assert finish_sweep(config, 0, ours[:31]).stop_reason == "not_finite"
    finding = "NaN from step 31 of 100 on: it trains through all 100, for `nan > x` is false; ours stops at step 31 and says why"
    record(STOPPING, peers(module, "peer"), "defect", finding)


@pytest.mark.parametrize("module", ["fastai", "lightning"])
def test_divergence_stops_peers_of_one_bound_at_our_step(module: str, record: Record, peers: Peers) -> None:
    losses = [2.0 * 0.98**i for i in range(60)] + [5.0 * 1.3**i for i in range(40)]
    theirs = len(peers(module, "range_test", losses=losses, start=1e-5, end=10)["rates"])
    config = RangeTestConfig(smoothing=0.98, divergence_factor=4.0)
    ours = next(n for n in range(1, 101) if finish_sweep(config, 0, [[loss] for loss in losses[:n]]).stop_reason == "diverged")
    assert theirs == ours
    record(STOPPING, peers(module, "peer"), "agrees", f"4 times the best smoothed loss, beta 0.98: both stop after {theirs} steps")
