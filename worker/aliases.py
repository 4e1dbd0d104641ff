"""Names for ensembles that can be pointed at another one at any moment, and back.

Each change is a create-once object with the next number, so a swap is atomic, earlier ones are there to roll back to, and a database
that is lost takes nothing along. Each is written twice: a damaged or lost newest one must not bring back the one before unasked.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactStore
from worker.jobs import now_rfc3339
from worker.records import alias_key, alias_prefix, create_document, read_document

Json = dict[str, Any]

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
"""Lower case, so that no alias looks like an id."""

KEPT_VERSIONS = 20
_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(r"(\d+)(?:\.twin)?\.json")


@dataclass(frozen=True)
class Alias:
    """Where a name points.

    Attributes:
        ensemble_id: The ensemble that it stands for.
        version: Counts the changes, from 1.
        changed_at: When it was pointed there.
        earlier: Where it pointed before, the latest first: ensemble_id, version and changed_at each.
    """

    tenant: str
    name: str
    ensemble_id: str
    version: int
    changed_at: str
    earlier: tuple[Json, ...] = ()


def is_alias(text: str) -> bool:
    """Whether the text has the form of an alias."""
    return _NAME.fullmatch(text) is not None


def point_alias(artifacts: ArtifactStore, tenant: str, name: str, ensemble_id: str | None) -> int:
    """Points a name at an ensemble, or at none any more, and returns the change's number. Of two at a time the later number holds."""
    numbers = _numbers(artifacts, tenant, name)
    number = max(numbers, default=0)
    document = {"tenant": tenant, "name": name, "ensemble_id": ensemble_id, "changed_at": now_rfc3339()}
    while True:
        number += 1
        try:
            create_document(artifacts, alias_key(tenant, name, number), {**document, "version": number})
        except AlreadyExists:
            continue
        with suppress(AlreadyExists):
            create_document(artifacts, alias_key(tenant, name, number, is_twin=True), {**document, "version": number})
        for old in numbers[:-KEPT_VERSIONS]:
            for is_twin in (False, True):
                artifacts.delete(alias_key(tenant, name, old, is_twin=is_twin))
        return number


def ensemble_of(artifacts: ArtifactStore, tenant: str, name: str) -> str | None:
    """The ensemble that a name stands for; None where there is no such alias.

    Raises:
        ArtifactDamaged: Both copies of the latest change are.
    """
    numbers = _numbers(artifacts, tenant, name)
    if not numbers:
        return None
    ensemble_id: str | None = _change(artifacts, tenant, name, numbers[-1])["ensemble_id"]
    return ensemble_id


def find_alias(artifacts: ArtifactStore, tenant: str, name: str) -> Alias | None:
    """An alias with its earlier targets; None where there is none of this name.

    Raises:
        ArtifactDamaged: Both copies of the latest change are.
    """
    numbers = _numbers(artifacts, tenant, name)
    if not numbers:
        return None
    latest = _change(artifacts, tenant, name, numbers[-1])
    if latest["ensemble_id"] is None:
        return None
    earlier = []
    for number in reversed(numbers[:-1]):
        with suppress(ArtifactDamaged):
            change = _change(artifacts, tenant, name, number)
            earlier.append({part: change[part] for part in ("ensemble_id", "version", "changed_at")})
    return Alias(tenant, name, latest["ensemble_id"], latest["version"], latest["changed_at"], tuple(earlier))


def list_aliases(artifacts: ArtifactStore, tenant: str) -> list[Alias]:
    """A tenant's aliases by name; one that is damaged beyond use is left out."""
    found = []
    for name in artifacts.list_names(f"aliases/{tenant}"):
        with suppress(ArtifactDamaged):
            found.append(find_alias(artifacts, tenant, name))
    return [alias for alias in found if alias is not None]


def _numbers(artifacts: ArtifactStore, tenant: str, name: str) -> list[int]:
    if not is_alias(name):
        return []
    matches = map(_VERSION.fullmatch, artifacts.list_names(alias_prefix(tenant, name)))
    return sorted({int(match[1]) for match in matches if match})


def _change(artifacts: ArtifactStore, tenant: str, name: str, number: int) -> Json:
    """One change, from either copy."""
    for is_twin in (False, True):
        with suppress(ArtifactDamaged):
            document = read_document(artifacts, alias_key(tenant, name, number, is_twin=is_twin))
            if document is not None:
                return document
    raise ArtifactDamaged(f"change {number} of alias {name!r} is lost: PUT /v1/aliases/{name} again")
