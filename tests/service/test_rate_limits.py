"""How often a key may be used."""

from collections.abc import Iterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Problem
from service.principals import Scope
from service.rate_limits import RateLimits
from tests.service.conftest import Server, make_settings, problem
from worker.valkey_server import ValkeyServer


class Clock:
    """Goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def admitted(limits: RateLimits, name: str = "key") -> bool:
    try:
        limits.spend(name)
    except Problem:
        return False
    return True


def test_a_burst_is_admitted_then_the_rate() -> None:
    clock = Clock()
    limits = RateLimits(rate=2.0, burst=3, clock=clock)
    assert [admitted(limits) for _ in range(4)] == [True, True, True, False]
    clock.now = 0.5
    assert [admitted(limits) for _ in range(2)] == [True, False]
    clock.now = 100.0
    assert [admitted(limits) for _ in range(4)] == [True, True, True, False]
    assert admitted(limits, "another key")


def test_the_headers_say_what_is_left_and_when_to_come_back() -> None:
    limits = RateLimits(rate=0.25, burst=2, clock=Clock())
    assert limits.spend("key") == {"RateLimit-Policy": '"key";q=2;w=8', "RateLimit": '"key";r=1;t=0'}
    assert limits.spend("key")["RateLimit"] == '"key";r=0;t=4'
    with pytest.raises(Problem) as refused:
        limits.spend("key")
    assert refused.value.headers["Retry-After"] == "4"


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 20), st.integers(1, 10))
def test_never_more_than_burst_and_rate_allow(pauses: list[float], rate: float, burst: int) -> None:
    clock = Clock()
    limits = RateLimits(rate=rate, burst=burst, clock=clock)
    count = 0
    for pause in pauses:
        clock.now += pause
        count += admitted(limits)
    assert count <= burst + rate * clock.now + 1e-6


@pytest.fixture(scope="module")
def slow(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that takes three requests of a key, and then one in a hundred seconds."""
    directory = tmp_path_factory.mktemp("slow")
    with Server(make_settings(valkey, directory, auth="on", rate_limit=0.01, rate_burst=3)) as running:
        yield running


def test_a_key_that_sends_too_much_is_told_to_wait_and_others_go_on(slow: Server) -> None:
    ring = slow.services.door.ring
    keys = [ring.store.create(scopes=[Scope.READ], tenant="a", name=None, expires_in_days=None)[1] for _ in range(2)]
    ring.refresh()
    with httpx2.Client(base_url=slow.url, trust_env=False) as api:
        answers = [api.get("/v1/jobs", headers={"X-API-Key": keys[0]}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
        document = problem(answers[3], 429, "rate_limited")
        assert document["retryable"] is True
        assert 90 <= int(answers[3].headers["retry-after"]) <= 100
        assert api.get("/v1/jobs", headers={"X-API-Key": keys[1]}).status_code == 200
        assert api.get("/livez", headers={"X-API-Key": keys[0]}).status_code == 200
