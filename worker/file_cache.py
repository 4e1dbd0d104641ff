"""Local copies of remote objects, by the sha256 of their content, the longest unused ones removed first.

What stands on this disk may have changed since it was downloaded: each process verifies a copy when it first uses it, and again where
another file has taken its place. A damaged copy is downloaded anew.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from worker.durable_files import sha256_of

logger = logging.getLogger(__name__)

MAX_BYTES = 20 * 2**30


class FileCache:
    """A directory of files that several processes may share. Invariant: what ``path`` returns has been verified by this process."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._downloads: dict[str, threading.Lock] = {}
        self._verified: dict[str, _Version] = {}
        self._lock = threading.Lock()

    def path(self, sha256: str, download: Callable[[BinaryIO], object]) -> Path:
        """The file with this content; ``download`` writes and verifies it where it is not there yet."""
        path = self._directory / sha256
        with self._lock:
            one_download = self._downloads.setdefault(sha256, threading.Lock())
        with one_download:
            if not self._is_sound(path, sha256):
                self._directory.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f"{sha256}#{secrets.randbits(63)}")
                try:
                    with draft.open("xb") as file:
                        download(file)
                    draft.replace(path)
                    self._verified[sha256] = _version(path)
                finally:
                    draft.unlink(missing_ok=True)
                self._evict(keep=path)
            os.utime(path)
        return path

    def _is_sound(self, path: Path, sha256: str) -> bool:
        """Whether the copy is there and has the content that it is named after."""
        try:
            version = _version(path)
            if self._verified.get(sha256) == version:
                return True
            found = sha256_of(path)
        except FileNotFoundError:
            return False
        if found != sha256:
            logger.warning("the local copy %s has sha256 %s: it is damaged and is downloaded again", path, found)
            return False
        self._verified[sha256] = version
        return True

    def _evict(self, *, keep: Path) -> None:
        """Removes what was used least recently until the rest fits; open files stay readable."""
        files = []
        for file in self._directory.iterdir():
            with suppress(FileNotFoundError):  # another process has removed it, or completed its draft
                files.append((file.stat(), file))
        total = sum(status.st_size for status, _ in files)
        for status, file in sorted(files, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self._max_bytes:
                break
            if file != keep:
                file.unlink(missing_ok=True)
                self._verified.pop(file.name, None)
                total -= status.st_size


_Version = tuple[int, int]


def _version(path: Path) -> _Version:
    """Which file it is. Its times tell nothing: every use by any process sets them."""
    status = path.stat()
    return status.st_ino, status.st_size
