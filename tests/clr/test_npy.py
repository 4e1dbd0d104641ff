"""Reading npy and npz: whatever NumPy writes comes back, and nothing hostile costs memory or runs code."""

import io
import pickle
import resource
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clr.errors import NpyError
from clr.npy import read_npy, read_npz

NAMES = ("x", "y", "x_test", "y_test")

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=5),
)


def npy_bytes(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def header_bytes(text: str, *, version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text.encode("latin-1")


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)), st.booleans())
def test_npy_reads_back_what_numpy_writes(array: np.ndarray[Any, Any], fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array
    read = read_npy(npy_bytes(array))
    assert read.shape == array.shape
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_npy_shares_memory_with_the_bytes() -> None:
    data = bytearray(npy_bytes(np.arange(12.0).reshape(3, 4)))
    read = read_npy(data)
    data[-8:] = struct.pack("<d", 99.0)
    assert read[2, 3] == 99.0


def test_header_keys_may_come_in_any_order_and_in_all_versions() -> None:
    text = "{'shape': (2,), 'fortran_order': False, 'descr': '<i2'}\n"
    for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        np.testing.assert_array_equal(read_npy(header_bytes(text, version=version) + b"\x01\x00\x02\x00"), [1, 2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must begin with"),
        (b"PK\x03\x04" + bytes(60), "must begin with"),
        (b"\x93NUMPY\x04\x00" + bytes(60), "version must be 1.0, 2.0 or 3.0, got 4.0"),
        (
            header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (4, 1073741824), }\n"),
            "takes 34359738368 bytes, but 0 are there",
        ),
        (header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n") + bytes(15), "takes 16 bytes, but 15"),
        (header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n") + bytes(17), "takes 16 bytes, but 17"),
        (header_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + pickle.dumps(1), "object arrays need pickle"),
        (header_bytes("{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }\n") + bytes(8), "got dtype '|V8'"),
        (header_bytes("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n") + bytes(4), "once each"),
        (header_bytes("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }\n") + bytes(8), "got dtype '<c8'"),
        (header_bytes("{'descr': '<U9999', 'fortran_order': False, 'shape': (0,), }\n"), "text of at most 1024"),
        (header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "once each"),
        (header_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1 1,), }\n"), "whole numbers"),
        (header_bytes(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 9}), }}\n"), "up to 8 whole numbers"),
        (header_bytes("{'descr': '<f4', 'descr': '<f4', 'shape': (1,), }\n") + bytes(4), "once each"),
        (header_bytes("{'descr': '<f4', 'fortran_order': __import__('os').abort(), 'shape': (1,)}\n"), "once each"),
        (header_bytes("(" * 4000), "once each"),
        (header_bytes("{" + " " * 4090), "once each"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100, "at most 4096 bytes"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr'", "at most 4096 bytes and complete"),
    ],
)
def test_hostile_npy_is_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(NpyError, match=message.replace("|", r"\|")):
        read_npy(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for candidate in (data, npy_bytes(np.arange(3))[: len(data)] + data):
        with suppress(NpyError):
            read_npy(candidate)


def test_npz_reads_back_both_kinds_of_archive(tmp_path: Path) -> None:
    arrays = {"x": np.random.default_rng(0).random((5000, 3)), "y": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "data.npz", x=arrays["x"], y=arrays["y"])
        read = read_npz(tmp_path / "data.npz", names=NAMES)
        assert read.keys() == {"x", "y"}
        np.testing.assert_array_equal(read["x"], arrays["x"])
        np.testing.assert_array_equal(read["y"], arrays["y"])
        assert read["y"].dtype == np.int32


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    np.savez(tmp_path / "data.npz", x=np.array([Bomb()], dtype=object), y=np.zeros(1))
    with pytest.raises(NpyError, match=r"array 'x': .*object arrays need pickle"):
        read_npz(tmp_path / "data.npz", names=NAMES)
    assert not (tmp_path / "executed").exists()


def write_zip(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_zip_bomb_is_refused_before_it_inflates(tmp_path: Path) -> None:
    bomb = write_zip(tmp_path / "bomb.npz", [("x.npy", npy_bytes(np.zeros((300, 1 << 20), np.uint8)))])
    assert bomb.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NpyError, match=r"claims to inflate from .* more than 100 times"):
        read_npz(bomb, names=NAMES)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_small_array_of_zeros_may_inflate_by_any_ratio(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((1000, 1000), np.uint8))
    assert read_npz(tmp_path / "data.npz", names=NAMES)["x"].shape == (1000, 1000)


@pytest.mark.parametrize("claim", [200, 1_000_000])
def test_member_that_lies_about_its_size_is_refused(tmp_path: Path, claim: int) -> None:
    data = bytearray(write_zip(tmp_path / "x.npz", [("x.npy", npy_bytes(np.zeros(100, np.uint8)))], zipfile.ZIP_STORED).read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 20 : directory + 28] = struct.pack("<II", claim, claim)
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(NpyError):
        read_npz(tmp_path / "x.npz", names=NAMES)


def test_header_inside_a_member_is_not_trusted(tmp_path: Path) -> None:
    greedy = header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (4, 1073741824), }\n")
    with pytest.raises(NpyError, match=r"array 'x': the array of shape .* takes 34359738368 bytes, but 0 are there"):
        read_npz(write_zip(tmp_path / "x.npz", [("x.npy", greedy)]), names=NAMES)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x.npy", npy_bytes(np.zeros(1))), ("x.npy", npy_bytes(np.ones(1)))], "holds 'x' twice"),
        ([("x_tets.npy", b"")], r"got 'x_tets.npy' \(did you mean 'x_test'\?\): rename it"),
        ([("../x.npy", b"")], "got '../x.npy'"),
        ([("x", b"")], "got 'x'"),
        ([("x.npy", b"not an array")], "array 'x': npy data must begin with"),
    ],
)
def test_archive_with_wrong_members_is_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(NpyError, match=message):
        read_npz(write_zip(tmp_path / "data.npz", members), names=NAMES)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "x.npz", [("x.npy", npy_bytes(np.zeros(3)))]).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(NpyError, match="array 'x' is encrypted or packed by an unknown method"):
        read_npz(tmp_path / "x.npz", names=NAMES)


def test_all_arrays_together_are_bounded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros(100), y=np.zeros(100))
    assert read_npz(tmp_path / "data.npz", names=NAMES, max_bytes=1856).keys() == {"x", "y"}
    with pytest.raises(NpyError, match="the arrays take 1856 bytes, more than 1855"):
        read_npz(tmp_path / "data.npz", names=NAMES, max_bytes=1855)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(17), b"x" * 1000])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(data)
    with pytest.raises(NpyError, match="not a readable npz archive"):
        read_npz(tmp_path / "data.npz", names=NAMES)


def test_damage_anywhere_in_an_archive_is_found_or_harmless(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, 400, dtype=np.uint8)
    np.savez_compressed(tmp_path / "data.npz", x=array)
    intact = (tmp_path / "data.npz").read_bytes()
    num_refused = 0
    for position in range(0, len(intact), 3):
        damaged = bytearray(intact)
        damaged[position] ^= 0x55
        (tmp_path / "data.npz").write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_npz(tmp_path / "data.npz", names=NAMES)["x"], array)
        except NpyError:
            num_refused += 1
    assert num_refused > 100
