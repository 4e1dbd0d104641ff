"""API keys: made once, shown once, kept as a peppered HMAC in the artifact store, where they outlive every loss of Redis.

``keys/<id>.json`` is created once and never changes. A revocation puts ``keys/<id>.revoked.json`` and its twin in its place: as long as
one of the two is there the key is known as revoked, and when both are lost it is unknown. The pepper stands outside of the store, so who
reads the store can neither use a key nor check a guess.

Exceptions: ``PepperError``.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service.principals import Principal, Scope
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactError, ArtifactStore
from worker.ids import ALPHABET
from worker.jobs import now_rfc3339, rfc3339
from worker.records import create_document, read_document, write_document
from worker.settings import Settings

logger = logging.getLogger(__name__)

FOLDER = "keys"
REVOCATIONS = (".revoked.json", ".revoked.twin.json")
"""Ends of the names of the two objects that take the place of a key's own; each has what is kept of the key."""

ID_CHARS = 8
SECRET_BYTES = 32
PEPPER_BYTES = 32
MIN_PEPPER_CHARS = 16

KEY_PATTERN = re.compile(rf"sk_([{ALPHABET.lower()}]{{{ID_CHARS}}})_([A-Za-z0-9_-]{{43}})")
ID_PATTERN = re.compile(rf"[{ALPHABET.lower()}]{{{ID_CHARS}}}")


