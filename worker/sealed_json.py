"""JSON documents that carry their own checksum, so that a damaged one is told from a true one.

The checksum is the first member, ``document_sha256``: the SHA-256 of the bytes that the document has without it. Documents of
versions that knew no checksum are taken as they are.
"""

import hashlib
from typing import Any

import orjson

MEMBER = "document_sha256"
_HEAD = f'{{"{MEMBER}":"'.encode()
_HEX_CHARS = 64
_BODY_AT = len(_HEAD) + _HEX_CHARS + 1


class SealBrokenError(ValueError):
    """The bytes are no document, or not those that were sealed."""


def sealed(document: dict[str, Any]) -> bytes:
    """The document as JSON with its checksum; equal documents give equal bytes."""
    body = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + b'"' + (b"," + body[1:] if document else b"}")


def unsealed(content: bytes) -> dict[str, Any]:
    """The document in the bytes that ``sealed`` gave, or an earlier version wrote.

    Raises:
        SealBrokenError: They are others.
    """
    if not _seems_sealed(content):
        return _parsed(content)
    if not content.startswith(_HEAD) or len(content) <= _BODY_AT:
        raise SealBrokenError(f"it does not begin with its checksum, {MEMBER}")
    rest = content[_BODY_AT:]
    body = b"{" + (rest[1:] if rest.startswith(b",") else rest)
    found, expected = hashlib.sha256(body).hexdigest(), content[len(_HEAD) : len(_HEAD) + _HEX_CHARS].decode("ascii", "replace")
    if found != expected or content[_BODY_AT - 1 : _BODY_AT] != b'"':
        raise SealBrokenError(f"it has sha256 {found} instead of {expected}")
    return _parsed(body)


def _seems_sealed(content: bytes) -> bool:
    """Whether the bytes begin as a sealed document does, or nearly so: then the beginning itself is damaged."""
    return 2 * sum(found == expected for found, expected in zip(content, _HEAD, strict=False)) >= min(len(content), len(_HEAD))


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise SealBrokenError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise SealBrokenError(f"it is not a JSON object, but a {type(document).__name__}")
    return document
