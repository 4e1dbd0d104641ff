"""Idempotency-Key for objects that live in the artifact store alone: datasets and ensembles. (Jobs have theirs in Redis.)

The record of a key is a create-once object that is written after what it names. So it never points to something half-made, and of
two requests with one key that run at the same time the later one gives its own object up. A record that no longer holds, because it
is a day old or its object was deleted, is followed by one with the next number.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import Header

from service.errors import Problem
from service.validation import FieldError
from worker.artifacts import AlreadyExists, ArtifactStore
from worker.jobs import DEFAULT_TENANT, IDEMPOTENCY_SECONDS, key_sha256, now_rfc3339
from worker.records import create_document, read_document

Json = dict[str, Any]

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
    tenant: str,
    make: Callable[[], str],
    discard: Callable[[str], None],
    exists: Callable[[str], bool] = lambda _: True,
) -> Made:
    """Makes an object, or finds the one that the key made in the last 24 hours and that is still there.

    Args:
        artifacts: Where keys are recorded.
        kind: Keys of different kinds don't meet.
        key: The Idempotency-Key; None: every request makes an object.
        body_sha256: What the request asks for.
        tenant: Whose request it is; keys of different tenants don't meet.
        make: Makes the object and returns its id.
        discard: Removes an object that ``make`` made in vain.
        exists: Whether an object is still there; by default they are never deleted.

    Raises:
        Problem: The key was used with another body.
    """
    if key is None:
        return Made(make(), replayed=False)
    folder = _folder(kind, key, tenant)
    number, known = _latest(artifacts, folder, exists)
    if known is not None:
        return Made(_same_request(known, body_sha256), replayed=True)
    made = make()
    record = {"id": made, "body_sha256": body_sha256, "created_at": now_rfc3339()}
    try:
        create_document(artifacts, _record_key(folder, number + 1), record)
    except AlreadyExists:
        discard(made)
        known = read_document(artifacts, _record_key(folder, number + 1))
        assert known is not None, "a record is removed only after a later one was made"
        return Made(_same_request(known, body_sha256), replayed=True)
    artifacts.delete(_record_key(folder, number))
    return Made(made, replayed=False)


def was_made(artifacts: ArtifactStore, kind: str, key: str, *, tenant: str, exists: Callable[[str], bool]) -> bool:
    """Whether ``once`` would find the object of this key, and so make none. Arguments as there."""
    return _latest(artifacts, _folder(kind, key, tenant), exists)[1] is not None


def _folder(kind: str, key: str, tenant: str) -> str:
    return f"idempotency/{kind}/{key_sha256(key if tenant == DEFAULT_TENANT else f'{tenant} {key}')}"  # no key has a space


def _latest(artifacts: ArtifactStore, folder: str, exists: Callable[[str], bool]) -> tuple[int, Json | None]:
    """The number of the key's latest record, 0 where there is none, and the record itself where it still holds."""
    number = max((int(name.removesuffix(".json")) for name in artifacts.list_names(folder)), default=0)
    record = read_document(artifacts, _record_key(folder, number))
    if record is None:
        return number, None
    age = datetime.now(UTC) - datetime.fromisoformat(record["created_at"])
    holds = age.total_seconds() < IDEMPOTENCY_SECONDS and exists(record["id"])
    return number, record if holds else None


def _record_key(folder: str, number: int) -> str:
    return f"{folder}/{number}.json"


def _same_request(record: Json, body_sha256: str) -> str:
    """The id in a record of a request with the same body; a ``Problem`` where it had another one."""
    if record["body_sha256"] != body_sha256:
        raise Problem(
            "idempotency_mismatch",
            f"this Idempotency-Key made {record['id']} from another body: use a new key for a new object",
            errors=[FieldError("was used with another body", parameter="Idempotency-Key", hint="use a new key")],
        )
    return str(record["id"])
