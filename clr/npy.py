"""Reads npy and npz bytes from strangers: no pickle, no evaluation of the header, no allocation on the header's word.

Format: NumPy Enhancement Proposal 1. A shape must account for exactly the bytes that are there, so an 80-byte file that asks
for 32 GiB is refused before anything is allocated.
"""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from clr.errors import NpyError, did_you_mean

MAX_HEADER_BYTES = 4096
MAX_DIMENSIONS = 8
MAX_TEXT_CHARACTERS = 1024
MAX_DECODED_BYTES = 8 << 30
MAX_INFLATION_RATIO = 100
MAX_READ_BYTES = 1 << 20
RATIO_FREE_BYTES = 1 << 20
"""Members below this size may inflate by any ratio: a small array of zeros does."""

_MAGIC = b"\x93NUMPY"
_ENTRY = r"'(descr|fortran_order|shape)'\s*:\s*('[^'\\]*'|True|False|\([\d\s,]*\))"
_HEADER = re.compile(rf"\{{\s*{_ENTRY}\s*,\s*{_ENTRY}\s*,\s*{_ENTRY}\s*,?\s*\}}\s*")
_NUMBER_TYPES = re.compile(r"[|<>](b1|[iu][1248]|f[248])")
_TEXT_TYPE = re.compile(r"[<>]U(\d{1,4})")


@dataclass(frozen=True)
class NpyHeader:
    """What an npy header says: the type, shape and order of the values, and where they begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int

    @property
    def size_bytes(self) -> int:
        """Bytes that the values take; an exact integer of any size."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(data: bytes | bytearray | memoryview) -> np.ndarray[Any, Any]:
    """The array in the bytes of one npy file, in the machine's byte order; shares memory with ``data`` where it can.

    Raises:
        NpyError: Not an npy file, a type other than booleans, integers, floats and text, or a shape that the bytes do not fill.
    """
    view = memoryview(data).cast("B")
    header = _parse_header(bytes(view[: MAX_HEADER_BYTES + 12]))
    _check_size(header, len(view) - header.offset, "the array")
    values = np.frombuffer(view, np.uint8, header.size_bytes, header.offset)
    return _arrange(values, header)


def read_npz(path: Path | str, *, names: Collection[str], max_bytes: int = MAX_DECODED_BYTES) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an npz file by name; any subset of ``names`` may be there, of ``max_bytes`` in all.

    Raises:
        NpyError: Not a zip file, unknown, repeated or encrypted members, sizes that disagree or inflate beyond the limits, or
            a member that ``read_npy`` would refuse.
    """
    try:
        with _BoundedReader(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            members = _members(archive, names, Path(path).stat().st_size, max_bytes)
            return {name: _read_member(archive, member, name) for name, member in members.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as error:
        raise NpyError(f"the file is not a readable npz archive ({error}): write it with numpy.savez or numpy.savez_compressed") from error


class _BoundedReader(io.BufferedReader):
    """A file that gives at most a mebibyte at a time.

    zipfile takes the whole directory of an archive in one go, with about half a kilobyte of memory for each of what may be millions of
    members; numpy's archives have a directory of some hundred bytes.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file, unless too much is asked for."""
        if size is not None and size > MAX_READ_BYTES:
            raise NpyError(f"the archive's directory must take at most {MAX_READ_BYTES} bytes, got {size}: write it with numpy.savez")
        return super().read(size)


