"""Query parameters that a route does not declare are refused, never ignored: a mistyped one would change the answer in silence."""

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.errors import invalid
from service.validation import MAX_ERRORS, FieldError, shown, similar


async def refuse_undeclared_parameters(request: Request) -> None:
    """A dependency of every route.

    Raises:
        Problem: The request has a parameter that its route does not declare.
    """
    if not request.query_params:
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute), "dependencies belong to routes of FastAPI"
    known = _declared(route)
    listed = f"use one of: {', '.join(known)}" if known else "this path takes none"
    errors = [
        FieldError(f"unknown parameter {shown(name)}", parameter=name, hint=f"remove it; {listed}", did_you_mean=similar(name, known))
        for name in request.query_params
        if name not in known
    ]
    if errors:
        raise invalid(errors[:MAX_ERRORS])


def _declared(route: APIRoute) -> list[str]:
    """The names of a route's query parameters; each route has them in one model, or has none."""
    names: list[str] = []
    for parameter in route.dependant.query_params:
        model = parameter.field_info.annotation
        assert isinstance(model, type), "query parameters are declared as one model"
        assert issubclass(model, BaseModel), "query parameters are declared as one model"
        names += model.model_fields
    return names
