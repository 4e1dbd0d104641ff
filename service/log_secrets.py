"""Logs without API keys: whatever a message, a URL or a trace repeats of a request, no key is written down."""

import logging
import re

from service.api_keys import KEY_PATTERN


class WithoutKeys(logging.Formatter):
    """Formats as ``formatter`` does and leaves only the public part of keys.

    Not a filter: what an exception says is only known when it is formatted.
    """

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return KEY_PATTERN.sub(_public_part, self._formatter.format(record))


def _public_part(match: re.Match[str]) -> str:
    return f"sk_{match[1]}_…"
