"""Where damaged objects go: out of the way, so that nothing uses them, with a note of when and why.

quarantine/<time>-<word>/note.json, and beside it the object under its whole key. Whatever it was part of treats it as lost.
"""

import logging
import secrets
from datetime import UTC, datetime
from typing import Any

from worker.artifacts import ArtifactDamaged, ArtifactError, ArtifactStore
from worker.jobs import now_rfc3339
from worker.sealed_json import SealBrokenError, sealed, unsealed

logger = logging.getLogger(__name__)

FOLDER = "quarantine"
NOTE = "note.json"

MOVABLE = ("jobs/", "datasets/", "ensembles/")
"""What is moved. A damaged API key, revocation, alias or idempotency record stays: to take it away would change what it says."""


def set_aside(artifacts: ArtifactStore, key: str, reason: str) -> None:
    """Moves a damaged object into the quarantine; where that fails it stays, and the next reader tries again."""
    logger.error("damaged: %s (%s)", key, reason)
    if not key.startswith(MOVABLE):
        return
    folder = f"{FOLDER}/{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    try:
        if artifacts.move(key, f"{folder}/{key}"):
            artifacts.create(f"{folder}/{NOTE}", sealed({"key": key, "reason": reason, "at": now_rfc3339()}))
            logger.error("%s was moved to %s", key, folder)
    except ArtifactError as error:
        logger.warning("%s could not be moved to the quarantine: %s", key, error)


def notes(artifacts: ArtifactStore) -> list[dict[str, Any]]:
    """What is in the quarantine, oldest first: folder, key, reason and at."""
    found = []
    for name in artifacts.list_names(FOLDER):
        try:
            note = unsealed(artifacts.read(f"{FOLDER}/{name}/{NOTE}"))
        except (ArtifactError, SealBrokenError) as error:
            note = {"key": None, "reason": f"its note cannot be read: {error}", "at": None}
        found.append({"folder": f"{FOLDER}/{name}", **note})
    return found


def verified_again(artifacts: ArtifactStore, key: str, sha256: str, error: ArtifactDamaged) -> None:
    """Sets an object aside unless a second look finds it whole: a read that failed is no damage."""
    try:
        is_whole = artifacts.stored_sha256(key) == sha256
    except ArtifactError:
        return
    if not is_whole:
        set_aside(artifacts, key, str(error))
