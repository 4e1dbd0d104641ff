"""Fewer points for the same picture: what is drawn from the rows that remain has the same peaks and valleys."""

from collections.abc import Sequence

Row = Sequence[float | int | None]


def thin_out(rows: Sequence[Row], value_columns: Sequence[int], max_points: int) -> list[Row]:
    """At most ``max_points`` of the rows, in order: the first, the last, and of every bucket those with extreme values.

    Args:
        rows: Rows by ascending step.
        value_columns: Indices of the columns whose smallest and largest value of each bucket is kept; None counts as no value.
        max_points: At least 2.
    """
    if len(rows) <= max_points:
        return list(rows)
    kept = {0, len(rows) - 1}
    num_buckets = (max_points - 2) // (2 * len(value_columns))
    if num_buckets == 0:
        return [rows[0], rows[-1]]
    for bucket in range(num_buckets):
        indices = range(bucket * len(rows) // num_buckets, (bucket + 1) * len(rows) // num_buckets)
        for column in value_columns:
            filled = [(value, index) for index in indices if (value := rows[index][column]) is not None]
            if filled:
                kept.update((min(filled)[1], max(filled)[1]))
    return [rows[index] for index in sorted(kept)]
