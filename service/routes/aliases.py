"""Aliases: names for ensembles that can be swapped under their users."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from service.dependencies import ServicesDep, StoreDep
from service.documents import list_bounds
from service.errors import Problem, invalid_field
from service.json_bodies import json_document, validated
from service.openapi import json_body
from service.request_schemas import AliasRequest
from service.schemas import Alias, AliasPage
from service.validation import shown
from worker import aliases
from worker.artifacts import ArtifactDamaged
from worker.ids import is_id

router = APIRouter(prefix="/v1/aliases", tags=["aliases"])


@router.put(
    "/{name}",
    summary="Point an alias at an ensemble",
    openapi_extra=json_body(AliasRequest, {"ensemble_id": "ens_01JDEADBEEF0000000000000000"}),
)
def put(name: str, document: Annotated[Any, Depends(json_document)], services: ServicesDep, store: StoreDep) -> Alias:
    """From the next prediction on the name stands for this ensemble. Pointing it where it points changes nothing."""
    request = validated(AliasRequest, document)
    if not aliases.is_alias(name):
        raise invalid_field(
            f"must be 1 to 64 of a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends, got {shown(name)}", parameter="name"
        )
    if not is_id("ens", request.ensemble_id):
        raise invalid_field(f"must be the id of an ensemble, got {shown(request.ensemble_id)}", pointer="#/ensemble_id")
    store.check_complete()
    try:
        services.ensembles.find(request.ensemble_id)  # it exists, and can answer
    except Problem as problem:
        raise invalid_field(problem.detail, pointer="#/ensemble_id") from problem
    try:
        is_there = aliases.ensemble_of(services.artifacts, services.tenant, name) == request.ensemble_id
    except ArtifactDamaged:  # this change mends it
        is_there = False
    if not is_there:
        aliases.point_alias(services.artifacts, services.tenant, name, request.ensemble_id)
    return _existing(services, name)


@router.get("", summary="List aliases")
def list_all(services: ServicesDep) -> AliasPage:
    """All aliases, by name."""
    data = [alias_document(alias) for alias in aliases.list_aliases(services.artifacts, services.tenant)]
    return AliasPage(data=data, has_more=False, **list_bounds(alias.name for alias in data))


@router.get("/{name}", summary="Get an alias")
def get_one(name: str, services: ServicesDep) -> Alias:
    """Where a name points, and where it pointed before: to roll back, PUT an earlier ensemble_id."""
    return _existing(services, name)


@router.delete("/{name}", status_code=204, summary="Delete an alias")
def delete(name: str, services: ServicesDep) -> Response:
    """The name stands for nothing any more; the ensemble stays."""
    _existing(services, name)
    aliases.point_alias(services.artifacts, services.tenant, name, None)
    return Response(status_code=204)


def alias_document(alias: aliases.Alias) -> Alias:
    """An alias as it is sent."""
    return Alias(
        name=alias.name,
        ensemble_id=alias.ensemble_id,
        version=alias.version,
        changed_at=alias.changed_at,
        earlier=list(alias.earlier),
        links={"self": f"/v1/aliases/{alias.name}", "ensemble": f"/v1/ensembles/{alias.ensemble_id}"},
    )


def _existing(services: ServicesDep, name: str) -> Alias:
    alias = aliases.find_alias(services.artifacts, services.tenant, name)
    if alias is None:
        raise Problem("not_found", f"there is no alias {name[:64]!r}: GET /v1/aliases lists them")
    return alias_document(alias)
