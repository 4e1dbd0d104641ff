"""CSV files become float32 matrices; whatever does not fit is refused by row and column."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clr.csv_files import Table, read_csv
from clr.errors import DatasetError
from clr.tables import Column

FLOWERS = "width,colour,wild,species\n1.5,red,true,rose\n2,blue,false,iris\n-3e1,red,TRUE,rose\n"

Read = Callable[..., Table]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str | bytes, target: str = "species", **limits: int) -> Table:
        path = tmp_path / "data.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_csv(path, target=target, **limits)

    return read


def test_numbers_booleans_and_texts_are_encoded_in_the_order_of_the_file(read: Read) -> None:
    table = read(FLOWERS)
    assert table.columns == (Column("width", "numeric"), Column("colour", "categorical", ("blue", "red")), Column("wild", "boolean"))
    np.testing.assert_array_equal(table.inputs, np.array([[1.5, 0, 1, 1], [2, 1, 0, 0], [-30, 0, 1, 1]]))
    assert table.inputs.dtype == np.float32
    assert table.target.tolist() == ["rose", "iris", "rose"]


@pytest.mark.parametrize(
    ("target", "kind", "values"),
    [
        ("1\n2\n10", "i", [1, 2, 10]),
        ("1\n2.5\n-3", "f", [1, 2.5, -3]),
        ("a\nb\na", "U", ["a", "b", "a"]),
        ("true\nfalse\ntrue", "U", ["true", "false", "true"]),
    ],
)
def test_target_keeps_its_kind(read: Read, target: str, kind: str, values: list[object]) -> None:
    rows = "\n".join(f"{index},{value}" for index, value in enumerate(target.split("\n")))
    table = read(f"x,y\n{rows}\n", target="y")
    assert table.target.dtype.kind == kind
    assert table.target.tolist() == values


def test_byte_order_mark_carriage_returns_spaces_quotes_and_blank_last_lines_are_no_trouble(read: Read) -> None:
    table = read(b'\xef\xbb\xbfa, b ,species\r\n1 , 2,"x, y"\r\n3,4,z\r\n\r\n\r\n')
    assert [column.name for column in table.columns] == ["a", "b"]
    np.testing.assert_array_equal(table.inputs, [[1, 2], [3, 4]])
    assert table.target.tolist() == ["x, y", "z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"a,species\n1,\xff\n", "not a comma-separated UTF-8 table"),
        ("a,species\n1,x\n".encode("utf-16"), "holds a NUL byte"),
        (b"a,species\n1,x\n2,y,3\n", "row 2 has 3 cells, but the first line names 2 columns"),
        (b'a,species\n1,"x\n', "not a comma-separated UTF-8 table"),
        (b"species\nx\n", r"column besides the target and at least one row, got 1 column\(s\) and 1 row"),
        (b"a,species\n", r"got 2 column\(s\) and 0 row"),
        (b"5.1,3.5\n4.9,3.0\n", "the first line must name the columns, got the values 5.1, 3.5"),
        (b"a,a,species\n1,2,x\n", "names the column 'a' twice"),
        (b"a,,species\n1,2,x\n", "name of column 2 must have 1 to 200 characters, got 0"),
        (b'a,"b\nc",species\n1,2,x\n', "holds a line break"),
        (b"a,spicies\n1,x\n", r"columns a, spicies, got 'species' \(did you mean 'spicies'\?\): name the column"),
        (b"a,species\n1,x\n,y\n", "row 2, column 'a': the cell is missing"),
        (b"a,b,species\n1,2,x\n1\n", "row 2, column 'b': the cell is missing"),
        (b"a,species\n1,x\n2,\n", "row 2, column 'species': the cell is missing"),
        (b"a,species\n1,x\nNaN,y\n3,z\n", "row 2, column 'a': the cell is missing"),
        (b"a,species\n1,x\n2,y\nthree,z\n", "row 3, column 'a': the cell 'three' is not a number, as most"),
        (b"a,species\n1,x\n2,y\ninf,z\n", "row 3, column 'a': the cell 'inf' is not a number"),
        (b"a,species\n1,x\n1e39,y\n", "row 2, column 'a': the cell 1e39 is beyond the range of float32"),
        (b"a,species\n1,x\n1e999,y\n", "row 2, column 'a': the cell 1e999 is beyond the range of float32"),
        (b"a," + b"b," * 10_000 + b"species\n", "at most 10000 columns"),
        (b"a" * (1 << 20) + b",species\n1,x\n", "at most 10000 columns in 1048576 bytes"),
        ("a,species\n" + "".join(f"t{i},x\n" for i in range(101)), "'a' must hold numbers or at most 100 different texts, got 101"),
        ("a,species\n" + "t" * 201 + ",x\n", "texts of at most 200 characters"),
        ("a,species\n1," + "t" * 201 + "\n", "labels must have at most 200 characters, got one of 201"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(read: Read, text: bytes | str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(text)


def test_encoded_size_is_bounded_before_it_is_allocated(read: Read) -> None:
    assert read(FLOWERS, max_bytes=48).inputs.nbytes == 48
    with pytest.raises(DatasetError, match="at most 47 bytes, got 48 for 3 rows of 4 features"):
        read(FLOWERS, max_bytes=47)
