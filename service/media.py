"""Which representation a client wants."""

from collections.abc import Sequence

from service.errors import Problem

JSON = "application/json"
JSONL = "application/jsonl"
SSE = "text/event-stream"
NPY = "application/x-npy"
OCTETS = "application/octet-stream"
PNG = "image/png"
JPEG = "image/jpeg"
HTML = "text/html"


def negotiated(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type that an Accept header prefers (RFC 9110, section 12.5.1); the first one where it has no wish.

    Raises:
        Problem: It takes none of them.
    """
    if not accept:
        return offered[0]
    ranges = [_media_range(entry) for entry in accept.split(",")]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))  # of equal ones the first
    if _quality(best, ranges) <= 0:
        raise Problem("not_acceptable", f"Accept must allow one of {', '.join(offered)}, got {accept[:100]!r}")
    return best


def _media_range(entry: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in entry.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return media_range, float(value)
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The q of the most specific range that covers the type."""
    matches = dict(reversed(ranges))
    for media_range in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if media_range in matches:
            return matches[media_range]
    return 0.0
