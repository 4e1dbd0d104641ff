"""What goes wrong with artifacts, and what the file system and obstore say in its place. ``worker.artifacts`` has all of it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

from worker.durable_files import DRAFT_MARK

_FORBIDDEN = frozenset({"\\", "\0", DRAFT_MARK})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class ArtifactError(Exception):
    """What the artifact store raises; its subclasses say why."""


class AlreadyExists(ArtifactError):
    """The key is taken; ``sha256`` is that of the object that has it."""

    def __init__(self, key: str, sha256: str) -> None:
        self.key = key
        self.sha256 = sha256
        super().__init__(f"{key} exists with sha256 {sha256}: objects are created once and never change")


class ArtifactMissing(ArtifactError):
    """There is no object of this key."""


class ArtifactDamaged(ArtifactError):
    """The object's bytes are not those that were stored."""


class StoreFull(ArtifactError):
    """The disk, or this user's share of it, has no room left."""


class ArtifactUnavailable(ArtifactError):
    """The store cannot be reached, or refuses; the same call may succeed later."""


@contextmanager
def translated_errors(key: str) -> Iterator[None]:
    """Raises ArtifactError in place of what the file system and obstore raise; that a key is taken is left to ``create``.

    Refuses keys that lead out of the store, which would be a defect of the caller.
    """
    if any(part in ("", ".", "..") or not _FORBIDDEN.isdisjoint(part) for part in key.split("/")):
        raise ValueError(f"an artifact's key must be words between slashes, got {key!r}")
    try:
        yield
    except (AlreadyExistsError, FileExistsError):
        raise
    except (FileNotFoundError, NotADirectoryError, NotFoundError) as error:
        raise ArtifactMissing(f"{key} is not in the artifact store: {error}") from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(
                f"the artifact store has no room for {key} ({error.strerror}): delete jobs or datasets, or add space"
            ) from error
        raise ArtifactUnavailable(f"the artifact store failed at {key}: {error}") from error
    except BaseError as error:
        reason = str(error).partition("\n")[0]  # the rest is for obstore's developers
        raise ArtifactUnavailable(f"the artifact store failed at {key}: {reason}") from error
