"""Content negotiation (RFC 9110, section 12.5.1)."""

import pytest

from service.errors import Problem
from service.media import JSON, JSONL, SSE, negotiated

OFFERED = (JSON, SSE, JSONL)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/event-stream", SSE),
        ("text/*", SSE),
        ("Text/Event-Stream; q=0.5, application/jsonl; q=0.9", JSONL),
        ("application/json;q=0.1, */*;q=0.2", SSE),
        ("text/html, application/json", JSON),
        ("application/json;q=x, text/event-stream;q=0.1", SSE),
    ],
)
def test_preferred_type_is_taken(accept: str | None, expected: str) -> None:
    assert negotiated(accept, OFFERED) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*", ";;,"])
def test_nothing_acceptable_is_refused(accept: str) -> None:
    with pytest.raises(Problem) as caught:
        negotiated(accept, OFFERED)
    assert caught.value.code == "not_acceptable"
