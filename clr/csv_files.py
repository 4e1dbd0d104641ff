"""CSV files as tables. Nothing is guessed: a cell that is missing or does not fit its column is refused by row and name.

Apart from ``clr.tables``, since only an upload needs polars, which takes a fifth of a second to import.
"""

import csv
import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import polars as pl

from clr.errors import DatasetError, did_you_mean
from clr.npy import MAX_DECODED_BYTES
from clr.tables import FLOAT32_MAX, MAX_NAME_CHARACTERS, Column, one_matrix

MAX_COLUMNS = 10_000
MAX_CATEGORIES = 100
MAX_HEADER_BYTES = 1 << 20
MAX_LINE_BYTES = 4 << 20

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE_NUMBER = r"^-?(0|[1-9]\d{0,17})$"
_BOOLEAN = r"^(?i:true|false)$"


@dataclass(frozen=True)
class Table:
    """A CSV file, encoded: inputs (N, D) float32, the target as text, int64 or float64, and the columns of the inputs."""

    inputs: np.ndarray[Any, Any]
    target: np.ndarray[Any, Any]
    columns: tuple[Column, ...]


def read_csv(path: Path | str, *, target: str, max_bytes: int = MAX_DECODED_BYTES) -> Table:
    """Reads a comma-separated UTF-8 file whose first line names the columns; the encoded inputs may take ``max_bytes``.

    Raises:
        DatasetError: Not UTF-8 or not rectangular, no header, an unknown target, a missing cell, a cell that does not fit its
            column, too many columns or categories.
    """
    cells = _read_cells(Path(path), max_bytes)
    if target not in cells.columns:
        listed = ", ".join(cells.columns[:20]) + (", …" if cells.width > 20 else "")
        raise DatasetError(
            f"target must be one of the columns {listed}, got {target!r}{did_you_mean(target, cells.columns)}: "
            "name the column to predict as the first line spells it",
            "#/target",
        )
    if cells.width == 1 or cells.height == 0:
        raise DatasetError(
            f"the file must have a column besides the target and at least one row, got {cells.width} column(s) and "
            f"{cells.height} row(s): check that commas separate the fields",
            "#/file",
        )
    labels = _target_values(cells[target])
    series = [cells[name] for name in cells.columns if name != target]
    columns = tuple(_column(values) for values in series)
    num_features = sum(column.num_features for column in columns)
    if 4 * num_features * cells.height > max_bytes:
        raise DatasetError(
            f"the encoded table must take at most {max_bytes} bytes, got {4 * num_features * cells.height} for {cells.height} rows of "
            f"{num_features} features: drop rows, or columns with many categories",
            "#/file",
        )
    inputs = one_matrix(columns, [_series_values(column, values) for column, values in zip(columns, series, strict=True)])
    return Table(inputs, labels, columns)


def _read_cells(path: Path, max_bytes: int) -> pl.DataFrame:
    """All cells as stripped text under the header's names, none missing."""
    _check_bytes(path)
    _check_lines(path, max_bytes)
    try:
        rows = pl.read_csv(path, has_header=False, infer_schema=False, glob=False)
    except pl.exceptions.PolarsError as error:
        raise _long_row(path) or _unreadable(error) from error
    rows = rows.select(pl.all().str.strip_chars())
    names = _column_names(rows.row(0))
    cells = rows.slice(1)
    cells.columns = names
    while cells.height and all(cell is None for cell in cells.row(-1)):
        cells = cells.head(-1)  # blank lines at the end of the file
    for values in cells:
        missing = values.is_null() | (values == "") | (values.str.to_lowercase() == "nan")
        if missing.any():
            raise _cell_error(values, missing.arg_max(), "is missing: fill it in, or drop the row or the column")
    return cells


