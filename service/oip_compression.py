"""Compressed bodies of inferences, unpacked within the limit that a body has anyway."""

import zlib

from service.errors import Problem

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""How zlib is told the format around the data: gzip's, or its own, which HTTP calls deflate (RFC 9110, section 8.4.1)."""


def unpacked(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The content of a body that was compressed as ``encoding`` says.

    Raises:
        Problem: It breaks the format, is cut off, or holds more than ``limit`` bytes.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Problem("malformed_body", f"the body is not {encoding}, as Content-Encoding says ({error}): compress it again") from None
    if len(content) > limit:
        detail = f"the body may have at most {limit} bytes once it is unpacked, got more: send less"
        raise Problem("too_large", detail, extra={"limit_bytes": limit})
    if not stream.eof:
        raise Problem("malformed_body", f"the {encoding} body is cut off after {len(content)} bytes of content: send all of it")
    if stream.unused_data:
        raise Problem("malformed_body", f"{len(stream.unused_data)} bytes follow the end of the {encoding} body: send one stream")
    return content
