"""What a range test's curve suggests: the peers on a clean curve with a known answer, and on curves that have none."""

import random

import pytest

from clr.rate_curve import CurveAnswer, NoDescentError, read_curve, sweep_rates
from tests.peers.conftest import Peers, Record

STEEPEST, MINIMUM, VALLEY, REFUSAL = "range test: steepest", "range test: minimum/10", "range test: valley", "range test: no descent"

RATES = sweep_rates(1e-5, 10, 200, exponential=True)


def falling_curve(rate: float) -> float:
    """From 2.3 down to 0.5, steepest against the rate's logarithm at 0.02, with a minimum near 0.27; cut off at 9."""
    return min(9.0, 0.5 + 1.8 / (1 + (rate / 0.02) ** 2) + (rate / 1.5) ** 3)


CURVE = [falling_curve(rate) for rate in RATES]


def ours(rates: list[float] = RATES, losses: list[float] = CURVE) -> CurveAnswer:
    """Our reading with little smoothing: the curve has no noise."""
    return read_curve(rates, losses, beta=0.5)


def suggestion(peers: Peers, name: str, rates: list[float], losses: list[float]) -> float | None:
    """A peer's answer; ``fastai.steep`` names one of several."""
    module, _, method = name.partition(".")
    rate: float | None = peers(module, "suggestion", rates=rates, losses=losses, **({"method": method} if method else {}))
    return rate


@pytest.mark.parametrize("name", ["fastai.steep", "lr_finder"])
def test_the_steepest_rate_of_an_exponential_sweep_is_agreed_on(name: str, record: Record, peers: Peers) -> None:
    theirs = suggestion(peers, name, RATES, CURVE)
    one_rate = RATES[1] / RATES[0]
    assert theirs == pytest.approx(0.02, rel=one_rate - 1)
    assert ours().steepest == pytest.approx(0.02, rel=one_rate - 1)
    finding = f"exponential sweep, true value 0.02: {theirs:.3g}, ours {ours().steepest:.3g}, one rate of the sweep apart at most"
    record(STEEPEST, peers(name.partition(".")[0], "peer"), "agrees", finding)


def test_fastai_agrees_on_a_linear_sweep_too(record: Record, peers: Peers) -> None:
    rates = sweep_rates(1e-5, 0.3, 2000, exponential=False)
    losses = [falling_curve(rate) for rate in rates]
    theirs = suggestion(peers, "fastai.steep", rates, losses)
    assert theirs == pytest.approx(0.02, rel=0.05)
    assert ours(rates, losses).steepest == pytest.approx(0.02, rel=0.15)
    finding = f"linear sweep, slope against the logarithm: {theirs:.3g}, ours {ours(rates, losses).steepest:.3g}"
    record(STEEPEST, peers("fastai", "peer"), "agrees", finding)


def test_lr_finder_takes_the_slope_by_index(record: Record, peers: Peers) -> None:
    rates = sweep_rates(1e-5, 0.3, 2000, exponential=False)
    theirs = suggestion(peers, "lr_finder", rates, [falling_curve(rate) for rate in rates])
    assert theirs == pytest.approx(0.02 / 3**0.5, rel=0.05)
    finding = f"linear sweep, true value 0.02: {theirs:.3g}, for the slope is taken by index: the answer depends on the spacing"
    record(STEEPEST, peers("lr_finder", "peer"), "defect", finding)


def test_lightning_takes_the_slope_against_the_linear_rate(record: Record, peers: Peers) -> None:
    theirs = suggestion(peers, "lightning", RATES, CURVE)
    assert theirs == pytest.approx(0.02 / 3**0.5, rel=0.08)
    finding = f"exponential sweep, true value 0.02: {theirs:.3g}, for the slope is taken against the rate, not its logarithm"
    record(STEEPEST, peers("lightning", "peer"), "defect", finding)


def test_lightning_is_drawn_to_small_rates_by_early_noise(record: Record, peers: Peers) -> None:
    draws = random.Random(0)
    noisy = [loss + draws.gauss(0, 0.02) for loss in CURVE]
    theirs = suggestion(peers, "lightning", RATES, noisy)
    steady = read_curve(RATES, noisy, beta=0.9).steepest
    assert theirs is not None
    assert theirs < 1e-4
    assert steady == pytest.approx(0.02, rel=0.5)
    finding = f"the same with noise of 0.02 on losses near 2: {theirs:.2g}, where the curve is flat; ours {steady:.2g}"
    record(STEEPEST, peers("lightning", "peer"), "defect", finding)