def _parse_header(prefix: bytes) -> NpyHeader:
    """Parses the header at the start of an npy file; ``prefix`` must reach beyond the longest header accepted."""
    if prefix[:6] != _MAGIC or len(prefix) < 10:
        raise NpyError(f"npy data must begin with {_MAGIC!r}, got {prefix[:6]!r}: write it with numpy.save")
    version = (prefix[6], prefix[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise NpyError(f"npy version must be 1.0, 2.0 or 3.0, got {version[0]}.{version[1]}: write the file with numpy.save")
    start = 10 if version == (1, 0) else 12
    length = int.from_bytes(prefix[8:start], "little")
    if length > MAX_HEADER_BYTES or len(prefix) < start + length:
        raise NpyError(
            f"npy header must be at most {MAX_HEADER_BYTES} bytes and complete, got a length of {length}: write it with numpy.save"
        )
    text = prefix[start : start + length].decode("latin-1")
    match = _HEADER.fullmatch(text)
    entries = dict(zip(match.groups()[::2], match.groups()[1::2], strict=True)) if match else {}
    if entries.keys() != {"descr", "fortran_order", "shape"}:
        raise NpyError(f"npy header must give descr, fortran_order and shape once each, got {text[:200]!r}: write it with numpy.save")
    return NpyHeader(
        _dtype(entries["descr"].strip("'")), _shape(entries["shape"]), entries["fortran_order"] == "True", offset=start + length
    )


def _dtype(text: str) -> np.dtype[Any]:
    """The whitelisted dtype named by a header; never an object, record or void type."""
    match = _TEXT_TYPE.fullmatch(text)
    if _NUMBER_TYPES.fullmatch(text) or (match and 1 <= int(match[1]) <= MAX_TEXT_CHARACTERS):
        return np.dtype(text)
    raise NpyError(
        f"arrays must hold booleans, integers, floats or text of at most {MAX_TEXT_CHARACTERS} characters, got dtype {text!r}: "
        "convert with .astype('float32') or .astype(str); object arrays need pickle and are never read"
    )


def _shape(text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.strip("()").split(",")]
    if sizes and not sizes[-1]:
        sizes.pop()  # the comma that ends a one-element tuple, or the empty tuple
    if len(sizes) > MAX_DIMENSIONS or not all(size.isdecimal() and len(size) <= 18 for size in sizes):
        raise NpyError(f"shape must be up to {MAX_DIMENSIONS} whole numbers, got {text[:200]}: reshape the array")
    return tuple(int(size) for size in sizes)


def _check_size(header: NpyHeader, present: int, what: str) -> None:
    if header.size_bytes != present:
        raise NpyError(
            f"{what} of shape {header.shape} and type {header.dtype} takes {header.size_bytes} bytes, but {present} are there: "
            "the file is cut short or its header is wrong; write it again with numpy"
        )


def _arrange(values: np.ndarray[Any, Any], header: NpyHeader) -> np.ndarray[Any, Any]:
    """Gives raw bytes their type, shape and order; copies only for another byte order or unaligned memory."""
    array = values.view(header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")
    array = array.astype(header.dtype.newbyteorder("="), copy=False)
    return np.require(array, requirements="A")


def _members(archive: zipfile.ZipFile, names: Collection[str], file_bytes: int, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The members by array name, after every check that their directory allows."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name not in names or name == member.filename:
            hint = did_you_mean(name, names)
            raise NpyError(
                f"the archive must hold the arrays {', '.join(sorted(names))} only, got {member.filename[:100]!r}{hint}: rename it"
            )
        if name in members:
            raise NpyError(f"the archive holds {name!r} twice: write it again with numpy.savez")
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NpyError(f"array {name!r} is encrypted or packed by an unknown method: write the archive with numpy.savez_compressed")
        if member.compress_size > file_bytes or member.file_size > max(RATIO_FREE_BYTES, MAX_INFLATION_RATIO * member.compress_size):
            raise NpyError(
                f"array {name!r} claims to inflate from {member.compress_size} to {member.file_size} bytes, more than "
                f"{MAX_INFLATION_RATIO} times: write the archive with numpy.savez, without compression"
            )
        members[name] = member
    total = sum(member.file_size for member in members.values())
    if total > max_bytes:
        raise NpyError(f"the arrays take {total} bytes, more than {max_bytes}: store them as uint8 or float32, or fewer rows")
    return members


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray[Any, Any]:
    """Reads one array; memory is committed page by page as bytes arrive, never more than the directory claims."""
    try:
        with archive.open(member) as stream:
            prefix = stream.read(MAX_HEADER_BYTES + 12)
            header = _parse_header(prefix)
            _check_size(header, member.file_size - header.offset, "the array")
            values = np.empty(header.size_bytes, np.uint8)
            filled = min(len(prefix) - header.offset, header.size_bytes)
            values[:filled] = np.frombuffer(prefix, np.uint8, filled, header.offset)
            _fill(stream, values[filled:].data)
    except NpyError as error:
        raise NpyError(f"array {name!r}: {error}") from error
    return _arrange(values, header)


def _fill(stream: IO[bytes], buffer: memoryview) -> None:
    """Reads until ``buffer`` is full."""
    while buffer:
        count = stream.readinto(buffer[:MAX_READ_BYTES])  # type: ignore[attr-defined]  # ZipExtFile has it, IO[bytes] does not
        if not count:
            raise NpyError(f"the data ends {len(buffer)} bytes early: the file was cut short; write it again")
        buffer = buffer[count:]
