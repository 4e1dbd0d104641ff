"""Multipart uploads, streamed to a file as they arrive: memory stays flat, the file gets its checksum on the way."""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import Problem, invalid_field
from service.validation import shown

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 16 * 1024
MAX_PARTS = 16
WRITE_BYTES = 1 << 20
"""The file is written in pieces of this size, outside the event loop."""

ABANDONED_SECONDS = 86_400
FILE_FIELD = "file"
SUFFIXES = (".npz", ".csv")


@dataclass(frozen=True)
class Upload:
    """A form that has arrived: its file, in a directory of its own, and its text fields."""

    path: Path
    filename: str
    sha256: str
    fields: dict[str, str]


@dataclass
class _Part:
    """The part being read; text is collected here, a file goes to disk."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: str = ""
    text: bytearray = field(default_factory=bytearray)
    is_file: bool = False


class _Form:
    """The parser's callbacks. Nothing here waits: file bytes gather in ``pending`` until the reader writes them."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.pending = bytearray()
        self.is_complete = False
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._count = 0

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self.on_part_begin,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_headers_finished": self.on_headers_finished,
            "on_part_data": self.on_part_data,
            "on_part_end": self.on_part_end,
            "on_end": self.on_end,
        }

    def on_part_begin(self) -> None:
        self._part = _Part()
        self._count += 1
        if self._count > MAX_PARTS:
            raise Problem("malformed_body", f"a form may have at most {MAX_PARTS} parts: send file, name, task, target and metadata")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        self._part.headers.append((bytes(self._header[0]).lower(), bytes(self._header[1])))
        self._header = (bytearray(), bytearray())

    def on_headers_finished(self) -> None:
        disposition = dict(self._part.headers).get(b"content-disposition", b"")
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise Problem("malformed_body", "a part of the form has no name: give each Content-Disposition a name")
        self._part.name = options[b"name"].decode("utf-8", "replace")
        self._part.is_file = b"filename" in options
        if not self._part.is_file:
            return
        if self._part.name != FILE_FIELD or self.filename is not None:
            raise invalid_field(
                "a form has one file, in the field 'file'", pointer=f"#/{self._part.name}", hint="send one .npz or .csv file"
            )
        self.filename = options[b"filename"].decode("utf-8", "replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self.pending += data[start:end]
        elif len(self._part.text) + end - start > MAX_FIELD_BYTES:
            raise invalid_field(f"may have at most {MAX_FIELD_BYTES} bytes", pointer=f"#/{self._part.name}", hint="shorten the text")
        else:
            self._part.text += data[start:end]

    def on_part_end(self) -> None:
        name = self._part.name
        if self._part.is_file:
            return
        if name in self.fields:
            raise invalid_field("stands twice in the form", pointer=f"#/{name}", hint="send it once")
        try:
            self.fields[name] = self._part.text.decode()
        except UnicodeDecodeError:
            raise invalid_field("is not UTF-8", pointer=f"#/{name}", hint="encode the text as UTF-8") from None

    def on_end(self) -> None:
        self.is_complete = True


def uploads_directory(staging_dir: Path) -> Path:
    """Where uploads wait to be parsed."""
    directory = staging_dir / "uploads"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def remove_abandoned_uploads(staging_dir: Path) -> None:
    """Removes what processes that were killed have left: what nobody has written to for a day. The rest may be another process's."""
    for directory in uploads_directory(staging_dir).iterdir():
        with suppress(FileNotFoundError, NotADirectoryError):  # its upload has just ended, or it is none
            written_at = max(
                path.stat().st_mtime for path in (directory, *directory.iterdir())
            )  # a directory's own time says nothing of that
            if written_at < time.time() - ABANDONED_SECONDS:
                shutil.rmtree(directory, ignore_errors=True)


async def receive_upload(request: Request, directory: Path, note: Callable[[int], None]) -> Upload:
    """Reads the whole form; its file lies in ``directory`` afterwards.

    Args:
        request: Whose body nobody has read.
        directory: For the file alone.
        note: Is told of all bytes that arrive, and raises ``Problem`` where they are too many.

    Raises:
        Problem: The form is malformed, has no file whose name ends in .npz or .csv, or there is no room for it.
    """
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary")
    if not boundary or len(boundary) > 200:
        raise Problem("malformed_body", "the Content-Type of a form needs a boundary: let an HTTP library build the body")
    form = _Form()
    parser = MultipartParser(boundary, form.callbacks())
    digest = hashlib.sha256()
    path = directory / "upload"
    with path.open("wb") as file:
        try:
            async for chunk in request.stream():
                note(len(chunk))
                parser.write(chunk)
                if len(form.pending) >= WRITE_BYTES:
                    await run_in_threadpool(_write_pending, form, file, digest)
            parser.finalize()
        except FormParserError as error:
            raise Problem("malformed_body", f"the form cannot be read ({error}): let an HTTP library build the body") from None
        await run_in_threadpool(_write_pending, form, file, digest)
    if not form.is_complete:
        raise Problem("malformed_body", "the form ends before its last boundary: send the whole body")
    if form.filename is None:
        raise invalid_field("is required, but missing", pointer="#/file", hint="send a .npz or .csv file in the field 'file'")
    suffix = Path(re.sub(r"[\x00/\\]", "_", form.filename)).suffix.lower()
    if suffix not in SUFFIXES:
        raise invalid_field(f"must be a .npz or .csv file, got {shown(form.filename)}", pointer="#/file", hint="rename or convert the file")
    return Upload(path.rename(path.with_suffix(suffix)), form.filename[:200], digest.hexdigest(), form.fields)


def _write_pending(form: _Form, file: BinaryIO, digest: "hashlib._Hash") -> None:
    digest.update(form.pending)
    file.write(form.pending)
    form.pending.clear()
