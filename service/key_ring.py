"""The API keys as one process knows them: all in memory, so that an unknown id costs the work of a known one and no access to the store."""

import hmac
import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from service.api_keys import ApiKey, KeyListing, KeyStore
from service.principals import Principal
from worker.artifacts import ArtifactError

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
"""How often the store is asked for new keys and revocations."""

STALE_SECONDS = 30.0
"""After so long without an answer of the store no key is trusted any more: it may have been revoked."""


NO_HMAC = "0" * 64
"""Stands in the comparison where there is no key."""


@dataclass(frozen=True)
class Verdict:
    """What a presented key is worth: a principal, or the reason why it opens nothing, told only to who has the whole key."""

    principal: Principal | None
    reason: str = "is unknown"


class KeyRing:
    """All keys in memory, as they were at most ``STALE_SECONDS`` ago; normally one second.

    A key that was there once stays known as the reason to ask for keys: deleting all of them from the store doesn't open the door.

    Attributes:
        making: To be held by who counts keys and makes one more.
    """

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self._listing = KeyListing()
        self._by_hmac: dict[str, ApiKey] = {}
        self._read_at: float | None = None
        self._has_seen_keys = False
        self._lock = threading.Lock()
        self.making = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="key-ring", daemon=True)

    def start(self) -> None:
        """Reads the keys, and goes on to look for changes. A store that is away is asked again: until then nobody gets in."""
        self.try_refresh()
        self._thread.start()

    def close(self) -> None:
        """Ends the watch."""
        self._closing.set()
        self._thread.join()

    def refresh(self) -> None:
        """Reads what is new in the store.

        Raises:
            ArtifactError: It is away.
        """
        with self._lock:
            began = time.monotonic()
            before, now = self._listing, self.store.look(self._listing)
            if now is not before:
                for key_id in now.keys.keys() - before.keys.keys():
                    if not self.store.is_of_this_pepper(now.keys[key_id]):
                        logger.warning("API key %s was made with another pepper and opens nothing: give all processes the same one", key_id)
                self._by_hmac = {key.hmac_sha256: key for key in now.keys.values()}
            self._listing = now
            self._has_seen_keys = self._has_seen_keys or bool(now.keys)
            self._read_at = began

    def learn(self, key: ApiKey) -> None:
        """Takes over what this process has itself made of a key, without asking the store for those of others."""
        with self._lock:
            known = self._listing
            self._listing = replace(known, keys={**known.keys, key.id: key}, unsettled=known.unsettled | {key.id})
            self._by_hmac[key.hmac_sha256] = key
            self._has_seen_keys = True

    def all_keys(self) -> list[ApiKey]:
        """All keys that the store has now. Raises ``ArtifactError`` as ``refresh``."""
        self.refresh()
        return list(self._listing.keys.values())

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made, also one that has been revoked or has expired."""
        return self._has_seen_keys

    @property
    def was_read(self) -> bool:
        """Whether the store has answered at all: before that it is not known whether there are keys."""
        return self._read_at is not None

    @property
    def is_current(self) -> bool:
        """Whether the store has been read recently enough to be trusted."""
        return self._read_at is not None and time.monotonic() - self._read_at < STALE_SECONDS

    def verdict(self, text: str) -> Verdict:
        """What a presented key is worth.

        It is looked for by its HMAC and not by its id, so a known id with a wrong secret is the same work as an unknown one.
        """
        digest = self.store.digest(text)
        key = self._by_hmac.get(digest)
        if not hmac.compare_digest(digest, key.hmac_sha256 if key else NO_HMAC) or key is None:
            return Verdict(None)
        reason = key.why_unusable(datetime.now(UTC))
        return Verdict(key.principal) if reason is None else Verdict(None, reason)

    def is_usable(self, key_id: str) -> bool:
        """Whether a key of this id is known that opens something."""
        key = self._listing.keys.get(key_id)
        return key is not None and key.why_unusable_now() is None

    def _watch(self) -> None:
        while not self._closing.wait(REFRESH_SECONDS):
            self.try_refresh()

    def try_refresh(self) -> None:
        """As ``refresh``; a store that is away is asked again in a second."""
        was_current = self.is_current
        try:
            self.refresh()
        except ArtifactError as error:
            if was_current:
                logger.warning("API keys cannot be read, those known remain valid for %.0f s: %s", STALE_SECONDS, error)
