"""F9 in short: single files of a store are damaged at random, and nobody is told anything wrong (``make damage`` is the long form)."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.damage import campaign

CASES, SEED = 20, 9


@pytest.mark.slow
def test_damage_is_refused_or_harmless_and_never_a_wrong_prediction(tmp_path: Path) -> None:
    counts, wrong = asyncio.run(campaign(tmp_path, cases=CASES, seed=SEED))
    assert wrong == []
    assert counts.total() == CASES
    assert counts["refused"] > 0, "these cases hit files that matter"
