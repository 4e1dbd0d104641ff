"""Local copies of remote objects, by the sha256 of their content, the longest unused ones removed first."""

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 20 * 2**30


class FileCache:
    """A directory of verified files that several processes may share."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._downloads: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def path(self, sha256: str, download: Callable[[BinaryIO], object]) -> Path:
        """The file with this content; ``download`` writes and verifies it where it is not there yet."""
        path = self._directory / sha256
        with self._lock:
            one_download = self._downloads.setdefault(sha256, threading.Lock())
        with one_download:
            if not path.exists():
                self._directory.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f"{sha256}#{secrets.randbits(63)}")
                try:
                    with draft.open("xb") as file:
                        download(file)
                    draft.replace(path)
                finally:
                    draft.unlink(missing_ok=True)
                self._evict(keep=path)
            os.utime(path)
        return path

    def _evict(self, *, keep: Path) -> None:
        """Removes what was used least recently until the rest fits; open files stay readable."""
        files = [(file.stat(), file) for file in self._directory.iterdir()]
        total = sum(status.st_size for status, _ in files)
        for status, file in sorted(files, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self._max_bytes:
                break
            if file != keep:
                file.unlink(missing_ok=True)
                total -= status.st_size