def test_fastai_agrees_on_a_tenth_of_the_minimum(record: Record, peers: Peers) -> None:
    theirs = suggestion(peers, "fastai.minimum", RATES, CURVE)
    bottom = min(RATES, key=falling_curve)
    assert theirs == pytest.approx(bottom / 10, rel=1e-6)
    assert ours().minimum_tenth == pytest.approx(bottom / 10, rel=RATES[1] / RATES[0] - 1)
    finding = f"{theirs:.3g}, ours {ours().minimum_tenth:.3g}, one rate of the sweep apart at most"
    record(MINIMUM, peers("fastai", "peer"), "agrees", finding)


def test_fastai_counts_a_flat_beginning_into_the_valley(record: Record, peers: Peers) -> None:
    theirs = suggestion(peers, "fastai.valley", RATES, CURVE)
    answer = ours().valley
    assert theirs is not None
    share = (CURVE[0] - falling_curve(theirs)) / (CURVE[0] - min(CURVE))
    our_share = (CURVE[0] - falling_curve(answer)) / (CURVE[0] - min(CURVE))
    assert share < 0.02
    assert 0.2 < our_share < 0.8
    finding = f"clean curve, steepest at 0.02: {theirs:.2g}, where {share:.1%} of the fall is behind; ours {answer:.2g}, {our_share:.0%}"
    record(VALLEY, peers("fastai", "peer"), "defect", finding)


def test_fastai_takes_a_subsequence_for_a_stretch(record: Record, peers: Peers) -> None:
    """The loss falls from index 20 to 119 and every second value is up again: 50 values fall, over a stretch of 100."""
    losses = [2.75] * 20 + [2.5 - 0.02 * i + (0.5 if i % 2 else 0.0) for i in range(100)] + [0.8] * 80
    theirs = suggestion(peers, "fastai.valley", RATES, losses)
    assert theirs is not None
    index = min(range(200), key=lambda i: abs(RATES[i] - theirs))
    answer = read_curve(RATES, losses, beta=0.9).valley
    our_index = min(range(200), key=lambda i: abs(RATES[i] - answer))
    assert index > 85
    assert 65 < our_index < 75
    finding = f"a zigzag that falls from rate 20 to 119: rate {index}, for a subsequence's length is taken for a span; ours {our_index}"
    record(VALLEY, peers("fastai", "peer"), "defect", finding)


@pytest.mark.parametrize(
    ("name", "label"),
    [("fastai.valley", "`valley`"), ("fastai.steep", "`steep`"), ("lightning", "`suggestion`"), ("lr_finder", "`plot`")],
    ids=["valley", "steep", "lightning", "lr_finder"],
)
def test_peers_suggest_rates_where_nothing_falls(name: str, label: str, record: Record, peers: Peers) -> None:
    draws = random.Random(1)
    curves = {"constant": [2.3] * 200, "rising": [2.3 + 0.001 * i for i in range(200)], "noise": [2.3 + draws.gauss(0, 0.3) for _ in RATES]}
    answers = {kind: suggestion(peers, name, RATES, losses) for kind, losses in curves.items()}
    for losses in curves.values():
        with pytest.raises(NoDescentError, match="no usable descent"):
            read_curve(RATES, losses, beta=0.9)
    assert None not in answers.values()
    finding = (
        f"{label} answers " + ", ".join(f"{rate:.2g} ({kind})" for kind, rate in answers.items()) + "; ours refuses each, with the reason"
    )
    record(REFUSAL, peers(name.partition(".")[0], "peer"), "defect", finding)


def test_lightning_suggests_a_rate_for_a_constant_loss_in_a_whole_run(record: Record, peers: Peers) -> None:
    theirs = peers("lightning", "range_test", losses=[1.0] * 100, start=1e-5, end=10)["suggestion"]
    assert theirs > 1
    finding = f"`lr_find` over 100 steps of a constant loss: {theirs:.2g}, out of its own smoothing"
    record(REFUSAL, peers("lightning", "peer"), "defect", finding)


def test_lightning_returns_none_without_a_reason(record: Record, peers: Peers) -> None:
    assert suggestion(peers, "lightning", RATES[:8], CURVE[:8]) is None
    with pytest.raises(NoDescentError, match="only 8 losses were finite"):
        read_curve(RATES[:8], CURVE[:8], beta=0.9)
    record(REFUSAL, peers("lightning", "peer"), "defect", "8 losses: `None`, the reason only in the log; ours raises with the reason")
