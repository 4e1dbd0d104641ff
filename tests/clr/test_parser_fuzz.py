"""Whatever the bytes of a CSV, npy, npz or safetensors file: it is read, or refused by the parser's own error, within a second (F13).

PARSER_EXAMPLES says how many of each are tried.
"""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clr.csv_files import read_csv
from clr.datasets import load_dataset, save_dataset
from clr.errors import DatasetError, NpyError, SnapshotError
from clr.npy import read_npy, read_npz
from clr.snapshots import load_snapshot
from clr.tensor_files import TensorFileError, load_tensors, save_tensors
from tests.clr.tiny import make_table

EXAMPLES = int(os.environ.get("PARSER_EXAMPLES", "300"))
fuzz = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])

PIECES = (b"\xff\xff\xff\xff", bytes(8), b"PK\x03\x04", b'"', b",", b"\r\n", b"\xef\xbb\xbf")

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "delete", "insert", "repeat"]),
        st.integers(0, 2**20),
        st.binary(min_size=1, max_size=12)
        | st.sampled_from([b"\xff\xff\xff\xff", b"\x00" * 8, b"PK\x03\x04", b'"', b",", b"\r\n", b"\xef\xbb\xbf"]),
    ),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """The bytes after a few changes."""
    result = bytearray(data)
    for kind, number, piece in changes:
        place = number % (len(result) + 1)
        match kind:
            case "flip" if place < len(result):
                result[place] ^= piece[0] or 1
            case "set":
                result[place : place + len(piece)] = piece
            case "delete":
                del result[place : place + len(piece)]
            case "insert":
                result[place:place] = piece
            case "repeat":
                result[place:place] = result[place : place + 64] * 3
    return bytes(result)


def npy_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(24, dtype=">f4").reshape(2, 3, 4), allow_pickle=False)
    return file.getvalue()


def npz_bytes(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, allow_pickle=False, x=np.arange(12.0).reshape(6, 2), y=np.array(["a", "b"] * 3))
    return file.getvalue()


@cache
def safetensors_bytes(*, is_dataset: bool) -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        if is_dataset:
            save_dataset(make_table(), path)
        else:
            save_tensors(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.uint8)}, {"format": 1, "x": [1, 2]})
        return path.read_bytes()


NPZ = (npz_bytes(np.savez), npz_bytes(np.savez_compressed))
CSV = b'width,"the colour",wild,species\n1.5,red,true,rose\n-2e3,"bl""ue",FALSE,iris\n.5,red,true,"a, b"\n'

CELLS = ('"', '""', "1", "-1e5", "NaN", "true", "\ufeff", "=1+1", " ", "1e400")
cells = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(CELLS)
tables = st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=6)


@fuzz
@given(edits)
def test_npy(changes: list[tuple[str, int, bytes]]) -> None:
    data = edited(npy_bytes(), changes)
    with suppress(NpyError):
        array = read_npy(data)
        assert array.nbytes <= len(data)


@fuzz
@given(st.sampled_from(NPZ), edits)
def test_npz(tmp_path: Path, data: bytes, changes: list[tuple[str, int, bytes]]) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(edited(data, changes))
    with suppress(NpyError):
        arrays = read_npz(path, names=("x", "y"), max_bytes=4096)
        assert sum(array.nbytes for array in arrays.values()) <= 4096


@fuzz
@given(edits)
def test_npz_with_a_damaged_member_and_a_sound_directory(tmp_path: Path, changes: list[tuple[str, int, bytes]]) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", edited(npy_bytes(), changes))
    with suppress(NpyError):
        assert read_npz(tmp_path / "data.npz", names=("x",))["x"].dtype.kind in "biufU"


@fuzz
@given(edits)
def test_csv_bytes(tmp_path: Path, changes: list[tuple[str, int, bytes]]) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(edited(CSV, changes))
    with suppress(DatasetError):
        table = read_csv(path, target="species")
        assert np.isfinite(table.inputs).all()
        assert len(table.inputs) == len(table.target) > 0


@fuzz
@given(tables, st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", "\n", "\n\n"]))
def test_csv_texts(tmp_path: Path, rows: list[list[str]], separator: str, line_end: str, last: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(line_end.join(separator.join(row) for row in [["a", "b"], *rows]) + last, encoding="utf-8", newline="")
    with suppress(DatasetError):
        table = read_csv(path, target="b")
        assert np.isfinite(table.inputs).all()
        assert [column.name for column in table.columns] == ["a"]


@fuzz
@given(changes=edits)
@pytest.mark.parametrize("load", [load_tensors, load_dataset, load_snapshot])
def test_safetensors(tmp_path: Path, load: Callable[[Path], object], changes: list[tuple[str, int, bytes]]) -> None:
    path = tmp_path / "data.safetensors"
    data = safetensors_bytes(is_dataset=load is load_dataset)
    path.write_bytes(edited(data, [(kind, number % 1000, piece) for kind, number, piece in changes]))  # the header is where it counts
    with suppress(TensorFileError, DatasetError, SnapshotError):
        load(path)


HEADERS = {
    "endless": struct.pack("<Q", 2**63) + b"{}",
    "longer than the file": struct.pack("<Q", 1000) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"nope",
    "a tensor beyond the file": json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode(),
    "overlapping tensors": json.dumps({name: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for name in "ab"}).encode(),
    "a shape that overflows": json.dumps({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}).encode(),
    "an unknown type": json.dumps({"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}}).encode(),
    "20,000 tensors": json.dumps({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}).encode(),
    "a document of 100,000 levels": json.dumps({"__metadata__": {"snapcycle": "[" * 100_000}}).encode(),
    "a document that is a list": json.dumps({"__metadata__": {"snapcycle": "[]"}}).encode(),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_safetensors_header_is_refused(tmp_path: Path, name: str) -> None:
    header = HEADERS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(header if header[:1] != b"{" else struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(TensorFileError):
        load_tensors(path)