class PepperError(ValueError):
    """The secret that keys are hashed with is missing or unusable."""


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        hmac_sha256: Of the whole key under the pepper, in hexadecimal digits.
        pepper: The pepper's fingerprint: a key that was made with another one can never match.
    """

    id: str
    name: str | None
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: str
    expires_at: str | None
    hmac_sha256: str
    pepper: str
    revoked_at: str | None = None

    def why_unusable(self, now: datetime) -> str | None:
        """Why the key opens nothing any more; None where it does."""
        if self.revoked_at is not None:
            return f"was revoked at {self.revoked_at}"
        if self.expires_at is not None and datetime.fromisoformat(self.expires_at) <= now:
            return f"expired at {self.expires_at}"
        return None

    @property
    def ended_at(self) -> str:
        """When it was revoked, else when it expires; empty: never."""
        return self.revoked_at or self.expires_at or ""

    def why_unusable_now(self) -> str | None:
        """As ``why_unusable``, at this moment."""
        return self.why_unusable(datetime.now(UTC))

    @property
    def principal(self) -> Principal:
        """Who sends a request with this key."""
        return Principal(self.tenant, frozenset(self.scopes), self.id)


def read_pepper(data_dir: Path, given: str | None) -> bytes:
    """The secret that keys are hashed with: SNAPCYCLE_KEY_PEPPER, else DATA_DIR/key_pepper, which is made where it isn't there.

    Raises:
        PepperError: It is too short, or the file cannot be read or made.
    """
    if given is not None:
        if len(given) < MIN_PEPPER_CHARS:
            raise PepperError(f"SNAPCYCLE_KEY_PEPPER must have at least {MIN_PEPPER_CHARS} characters, got {len(given)}: make it random")
        return given.encode()
    path = data_dir / "key_pepper"
    try:
        if not path.exists():
            _make_pepper(path)
        content = path.read_bytes()
    except OSError as error:
        raise PepperError(
            f"{path} cannot be used ({error.strerror}): make it readable and writable, or set SNAPCYCLE_KEY_PEPPER"
        ) from error
    if len(content) != PEPPER_BYTES:
        raise PepperError(f"{path} must have {PEPPER_BYTES} bytes, got {len(content)}: restore it, or delete it and make new keys")
    return content


def _make_pepper(path: Path) -> None:
    """Appears as a whole or not at all; of two processes that make it one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(PEPPER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        draft.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class KeyListing:
    """All keys at one moment.

    Attributes:
        names: The objects that they were read from.
        keys: By id.
        unsettled: Ids to be looked at again although nothing came or went: what could not be read, and half a revocation.
    """

    names: frozenset[str] = frozenset()
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    unsettled: frozenset[str] = frozenset()


class KeyStore:
    """The keys in an artifact store, under one pepper."""

    @classmethod
    def open(cls, settings: Settings, artifacts: ArtifactStore) -> "KeyStore":
        """The keys of these settings.

        Raises:
            PepperError: As ``read_pepper``.
        """
        pepper = settings.key_pepper
        return cls(artifacts, read_pepper(settings.data_dir, pepper.get_secret_value() if pepper else None))

    def __init__(self, artifacts: ArtifactStore, pepper: bytes) -> None:
        self._artifacts = artifacts
        self._pepper = pepper
        self._fingerprint = self.digest("fingerprint")[:16]

    def create(self, *, scopes: Iterable[Scope], tenant: str, name: str | None, expires_in_days: float | None) -> tuple[ApiKey, str]:
        """Makes a key; returns what is kept of it, and the key itself, which is nowhere else."""
        expires = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
        while True:
            key_id = "".join(secrets.choice(ALPHABET.lower()) for _ in range(ID_CHARS))
            text = f"sk_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
            key = ApiKey(
                id=key_id,
                name=name,
                tenant=tenant,
                scopes=tuple(scope for scope in Scope if scope in set(scopes)),
                created_at=now_rfc3339(),
                expires_at=None if expires is None else rfc3339(int(expires.timestamp() * 1000)),
                hmac_sha256=self.digest(text),
                pepper=self._fingerprint,
            )
            document = {name: value for name, value in vars(key).items() if name != "revoked_at"}
            try:
                create_document(self._artifacts, f"{FOLDER}/{key_id}.json", document)
            except AlreadyExists:
                continue
            return key, text

    def read(self, key_id: str) -> ApiKey | None:
        """What is kept of a key; None where there is none of this id."""
        if ID_PATTERN.fullmatch(key_id) is None:
            return None
        revocations = [self._revocation(key_id, end) for end in REVOCATIONS]
        ends = [each for each in revocations if each is not None]
        document = read_document(self._artifacts, f"{FOLDER}/{key_id}.json") or next((each for each in ends if "hmac_sha256" in each), None)
        if document is None:
            return None
        return _api_key(document, next((_moment(each) for each in ends if _moment(each)), "an unknown time") if ends else None)

    def read_all(self) -> dict[str, ApiKey]:
        """All keys by id."""
        return dict(self.look(KeyListing()).keys)

    def look(self, before: KeyListing) -> KeyListing:
        """All keys, of which only those are read whose objects came or went since ``before``: no object ever changes.

        A damaged key opens nothing and hurts no other one. A revocation that was interrupted is completed.
        """
        names = frozenset(self._artifacts.list_names(FOLDER))
        changed = {name.partition(".")[0] for name in names ^ before.names} | before.unsettled
        if not changed:
            return before
        found = dict(before.keys)
        unsettled = set()
        for key_id in sorted(changed):
            known = found.pop(key_id, None)
            is_whole = f"{key_id}.json" in names
            is_revoked = any(key_id + end in names for end in REVOCATIONS)
            if ID_PATTERN.fullmatch(key_id) is None or not (is_whole or is_revoked):
                continue
            is_as_known = known is not None and (known.revoked_at is not None or (is_whole and not is_revoked))
            key = known if is_as_known else self._read_sound(key_id)
            if key is not None:
                found[key_id] = key
            if key is None or (is_revoked and is_whole and not self._bury(key)):
                unsettled.add(key_id)
        return KeyListing(names, found, frozenset(unsettled))

    def revoke(self, key_id: str) -> ApiKey | None:
        """Ends a key; repeating it changes nothing. None where there is none of this id."""
        key = self.read(key_id)
        if key is None:
            return None
        revoked = key if key.revoked_at is not None else replace(key, revoked_at=now_rfc3339())
        with suppress(AlreadyExists):  # someone else was faster, and says when
            write_document(self._artifacts, f"{FOLDER}/{key_id}{REVOCATIONS[0]}", vars(revoked))
        revoked = self.read(key_id) or revoked
        with suppress(AlreadyExists):
            write_document(self._artifacts, f"{FOLDER}/{key_id}{REVOCATIONS[1]}", vars(revoked))
        self._artifacts.delete(f"{FOLDER}/{key_id}.json")  # what is not there comes to life by no other loss
        return revoked

    def forget(self, key_id: str) -> None:
        """Removes all that is kept of a key: first what could open something."""
        for end in (".json", *REVOCATIONS):
            self._artifacts.delete(f"{FOLDER}/{key_id}{end}")

    def _bury(self, key: ApiKey) -> bool:
        """Completes a revocation; False where the store lacks the room, and is to be asked again the next time."""
        try:
            self.revoke(key.id)
        except (ArtifactError, KeyError, TypeError, ValueError) as error:  # also a document that came back, and is no key's
            logger.warning("the revocation of API key %s is not complete yet: %s", key.id, error)
            return False
        return True

    def _read_sound(self, key_id: str) -> ApiKey | None:
        """As ``read``; None where there is nothing sound."""
        try:
            return self.read(key_id)
        except (ArtifactDamaged, KeyError, TypeError, ValueError) as error:
            logger.error("API key %s cannot be read and opens nothing: %s", key_id, error)  # noqa: TRY400  (no trace needed)
            return None

    def digest(self, text: str) -> str:
        """What would be kept of a key of this text: its HMAC under the pepper, in hexadecimal digits."""
        return hmac.new(self._pepper, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def is_of_this_pepper(self, key: ApiKey) -> bool:
        """Whether the key was made with the pepper that is in use."""
        return key.pepper == self._fingerprint

    def _revocation(self, key_id: str, end: str) -> dict[str, Any] | None:
        """A revocation; a damaged one revokes too, and says nothing else."""
        try:
            return read_document(self._artifacts, f"{FOLDER}/{key_id}{end}")
        except ArtifactDamaged:
            return {}


def _moment(revocation: dict[str, Any]) -> str | None:
    """When it was; "at" is the word of an earlier version, whose revocations said nothing else."""
    moment: str | None = revocation.get("revoked_at") or revocation.get("at")
    return moment


def _api_key(document: dict[str, Any], revoked_at: str | None) -> ApiKey:
    scopes = tuple(Scope(scope) for scope in document["scopes"])
    return ApiKey(**{**document, "scopes": scopes, "revoked_at": revoked_at})
