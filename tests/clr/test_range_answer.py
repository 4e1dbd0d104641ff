"""What sweeps and probes say together: how sure it is, and when it is refused."""

import math

import numpy as np
import pytest

from clr.config import RangeTestConfig
from clr.probes import ProbeEnd
from clr.range_answer import Sweep, choice_spread, conclude, decide, level_of
from clr.range_test import finish_sweep
from clr.rate_curve import sweep_rates
from clr.rate_ladder import Losses

CONFIG = RangeTestConfig(repeats=2)
RATES = sweep_rates(CONFIG.start_lr, CONFIG.end_lr, CONFIG.num_rates, exponential=True)


def falling(repeat: int = 0, *, shift: float = 1.0) -> Sweep:
    """From 2.3 down to 0.5, steepest at 0.02 times ``shift``."""
    return finish_sweep(CONFIG, repeat, [[0.5 + 1.8 / (1 + (rate / 0.02 / shift) ** 2) + min(9, rate**3)] for rate in RATES[:80]])


def flat(repeat: int = 0) -> Sweep:
    return finish_sweep(CONFIG, repeat, [[2.3]] * len(RATES))


def test_as_many_sweeps_with_a_descent_as_without_give_an_answer_that_is_unsure() -> None:
    alone = conclude(CONFIG, [falling()])
    result = conclude(CONFIG, [falling(), flat(1)])
    assert (result.max_lr, alone.level) == (alone.max_lr, "single")
    assert (result.level, result.num_without_descent) == ("low", 1)
    assert result.reason.endswith("; 1 of 2 sweeps had no descent")


def test_most_sweeps_without_a_descent_are_a_refusal() -> None:
    result = conclude(CONFIG, [falling(), flat(1), flat(2)])
    assert result.is_refused
    assert result.refusal is not None
    assert result.refusal.startswith("in 2 of 3 sweeps the loss doesn't fall below its first level of 2.3")
    assert result.reason.startswith(f"no suggestion: {result.refusal}: set end_lr higher")


def test_a_sweep_without_descent_lowers_the_level() -> None:
    assert conclude(CONFIG, [falling(), falling(1)]).level == "high"
    assert conclude(CONFIG, [falling(), falling(1), flat(2)]).level == "medium"


@pytest.mark.parametrize(
    ("spread", "without", "level"),
    [(0.1, 0, "high"), (0.1, 2, "medium"), (0.2, 0, "medium"), (0.2, 1, "low"), (0.5, 0, "low"), (0.5, 1, "low")],
)
def test_levels_follow_the_spread(spread: float, without: int, level: str) -> None:
    assert level_of(spread, without) == level


def ladder(*, doubt: float, repeats: int = 1, num_rows: int = 400) -> tuple[dict[int, list[ProbeEnd]], Losses]:
    """Rungs whose mean loss is a bowl around rung 0, with rows that differ between rungs by ``doubt``."""
    draws = np.random.default_rng(1)
    noise = {(rung, n): draws.normal(size=num_rows) for rung in range(-4, 5) for n in range(repeats)}
    ends = {
        rung: [ProbeEnd(10, 0.5 + 0.02 * rung**2 + doubt * (noise[rung, n] - noise[rung, n].mean())) for n in range(repeats)]
        for rung in range(-4, 5)
    }
    return ends, np.full(num_rows, 2.3)


def test_the_choice_has_no_spread_where_all_rows_agree() -> None:
    assert choice_spread(*ladder(doubt=0.0)) == 0


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_spread_of_the_choice_rises_with_the_doubt_of_the_rows(repeats: int) -> None:
    sure, unsure = (choice_spread(*ladder(doubt=doubt, repeats=repeats)) for doubt in (0.1, 1.5))
    assert sure < unsure
    assert 0 < unsure < math.log10(2) * 4
    assert choice_spread(*ladder(doubt=1.5, repeats=repeats)) == unsure, "the same each time"


def test_a_choice_between_two_rungs_by_lot_has_the_spread_of_a_coin() -> None:
    """Two repeats, each with its minimum at another end of the ladder: both drawn twice have the choices 2 and -2 octaves apart."""

    def bowl(centre: int) -> list[ProbeEnd]:
        return [ProbeEnd(10, np.full(9, 0.5 + 0.1 * (rung - centre) ** 2)) for rung in range(-4, 5)]

    ends = {rung: [low, high] for rung, low, high in zip(range(-4, 5), bowl(-2), bowl(2), strict=True)}
    spread = choice_spread(ends, np.full(9, 2.3))
    assert spread == pytest.approx(math.sqrt(0.5) * 2 * math.log10(2), rel=0.15), "-2, 0, 0 and 2 are as likely"


def test_an_answer_of_probes_has_a_level_and_a_spread_of_its_own() -> None:
    curve = conclude(CONFIG, [falling(), falling(1, shift=0.1)])
    result = decide(curve, 0.1, *ladder(doubt=0.0))
    assert (result.max_lr, result.level) == (0.1, "high")
    assert result.spread_decades["max_lr"] == 0
    assert result.spread_decades["curve_max_lr"] == curve.spread_decades["max_lr"] > 0.15
    unsure = decide(conclude(CONFIG, [falling(), falling(1), flat(2)]), 0.1, *ladder(doubt=0.0))
    assert unsure.level == "medium"
