"""Who may do what: one row for each route, checked before the route reads anything.

A route without a row takes an admin key, and fails a test.
"""

from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from service.errors import Problem
from service.key_ring import KeyRing
from service.media import HTML, JSON, negotiated
from service.principals import ANYONE, Principal, Scope
from service.rate_limits import RateLimits

NO_KEY = "no API key was sent"

DOOR_SAID = "door_said"
"""Name in the request's state: what the door has said already, so that a request is never counted twice."""

PUBLIC = None
"""Scope of what says nothing about anyone's objects."""

ROUTE_SCOPES: Mapping[tuple[str, str], Scope | None] = {
    ("GET", "/livez"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/problems/{code}"): PUBLIC,
    ("GET", "/assets/{name}"): PUBLIC,
    ("GET", "/metrics"): Scope.READ,
    ("GET", "/v1/capabilities"): Scope.READ,
    ("GET", "/v1/queue"): Scope.READ,
    ("POST", "/v1/schedules/preview"): Scope.READ,
    ("POST", "/v1/datasets"): Scope.TRAIN,
    ("GET", "/v1/datasets"): Scope.READ,
    ("GET", "/v1/datasets/{dataset_id}"): Scope.READ,
    ("GET", "/v1/datasets/{dataset_id}/preview"): Scope.READ,
    ("DELETE", "/v1/datasets/{dataset_id}"): Scope.TRAIN,
    ("POST", "/v1/jobs"): Scope.TRAIN,
    ("GET", "/v1/jobs"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}"): Scope.READ,
    ("DELETE", "/v1/jobs/{job_id}"): Scope.TRAIN,
    ("POST", "/v1/jobs/{job_id}/cancel"): Scope.TRAIN,
    ("POST", "/v1/jobs/{job_id}/stop"): Scope.TRAIN,
    ("POST", "/v1/jobs/{job_id}/pause"): Scope.TRAIN,
    ("POST", "/v1/jobs/{job_id}/resume"): Scope.TRAIN,
    ("POST", "/v1/jobs/{job_id}/extend"): Scope.TRAIN,
    ("GET", "/v1/jobs/{job_id}/events"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/metrics"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/result"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/snapshots"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/figures"): Scope.READ,
    ("GET", "/v1/jobs/{job_id}/figures/{name}"): Scope.READ,
    ("GET", "/v1/snapshots/{snapshot_id}"): Scope.READ,
    ("GET", "/v1/snapshots/{snapshot_id}/weights"): Scope.READ,
    ("HEAD", "/v1/snapshots/{snapshot_id}/weights"): Scope.READ,
    ("POST", "/v1/ensembles"): Scope.TRAIN,
    ("GET", "/v1/ensembles/{ensemble_id}"): Scope.READ,
    ("POST", "/v1/ensembles/{ensemble_id}/predict"): Scope.PREDICT,
    ("GET", "/v1/aliases"): Scope.READ,
    ("GET", "/v1/aliases/{name}"): Scope.READ,
    ("PUT", "/v1/aliases/{name}"): Scope.TRAIN,
    ("DELETE", "/v1/aliases/{name}"): Scope.TRAIN,
    ("GET", "/v2"): Scope.READ,
    ("GET", "/v2/health/live"): PUBLIC,
    ("GET", "/v2/health/ready"): PUBLIC,
    ("GET", "/v2/models/{ensemble_id}"): Scope.READ,
    ("GET", "/v2/models/{ensemble_id}/ready"): Scope.READ,
    ("POST", "/v2/models/{ensemble_id}/infer"): Scope.PREDICT,
    ("GET", "/v2/models/{ensemble_id}/versions/{version}"): Scope.READ,
    ("GET", "/v2/models/{ensemble_id}/versions/{version}/ready"): Scope.READ,
    ("POST", "/v2/models/{ensemble_id}/versions/{version}/infer"): Scope.PREDICT,
    ("POST", "/v1/api-keys"): Scope.ADMIN,
    ("GET", "/v1/api-keys"): Scope.ADMIN,
    ("GET", "/v1/api-keys/{key_id}"): Scope.ADMIN,
    ("DELETE", "/v1/api-keys/{key_id}"): Scope.ADMIN,
}


PAGES = frozenset({"/v1/jobs/{job_id}/figures", "/v1/jobs/{job_id}/figures/{name}"})
"""Paths with pages for browsers, which are asked for a key where they have none (service.sign_in_page)."""


class SignInNeeded(Problem):
    """A browser has asked for a page and has no key."""


class Door:
    """Whether requests need a key, which keys there are, and how often each may be used.

    Args:
        ring: The keys.
        auth: SNAPCYCLE_AUTH.
        limits: Counts the requests of each key.
    """

    def __init__(self, ring: KeyRing, *, auth: str, limits: RateLimits) -> None:
        self.ring = ring
        self._auth = auth
        self._limits = limits

    @property
    def asks_for_keys(self) -> bool:
        """Whether a request without a key is refused."""
        return self._auth == "on" or (self._auth == "auto" and self.ring.has_keys)

    def admit(self, headers: Headers, scope: Scope | None) -> tuple[Principal, dict[str, str]]:
        """The sender of a request that may go on, and what its answer says of the rate limit.

        Raises:
            Problem: It may not.
        """
        if scope is PUBLIC:
            return ANYONE, {}
        if self._auth != "off" and not self.ring.is_current:
            raise Problem("backend_unavailable", "the API keys cannot be read from the artifact store: repeat the request")
        if not self.asks_for_keys:
            return ANYONE, {}
        principal = self._authenticated(headers)
        assert principal.key_id is not None, "it has a key"
        rate_headers = self._limits.spend(principal.key_id)
        if scope not in principal.scopes:
            raise Problem(
                "forbidden",
                f"this needs a key with the scope {scope}, and key {principal.key_id} has {', '.join(sorted(principal.scopes))}: "
                "use another key, or have one made with this scope",
                headers=rate_headers,
            )
        return principal, rate_headers

    def still_admits(self, principal: Principal) -> bool:
        """Whether who was admitted would be again, as the keys are known now; costs no access to the store and no token of a rate limit."""
        if principal.key_id is None:
            return not self.asks_for_keys
        return self.ring.is_current and self.ring.is_usable(principal.key_id)

    def _authenticated(self, headers: Headers) -> Principal:
        presented = _presented_keys(headers)
        if len(presented) != 1:
            what = NO_KEY if not presented else f"{len(presented)} API keys were sent"
            raise _unauthenticated(f"{what}: send one as 'Authorization: Bearer sk_…' or as X-API-Key; `snapcycle keys create` makes one")
        verdict = self.ring.verdict(presented[0])
        if verdict.principal is None:
            raise _unauthenticated(f"the API key {verdict.reason}: use another one; `snapcycle keys create` makes one", is_wrong=True)
        return verdict.principal


def _presented_keys(headers: Headers) -> list[str]:
    """The keys of the headers, without repetitions; an Authorization of another scheme is a key that is unknown."""
    bearer = [value[7:].strip() if value[:7].lower() == "bearer " else value for value in headers.getlist("authorization")]
    return list(dict.fromkeys([*bearer, *headers.getlist("x-api-key")]))


def _unauthenticated(detail: str, *, is_wrong: bool = False) -> Problem:
    challenge = 'Bearer realm="snapcycle"' + (', error="invalid_token"' if is_wrong else "")
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": challenge})


async def authorized(request: Request) -> Principal:
    """A dependency of every route: its sender.

    Raises:
        Problem: It may not use the route.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute), "dependencies belong to routes of FastAPI"
    scope = ROUTE_SCOPES.get((request.method, route.path), Scope.ADMIN)
    said = request.scope["state"].get(DOOR_SAID)
    try:
        if isinstance(said, Problem):
            raise said
        principal, rate_headers = said or request.app.state.services.door.admit(request.headers, scope)
    except Problem as problem:
        if problem.detail.startswith(NO_KEY) and route.path in PAGES and negotiated(request.headers.get("accept"), (JSON, HTML)) == HTML:
            raise SignInNeeded(problem.code, problem.detail, headers=problem.headers) from problem
        raise
    request.state.answer_headers = rate_headers
    checked: Principal = principal
    return checked


PrincipalDep = Annotated[Principal, Depends(authorized)]
