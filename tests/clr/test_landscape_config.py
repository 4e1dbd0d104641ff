"""Settings out of their bounds are refused, and the price of a measurement is what its parts add up to."""

import math
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from clr.basins import chosen_pairs
from clr.landscape_config import LandscapeSettings, most_epochs, most_passes, num_pairs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_lambdas": 2}, "greater than or equal to 3"),
        ({"max_rows": 0}, "greater than or equal to 1"),
        ({"max_iterations": 1}, "greater than or equal to 2"),
        ({"radius": 0.0}, "greater than 0"),
        ({"alpha": math.inf}, "finite number"),
        ({"relative_threshold": math.nan}, "finite number"),
        ({"max_rows": 1.5}, "valid integer"),
        ({"rows": 5}, "Extra inputs"),
        ({"num_directions": 10_000, "max_iterations": 800}, r"must be at most 20000, got 20443: lower one of them"),
        ({"ascent_steps": 10_000}, r"num_directions \+ 4 \* ascent_steps \+ 13 \* max_iterations \+ num_lambdas"),
    ],
)
def test_settings_out_of_bounds_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LandscapeSettings(**change)


@pytest.mark.parametrize("max_pairs", [0, 3, 28])
@pytest.mark.parametrize("num_snapshots", range(1, 12))
def test_pairs_are_counted_as_they_are_chosen(num_snapshots: int, max_pairs: int) -> None:
    settings = LandscapeSettings(max_pairs=max_pairs)
    assert num_pairs(num_snapshots, settings) == len(set(chosen_pairs(num_snapshots, max_pairs)))


def test_price_by_hand() -> None:
    """Two snapshots, 100 rows, 20 of them for the eigenvalue.

    The rises take 1 + 3 + 2 x (3 + 1) = 12 passes over 100 rows, the eigenvalue 5 products of 13 passes over 20 rows, each for two
    snapshots and the rescaled one. The one line has 3 inner points and 2 ends, each with a pass for batch norm.
    """
    settings = LandscapeSettings(max_rows=100, num_directions=3, ascent_steps=2, num_hessian_rows=20, max_iterations=5, num_lambdas=5)
    assert most_passes(settings, num_snapshots=2, num_rows=1000) == 3 * (1200 + 1300) + 2 * 100 * 5
    assert most_epochs(settings, num_snapshots=2, num_rows=1000) == pytest.approx(8500 / 3000)


def test_few_training_rows_are_not_counted_more_than_once() -> None:
    settings = LandscapeSettings(max_rows=1000, num_hessian_rows=500)
    fewer = LandscapeSettings(max_rows=50, num_hessian_rows=50)
    assert most_passes(settings, num_snapshots=3, num_rows=50) == most_passes(fewer, num_snapshots=3, num_rows=50)


def test_settings_load_without_torch() -> None:
    code = "import sys, clr.landscape_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
