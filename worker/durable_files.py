"""Files that are created once, as a whole, and are on the disk before anyone is told."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from worker.failpoints import failpoint

CHUNK_BYTES = 2**20
THREADS = 8
"""Directories that are put on the disk at the same time, for all writers together."""
DRAFT_MARK = "#"
"""Stands, with a number after it, at the end of the names of files that are being written; obstore doesn't list those."""


class DurableFiles:
    """Creates files below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fsync")
        self._durable_folders: set[tuple[str, int]] = set()

    def create(self, name: str, data: bytes | Path) -> str:
        """Writes a file that didn't exist, with its directories, and returns its content's sha256.

        The draft is complete and on the disk before it is linked to its name, so the name has the whole content or isn't there.

        Raises:
            FileExistsError: The name is taken; that file is durable.
            OSError: It could not be written; the name isn't taken.
        """
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}{DRAFT_MARK}{secrets.randbits(63)}")
        try:
            with draft.open("xb") as file:
                sha256 = _copy(data, file)
                file.flush()
                failpoint("file.draft_written")
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
                failpoint("file.linked")
            finally:
                # Also where the file or a directory was there already: its maker may not have come to this yet.
                self._sync_parents(path)
        finally:
            draft.unlink(missing_ok=True)
        return sha256

    def move(self, name: str, to: str) -> None:
        """Renames a file; both directories are on the disk then.

        Raises:
            FileNotFoundError: There is no such file.
        """
        path, target = self._root / name, self._root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        self._sync_parents(target, path.parent)

    def _sync_parents(self, path: Path, *others: Path) -> None:
        """Puts the names of a file and of its directories on the disk, and other directories.

        All at the same time, because the disk then flushes its cache about once and not for each. The root only as long as its folder
        (jobs, datasets, …) is new: nobody removes those, and its inode tells the same folder from one that was put back by hand.
        """
        parents = [path.parent, *path.parent.parents][: len(path.relative_to(self._root).parts)]
        folder = (parents[-2].name, parents[-2].stat().st_ino) if len(parents) > 1 else None
        if folder in self._durable_folders:
            parents.pop()  # the root
        list(self._threads.map(_fsync_directory, [*parents, *others]))
        if folder is not None:
            self._durable_folders.add(folder)


def sha256_of(data: bytes | Path) -> str:
    """The sha256 of bytes, or of a file's content."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chunks_of(path: Path) -> Iterator[bytes]:
    """A file's content in pieces of a mebibyte."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def names_in(folder: Path) -> list[str]:
    """The names of the files and directories in a folder, in no order, without what is being written; none where there is no folder.

    No file is looked at, so a folder of ten thousand takes milliseconds.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if DRAFT_MARK not in entry.name]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _copy(data: bytes | Path, file: BinaryIO) -> str:
    """Writes the data to the file and returns their sha256."""
    digest = hashlib.sha256()
    for chunk in [data] if isinstance(data, bytes) else chunks_of(data):
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest()


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
