"""Idempotency-Key for objects that live in the artifact store alone: datasets and ensembles. (Jobs have theirs in Redis.)

The record of a key is a create-once object that is written after what it names. So it never points to something half-made, and of
two requests with one key that run at the same time the later one gives its own object up.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Header

from service.errors import Problem
from service.validation import FieldError
from worker.artifacts import AlreadyExists, ArtifactMissing, ArtifactStore

KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="Makes the request safe to repeat: the same key and body have one effect. Up to 255 visible ASCII characters.",
    ),
]


@dataclass(frozen=True)
class Made:
    """The id of an object, and whether an earlier request with the same key had made it."""

    id: str
    replayed: bool


def body_hash(document: Any) -> str:
    """The same for equal documents, however they were written."""
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def once(
    artifacts: ArtifactStore,
    kind: str,
    key: str | None,
    body_sha256: str,
    *,
    make: Callable[[], str],
    discard: Callable[[str], None],
) -> Made:
    """Makes an object, or finds the one that the key made before.

    Args:
        artifacts: Where keys are recorded.
        kind: Keys of different kinds don't meet.
        key: The Idempotency-Key; None: every request makes an object.
        body_sha256: What the request asks for.
        make: Makes the object and returns its id.
        discard: Removes an object that ``make`` made in vain.

    Raises:
        Problem: The key was used with another body.
    """
    if key is None:
        return Made(make(), replayed=False)
    record = f"idempotency/{kind}/{hashlib.sha256(key.encode()).hexdigest()}.json"
    if (known := _recorded(artifacts, record, body_sha256)) is not None:
        return Made(known, replayed=True)
    made = make()
    try:
        artifacts.create(record, orjson.dumps({"id": made, "body_sha256": body_sha256}))
    except AlreadyExists:
        discard(made)
        known = _recorded(artifacts, record, body_sha256)
        assert known is not None, "records are never removed"
        return Made(known, replayed=True)
    return Made(made, replayed=False)


def _recorded(artifacts: ArtifactStore, record: str, body_sha256: str) -> str | None:
    try:
        known = orjson.loads(artifacts.read(record))
    except ArtifactMissing:
        return None
    if known["body_sha256"] != body_sha256:
        raise Problem(
            "idempotency_mismatch",
            f"this Idempotency-Key made {known['id']} from another body: use a new key for a new object",
            errors=[FieldError("was used with another body", parameter="Idempotency-Key", hint="use a new key")],
        )
    return str(known["id"])
