"""What the client makes of an answer that is no stream."""

import httpx2
import pytest

from service.client_core import ApiError
from service.client_events import raise_for_stream


def test_a_service_that_reads_its_jobs_back_is_asked_again() -> None:
    with pytest.raises(httpx2.TransportError, match="the service answered 503"):
        raise_for_stream(httpx2.Response(503, json={"code": "backend_unavailable"}))


def test_a_refusal_is_final() -> None:
    with pytest.raises(ApiError, match="there is no job") as refused:
        raise_for_stream(httpx2.Response(404, json={"code": "not_found", "detail": "there is no job"}))
    assert refused.value.code == "not_found"


def test_a_stream_is_let_through() -> None:
    raise_for_stream(httpx2.Response(200))
