"""The artifact store: create-once objects under text keys, in a directory or an S3 bucket. What it holds is the truth.

An object appears as a whole or not at all, never changes, and is on the disk before anyone is told. In a directory we write
it ourselves: obstore doesn't fsync, and a conditional put would hold a big file in memory. Everything else is obstore's.

Exceptions: ``ArtifactError`` with ``AlreadyExists``, ``ArtifactMissing``, ``ArtifactDamaged``, ``StoreFull``, ``ArtifactUnavailable``.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from worker.artifact_errors import (
    AlreadyExists,
    ArtifactDamaged,
    ArtifactError,
    ArtifactMissing,
    ArtifactUnavailable,
    StoreFull,
    translated_errors,
)
from worker.durable_files import CHUNK_BYTES, DRAFT_MARK, DurableFiles, chunks_of, names_in, sha256_of
from worker.file_cache import FileCache

__all__ = [
    "AlreadyExists",
    "ArtifactDamaged",
    "ArtifactError",
    "ArtifactMissing",
    "ArtifactStore",
    "ArtifactUnavailable",
    "StoreFull",
]

SINGLE_PUT_BYTES = 2**28
"""Largest object that is created by one conditional request, which holds it in memory."""

MAX_VERIFIED = 10_000
"""Files whose verification is remembered."""

TIMES: dict[str, Any] = {"connect_timeout": "5s", "read_timeout": "2m", "timeout": "15m"}
"""Of a remote store: a server that falls silent is given up after two minutes, while a large file may take its time."""

RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
"""For hiccups; longer absences are met by those who call, which try again."""


class ArtifactStore:
    """Objects in a directory (``root``) or, where that is None, in a remote store, whose files ``cache`` keeps locally."""

    def __init__(self, store: ObjectStore, *, root: Path | None, cache: FileCache) -> None:
        self._store = store
        self._root = root
        self._cache = cache
        self._verified: set[tuple[str, int, int, int, str]] = set()
        self._files = DurableFiles(root) if root else None

    @classmethod
    def open(cls, location: str | Path, *, cache_dir: Path | None = None) -> Self:
        """The store at a directory, which is made, or a URL such as s3://bucket/prefix, with its credentials in AWS_*.

        Args:
            location: The directory or URL.
            cache_dir: Where files of a remote store are kept; ~/.cache/snapcycle by default.
        """
        cache = FileCache(cache_dir or Path.home() / ".cache" / "snapcycle" / "artifacts")
        if "://" in str(location):
            options: Any = TIMES | {"allow_http": os.environ.get("AWS_ALLOW_HTTP", "false").lower() in ("true", "1")}
            store = from_url(str(location), client_options=options, retry_config=RETRIES)
            return cls(store, root=None, cache=cache)
        root = Path(location).absolute()
        with translated_errors("store"):
            try:
                root.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise ArtifactUnavailable(f"{root} is a file: give a directory as SNAPCYCLE_ARTIFACTS") from error
            return cls(LocalStore(root), root=root, cache=cache)

    def create(self, key: str, data: bytes | Path) -> str:
        """Stores an object that didn't exist and returns its sha256; it is durable then.

        Args:
            key: Path-like name: ``jobs/job_…/spec.json``.
            data: The bytes, or a file with them.

        Raises:
            AlreadyExists: The key is taken; that object is durable.
        """
        with translated_errors(key):
            try:
                return self._files.create(key, data) if self._files else self._create_remote(key, data)
            except (FileExistsError, AlreadyExistsError):
                pass
        raise AlreadyExists(key, self.stored_sha256(key))

    def create_or_same(self, key: str, data: bytes | Path) -> str:
        """As ``create``, but an object with the same bytes may exist.

        Raises:
            AlreadyExists: The key is taken by other bytes.
        """
        try:
            return self.create(key, data)
        except AlreadyExists as taken:
            if taken.sha256 == sha256_of(data):
                return taken.sha256
            raise

    def read(self, key: str, sha256: str | None = None) -> bytes:
        """The bytes of an object.

        Raises:
            ArtifactMissing: There is none.
            ArtifactDamaged: Their sha256 is not the given one.
        """
        with translated_errors(key):
            content = (self._root / key).read_bytes() if self._root else bytes(obstore.get(self._store, key).bytes())
        if sha256 is not None:
            _check(key, hashlib.sha256(content).hexdigest(), sha256)
        return content

    def local_path(self, key: str, sha256: str, size_bytes: int) -> Path:
        """A local file with the object's bytes, verified; not to be written to.

        In a directory store it is the object itself, verified again only if it has changed. Remote objects are downloaded.

        Raises:
            ArtifactMissing: There is none.
            ArtifactDamaged: Its bytes are not those of the given sha256 and size.
        """
        with translated_errors(key):
            if self._root is None:
                return self._cache.path(sha256, lambda file: self._download(key, sha256, size_bytes, file))
            path = self._root / key
            status = path.stat()
            version = (key, status.st_ino, status.st_mtime_ns, status.st_size, sha256)
            if status.st_size != size_bytes:
                raise ArtifactDamaged(f"{key} has {status.st_size} bytes instead of {size_bytes}: {_DAMAGE_REMEDY}")
            if version not in self._verified:
                _check(key, sha256_of(path), sha256)
                if len(self._verified) >= MAX_VERIFIED:
                    self._verified.clear()
                self._verified.add(version)
            return path

    def stored_sha256(self, key: str) -> str:
        """The sha256 of an object's bytes as they are now."""
        digest = hashlib.sha256()
        with translated_errors(key):
            for chunk in self._chunks(key):
                digest.update(chunk)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        with translated_errors(key), suppress(FileNotFoundError, NotFoundError):
            if self._root is not None:
                return (self._root / key).is_file()
            obstore.head(self._store, key)
            return True
        return False

    def list_names(self, prefix: str) -> list[str]:
        """The names directly under ``prefix``, objects and folders, sorted: ``jobs/job_x/snapshots`` has 0, 1, 10, 2."""
        with translated_errors(prefix):
            if self._root is not None:
                return sorted(names_in(self._root / prefix))
            listing = obstore.list_with_delimiter(self._store, prefix)
        paths = [*listing["common_prefixes"], *(item["path"] for item in listing["objects"])]
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def list_keys(self, prefix: str) -> list[str]:
        """The keys of all objects in the folder ``prefix`` and below it, in no order."""
        with translated_errors(prefix):
            return [item["path"] for page in obstore.list(self._store, prefix, chunk_size=1000) for item in page]

    def delete(self, key: str) -> None:
        """Removes an object; does nothing where there is none."""
        with translated_errors(key), suppress(FileNotFoundError, NotFoundError):
            obstore.delete(self._store, key)

    def move(self, key: str, to: str) -> bool:
        """Gives an object another key, durably; False where there is none."""
        with translated_errors(key), suppress(FileNotFoundError, NotFoundError):
            if self._files is not None:
                self._files.move(key, to)
            else:
                obstore.rename(self._store, key, to)
            return True
        return False

    def delete_prefix(self, prefix: str, *, last: str | None = None) -> None:
        """Removes everything under the folder ``prefix``, manifests first, so that what is left half-way is nobody's.

        Args:
            prefix: The folder.
            last: The key that goes after all others.
        """
        for key in sorted(self.list_keys(prefix), key=lambda key: (key == last, not key.endswith(".json"), key)):
            self.delete(key)
        if self._root is not None:
            shutil.rmtree(self._root / prefix, ignore_errors=True)

    def remove_drafts(self, *, older_than_seconds: float) -> int:
        """Removes what was left by processes that died while they wrote an object; returns the number of files."""
        drafts = self.drafts(older_than_seconds=older_than_seconds)
        with translated_errors("drafts"):
            for name in drafts:
                if self._root is not None:
                    (self._root / name).unlink(missing_ok=True)
        return len(drafts)

    def drafts(self, *, older_than_seconds: float) -> list[str]:
        """What processes left that died while they wrote an object: paths below the store, sorted."""
        if self._root is None:
            return []  # S3 shows nothing before it is whole; its left-over parts are a matter of the bucket's lifecycle rule
        found = []
        with translated_errors("drafts"):
            for draft in self._root.rglob(f"*{DRAFT_MARK}*"):
                with suppress(FileNotFoundError):
                    if time.time() - draft.stat().st_mtime > older_than_seconds:
                        found.append(str(draft.relative_to(self._root)))
        return sorted(found)

    def age_seconds(self, key: str) -> float | None:
        """How long ago an object was written; None where there is none."""
        with translated_errors(key), suppress(FileNotFoundError, NotFoundError):
            return time.time() - obstore.head(self._store, key)["last_modified"].timestamp()
        return None

    def probe(self) -> None:
        """Returns if the store keeps what it is given and refuses to create an object twice.

        Raises:
            ArtifactError: It doesn't; the message says which.
        """
        key = f"probe/{secrets.token_hex(8)}"
        try:
            sha256 = self.create(key, b"probe")
            self.read(key, sha256)
            try:
                self.create(key, b"another")
            except AlreadyExists:
                return
            raise ArtifactError("the artifact store lets an object be created twice: use one that honours If-None-Match on PUT")
        finally:
            self.delete(key)

    def available(self) -> bool:
        """Whether the store answers; cheap."""
        try:
            if self._root is not None:
                return os.access(self._root, os.W_OK)
            self.list_names("probe")
        except ArtifactError:
            return False
        return True

    def _create_remote(self, key: str, data: bytes | Path) -> str:
        size_bytes = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size_bytes <= SINGLE_PUT_BYTES:
            obstore.put(self._store, key, data, mode="create")
        else:  # parts cannot be put conditionally: the manifest, which is, decides between two writers
            with suppress(FileNotFoundError, NotFoundError):
                obstore.head(self._store, key)
                raise FileExistsError(key)
            obstore.put(self._store, key, data)
        return sha256_of(data)

    def _download(self, key: str, sha256: str, size_bytes: int, file: BinaryIO) -> None:
        digest = hashlib.sha256()
        for chunk in self._chunks(key):
            digest.update(chunk)
            file.write(chunk)
        if file.tell() != size_bytes:
            raise ArtifactDamaged(f"{key} has {file.tell()} bytes instead of {size_bytes}: {_DAMAGE_REMEDY}")
        _check(key, digest.hexdigest(), sha256)

    def _chunks(self, key: str) -> Iterator[bytes]:
        if self._root is not None:
            yield from chunks_of(self._root / key)
        else:
            for chunk in obstore.get(self._store, key).stream(CHUNK_BYTES):
                yield bytes(chunk)


_DAMAGE_REMEDY = "restore it from a backup, or delete the job or dataset that it belongs to"


def _check(key: str, found: str, expected: str) -> None:
    if found != expected:
        raise ArtifactDamaged(f"{key} has sha256 {found} instead of {expected}: {_DAMAGE_REMEDY}")
