"""Documents as JSON can hold them."""

import math
from typing import Any


def finite_document(value: object) -> Any:
    """The same with lists for tuples, and None for numbers that JSON does not have."""
    match value:
        case dict():
            return {key: finite_document(entry) for key, entry in value.items()}
        case list() | tuple():
            return [finite_document(entry) for entry in value]
        case float() if not math.isfinite(value):
            return None
    return value
