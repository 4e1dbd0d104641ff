"""API keys over HTTP. A tenant's admin manages its own keys, the operator's, of the tenant ``default``, those of all."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from service.api_keys import ApiKey
from service.authorization import PrincipalDep
from service.dependencies import Services, ServicesDep
from service.documents import list_bounds
from service.errors import Problem, invalid_field
from service.json_bodies import json_document, validated
from service.key_ring import KeyRing
from service.key_schemas import ApiKeyDocument, ApiKeyPage, ApiKeyRequest, NewApiKey, api_key_document
from service.openapi import json_body
from service.principals import Principal
from service.request_schemas import ApiKeyQuery
from service.validation import shown

router = APIRouter(prefix="/v1/api-keys", tags=["keys"])

MAX_USABLE_KEYS = 100
MAX_ENDED_KEYS = 100
"""Of one tenant. Keys that have ended are kept so that the list shows when they did."""


@router.post("", status_code=201, summary="Make an API key", openapi_extra=json_body(ApiKeyRequest, {"scopes": ["read", "predict"]}))
def create(
    document: Annotated[Any, Depends(json_document)], response: Response, services: ServicesDep, principal: PrincipalDep
) -> NewApiKey:
    """The key is told in this answer alone, so a request whose answer was lost is not to be repeated but its key revoked.

    With the first key that is made the service begins to ask for keys.
    """
    request = validated(ApiKeyRequest, document)
    tenant = request.tenant or principal.tenant
    if tenant != principal.tenant and not principal.manages_all_tenants:
        raise invalid_field(
            f"must be the sender's own tenant, {principal.tenant}, got {shown(tenant)}",
            pointer="#/tenant",
            hint="leave it out, or ask who runs the service",
        )
    ring = services.door.ring
    with ring.making:
        _check_number_and_tidy(ring, tenant)
        key, text = ring.store.create(scopes=request.scopes, tenant=tenant, name=request.name, expires_in_days=request.expires_in_days)
        ring.learn(key)
    response.headers["Location"] = f"/v1/api-keys/{key.id}"
    return NewApiKey(**api_key_document(key).model_dump(), key=text)


@router.get("", summary="List API keys")
def list_all(query: Annotated[ApiKeyQuery, Query()], services: ServicesDep, principal: PrincipalDep) -> ApiKeyPage:
    """Keys, the newest first, without what is secret of them."""
    seen = [key for key in services.door.ring.all_keys() if _manages(principal, key)]
    seen.sort(key=lambda key: (key.created_at, key.id), reverse=True)
    if query.after is not None:
        places = [index for index, key in enumerate(seen) if key.id == query.after]
        seen = seen[places[0] + 1 :] if places else []
    data = [api_key_document(key) for key in seen[: query.limit]]
    return ApiKeyPage(data=data, has_more=len(seen) > query.limit, **list_bounds(key.id for key in data))


@router.get("/{key_id}", summary="Get an API key")
def get_one(key_id: str, services: ServicesDep, principal: PrincipalDep) -> ApiKeyDocument:
    """What is known of a key."""
    return api_key_document(_existing(services, principal, key_id))


@router.delete("/{key_id}", summary="Revoke an API key")
def revoke(key_id: str, services: ServicesDep, principal: PrincipalDep) -> ApiKeyDocument:
    """Ends a key for good. Repeating it changes nothing; it stays in the list until 100 later ones of its tenant have ended."""
    ring = services.door.ring
    _existing(services, principal, key_id)
    key = ring.store.revoke(key_id)
    if key is None:  # it had ended long ago, and was removed a moment ago
        raise _unknown(key_id)
    ring.learn(key)
    return api_key_document(key)


def _manages(principal: Principal, key: ApiKey) -> bool:
    return principal.manages_all_tenants or key.tenant == principal.tenant


def _existing(services: Services, principal: Principal, key_id: str) -> ApiKey:
    key = services.door.ring.store.read(key_id)
    if key is None or not _manages(principal, key):
        raise _unknown(key_id)
    return key


def _unknown(key_id: str) -> Problem:
    return Problem("not_found", f"there is no API key {key_id[:64]!r}: GET /v1/api-keys lists them")


def _check_number_and_tidy(ring: KeyRing, tenant: str) -> None:
    """Returns if the tenant may have one more key; of its keys that have ended, only the last ones are kept.

    Some are always kept: with no object of any key, a service that starts again on loopback would ask for none.

    Raises:
        Problem: It has as many usable keys as one may have.
    """
    keys = [key for key in ring.all_keys() if key.tenant == tenant]
    ended = sorted((key for key in keys if key.why_unusable_now() is not None), key=lambda key: key.ended_at)
    usable = len(keys) - len(ended)
    if usable >= MAX_USABLE_KEYS:
        detail = f"tenant {tenant} has {usable} API keys that can be used, and a tenant may have at most {MAX_USABLE_KEYS}: "
        extra = {"usable_keys": usable, "limit_usable_keys": MAX_USABLE_KEYS}
        raise Problem("quota_exceeded", f"{detail}revoke those that are not needed", extra=extra)
    for key in ended[:-MAX_ENDED_KEYS]:
        ring.store.forget(key.id)
