"""Thinning keeps what the eye looks for."""

from hypothesis import given
from hypothesis import strategies as st

from service.curves import Row, thin_out

rows_of = st.lists(st.tuples(st.floats(-1e6, 1e6) | st.none(), st.floats(-1e6, 1e6)), max_size=300).map(
    lambda values: [[step, *pair] for step, pair in enumerate(values)]
)


def test_short_curve_stays_as_it_is() -> None:
    rows: list[Row] = [[0, 1.0], [1, 2.0]]
    assert thin_out(rows, [1], 2) == rows


def test_spike_and_dip_survive() -> None:
    rows: list[Row] = [[step, 1.0] for step in range(1000)]
    rows[501] = [501, 99.0]
    rows[502] = [502, -99.0]
    kept = thin_out(rows, [1], 10)
    assert [501, 99.0] in kept
    assert [502, -99.0] in kept


def test_two_points_are_the_ends() -> None:
    assert thin_out([[step, 0.0] for step in range(9)], [1], 2) == [[0, 0.0], [8, 0.0]]


@given(rows_of, st.integers(2, 50))
def test_thinned_rows_are_few_ordered_and_keep_the_extremes(rows: list[Row], max_points: int) -> None:
    kept = thin_out(rows, [1, 2], max_points)
    assert len(kept) <= max(max_points, 0)
    assert [row[0] for row in kept] == sorted(row[0] for row in kept)  # type: ignore[type-var]  # steps are numbers
    assert all(row in rows for row in kept)
    if rows:
        assert kept[0] == rows[0]
        assert kept[-1] == rows[-1]
    if max_points >= 6:
        for column in (1, 2):
            values = [value for row in rows if (value := row[column]) is not None]
            left = [value for row in kept if (value := row[column]) is not None]
            if values:
                assert min(left) == min(values)
                assert max(left) == max(values)