def _long_row(path: Path) -> DatasetError | None:
    """The refusal of a row with more cells than the first line, which polars finds but does not name; None where there is none."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file, suppress(csv.Error):
        rows = csv.reader(file)
        width = len(next(rows))
        for number, cells in enumerate(rows, start=1):
            if len(cells) > width:
                return DatasetError(
                    f"row {number} has {len(cells)} cells, but the first line names {width} columns: quote texts with commas, "
                    "or drop the row",
                    "#/file",
                )
    return None


def _unreadable(error: pl.exceptions.PolarsError) -> DatasetError:
    reason = str(error).partition("\n")[0]
    return DatasetError(f"the file is not a comma-separated UTF-8 table ({reason}): save it again as CSV UTF-8", "#/file")


def _check_bytes(path: Path) -> None:
    """Refuses what would cost the parser memory out of proportion, or that it reads in silence."""
    if path.stat().st_size == 0:
        raise DatasetError("the file is empty: give a header line and at least one row", "#/file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"\0") >= 0:
            raise DatasetError("the file holds a NUL byte, so it is not UTF-8 text: save it as CSV UTF-8", "#/file")
        header = data[:MAX_HEADER_BYTES].partition(b"\n")[0]
    if len(header) == MAX_HEADER_BYTES or header.count(b",") >= MAX_COLUMNS:
        raise DatasetError(f"the first line must name at most {MAX_COLUMNS} columns in {MAX_HEADER_BYTES} bytes: drop columns", "#/file")
    if header.count(b'"') % 2:
        raise DatasetError("the name of a column holds a line break: rename it", "#/file")


def _check_lines(path: Path, max_bytes: int) -> None:
    """Refuses, before they are cells, rows that are too long or too many: an empty cell is one byte in the file and forty in memory."""
    num_lines = since_line_break = num_columns = 0
    for chunk in _chunks(path):
        num_columns = num_columns or 1 + chunk.partition(b"\n")[0].count(b",")
        first = chunk.find(b"\n")
        longest = since_line_break + (len(chunk) if first < 0 else first)
        if longest > MAX_LINE_BYTES:
            raise DatasetError(
                f"row {num_lines} must take at most {MAX_LINE_BYTES} bytes, got {longest} or more: check its quotes", "#/file"
            )
        since_line_break = longest if first < 0 else len(chunk) - 1 - chunk.rfind(b"\n")
        num_lines += chunk.count(b"\n")
    num_cells = num_columns * max(0, num_lines - 1)  # without the header, and perhaps without a last line that has no end
    if 4 * (num_cells - num_lines) > max_bytes:  # without the target
        raise DatasetError(
            f"the encoded table must take at most {max_bytes} bytes, got {num_cells} cells of 4 bytes: drop rows or columns", "#/file"
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(MAX_HEADER_BYTES):
            yield chunk


def _column_names(header: Sequence[str | None]) -> list[str]:
    names = [name or "" for name in header]
    if all(_is_number(name) for name in names):
        raise DatasetError(f"the first line must name the columns, got the values {', '.join(names[:10])}: add a header line", "#/file")
    for index, name in enumerate(names):
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            raise DatasetError(
                f"the name of column {index + 1} must have 1 to {MAX_NAME_CHARACTERS} characters, got {len(name)}: rename it", "#/file"
            )
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise DatasetError(f"the first line names the column {twice!r} twice: rename one", "#/file")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell_error(values: pl.Series, row: int | None, problem: str) -> DatasetError:
    return DatasetError(f"row {(row or 0) + 1}, column {values.name!r}: the cell {problem}", "#/file")


def _kind(values: pl.Series) -> Literal["numeric", "boolean", "categorical"]:
    """What the cells of a column are. One that holds mostly numbers must hold nothing else, or a typing error would become a category."""
    is_number = values.str.contains(_NUMBER)
    if is_number.all():
        return "numeric"
    if 2 * int(is_number.sum()) > len(values):
        row = is_number.arg_min()
        raise _cell_error(values, row, f"{values[row or 0][:50]!r} is not a number, as most of the column is: correct it or drop the row")
    return "boolean" if values.str.contains(_BOOLEAN).all() else "categorical"


def _column(values: pl.Series) -> Column:
    kind = _kind(values)
    if kind != "categorical":
        return Column(values.name, kind)
    categories = values.unique().sort()
    if len(categories) > MAX_CATEGORIES:
        raise DatasetError(
            f"column {values.name!r} must hold numbers or at most {MAX_CATEGORIES} different texts, got {len(categories)}: "
            "drop it (an identifier helps no prediction) or group its values",
            "#/file",
        )
    if too_long := [category for category in categories if len(category) > MAX_NAME_CHARACTERS]:
        raise DatasetError(
            f"column {values.name!r} must hold texts of at most {MAX_NAME_CHARACTERS} characters, got {too_long[0][:30]!r}…: shorten them",
            "#/file",
        )
    return Column(values.name, kind, tuple(categories))


def _series_values(column: Column, values: pl.Series) -> np.ndarray[Any, Any]:
    """One number a row: the value itself, 0 or 1, or the index of its category."""
    match column.kind:
        case "numeric":
            return _float_values(values)
        case "boolean":
            return (values.str.to_lowercase() == "true").to_numpy()
        case "categorical":
            return values.cast(pl.Enum(column.categories)).to_physical().to_numpy()
    assert_never(column.kind)


def _float_values(values: pl.Series) -> np.ndarray[Any, Any]:
    numbers = values.cast(pl.Float64)
    beyond = numbers.abs() > FLOAT32_MAX
    if beyond.any():
        row = beyond.arg_max()
        raise _cell_error(values, row, f"{values[row or 0][:50]} is beyond the range of float32: rescale the column")
    return numbers.to_numpy()


def _target_values(values: pl.Series) -> np.ndarray[Any, Any]:
    """The target as int64 where all cells are whole numbers, float64 where all are numbers, else text."""
    if values.str.contains(_WHOLE_NUMBER).all():
        return values.cast(pl.Int64).to_numpy()
    if _kind(values) == "numeric":
        return _float_values(values)
    longest = int(values.str.len_chars().max() or 0)  # type: ignore[arg-type]  # a number, for a column of lengths
    if longest > MAX_NAME_CHARACTERS:
        raise DatasetError(
            f"labels must have at most {MAX_NAME_CHARACTERS} characters, got one of {longest} in {values.name!r}: shorten it", "#/target"
        )
    return values.to_numpy().astype(np.str_)
