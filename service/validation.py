"""Turns pydantic's findings into entries that name the place as the user wrote it, what was expected and what to do.

Pydantic puts the tag of a union's member into an error's location (``schedule.warm_restarts.max_lr``), where no such key is in
the body. The location is therefore walked along the types, which also finds the field's description for the hint.
"""

import difflib
import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_SUBJECT = re.compile(r"^\w+ should")
"""How pydantic begins: ``Input should be …``, ``String should have …``."""

MAX_POINTER_CHARACTERS = 1000
"""A name that the API doesn't know can be as long as the body."""

MAX_ERRORS = 50
"""Errors listed in one answer; who has more has sent something else altogether."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class FieldError:
    """One wrong place: a JSON pointer into the body, or the name of a query parameter or header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    hint: str | None = None
    did_you_mean: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The entry as it is sent: members without a value are left out."""
        members = {
            "pointer": self.pointer and self.pointer[:MAX_POINTER_CHARACTERS],
            "parameter": self.parameter,
            "detail": self.detail,
            "hint": self.hint,
            "did_you_mean": list(self.did_you_mean),
        }
        return {name: value for name, value in members.items() if value}


@dataclass(frozen=True)
class Place:
    """Where an error is: its path in the body, the model that owns the last name, and that field where it is known."""

    path: tuple[str | int, ...]
    owner: type[BaseModel] | None
    field: FieldInfo | None


def shown(value: object) -> str:
    """A short text of a user's value, safe to send back."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError):  # also integers of more than 4,300 digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def pointer_to(path: Iterable[str | int]) -> str:
    """The RFC 6901 pointer, as a URI fragment, of a path in a JSON document."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def similar(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three known names that a mistyped one may stand for, the likeliest first."""
    return tuple(difflib.get_close_matches(name, list(known), n=3, cutoff=0.6))


def body_errors(model: type[BaseModel], error: ValidationError) -> list[FieldError]:
    """The entries for a body that was validated as ``model``; several findings at one place become one entry."""
    found: dict[str, list[FieldError]] = {}
    for item in error.errors(include_url=False):
        entry = _body_error(locate(model, item["loc"]), item)
        found.setdefault(entry.pointer or "#", []).append(entry)
        if len(found) > MAX_ERRORS:
            break
    return [_merged(entries) for entries in found.values()][:MAX_ERRORS]


def parameter_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """The entries for query parameters, path parameters and headers that FastAPI found wrong."""
    return [
        FieldError(_expectation(item), parameter=str(item["loc"][-1]), hint=_choices(item), did_you_mean=_suggestions(item))
        for item in errors[:MAX_ERRORS]
    ]


def locate(model: type[BaseModel], location: Sequence[str | int]) -> Place:
    """Follows an error's location along the types of ``model``, dropping the labels of union members."""
    annotation: Any = model
    path: list[str | int] = []
    owner: type[BaseModel] | None = None
    field: FieldInfo | None = None
    for part in location:
        annotation = _without_none(annotation)
        if isinstance(annotation, tuple):
            member = _member(annotation, field, part)
            if member is None:
                break  # members told apart by trial: the rest of the location is their labels
            annotation = member
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            path.append(part)
            owner, field = annotation, annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        elif get_origin(annotation) in (tuple, list, dict) and part != "[key]":
            path.append(part)
            owner, annotation = None, get_args(annotation)[-1 if get_origin(annotation) is dict else 0]
        else:
            break
    return Place(tuple(path), owner, field)


def _without_none(annotation: Any) -> Any:
    """A plain type, or a tuple with the members of a union."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = tuple(member for member in get_args(annotation) if member is not type(None))
        return members if len(members) > 1 else _without_none(members[0])
    return annotation


def _member(members: tuple[Any, ...], field: FieldInfo | None, tag: str | int) -> Any:
    """The member of a tagged union that has ``tag``, or None where the union has no tags."""
    for member in members:  # of a union whose tags stand beside its members
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in getattr(member, "__metadata__", ())):
            return member
    if field is None or not isinstance(field.discriminator, str):
        return None
    return next(member for member in members if tag in get_args(member.model_fields[field.discriminator].annotation))


def _body_error(place: Place, item: Mapping[str, Any]) -> FieldError:
    path, kind = place.path, item["type"]
    if kind == "extra_forbidden" and place.owner is not None:
        known = sorted(place.owner.model_fields)
        name = str(path[-1])
        return FieldError(
            f"unknown field {shown(name)}",
            pointer=pointer_to(path),
            hint=f"remove it, or use one of: {', '.join(known)}",
            did_you_mean=similar(name, known),
        )
    hint = _choices(item) or _description(place, kind)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        discriminator = item["ctx"]["discriminator"].strip("'")
        path = (*path, discriminator)
        hint = f"one of: {', '.join(_tags(place.field, discriminator))}"
    return FieldError(_expectation(item), pointer=pointer_to(path), hint=hint, did_you_mean=_suggestions(item))


def _tags(field: FieldInfo | None, discriminator: str) -> list[str]:
    """All tags of a tagged union, in the order of its members."""
    members = _without_none(field.annotation) if field else ()
    return [tag for member in members for tag in get_args(member.model_fields[discriminator].annotation)]


def _merged(entries: list[FieldError]) -> FieldError:
    """One entry for a value that fits no member of a union: ``must be a valid number, or a valid string, got []``."""
    first, *others = entries
    if not others:
        return first
    stems = [entry.detail.rpartition(", got ")[0].removeprefix("must be ") or entry.detail for entry in entries]
    value = first.detail.rpartition(", got ")[2]
    return FieldError(f"must be {', or '.join(stems)}, got {value}", pointer=first.pointer, hint=first.hint)


def _expectation(item: Mapping[str, Any]) -> str:
    """What was expected and what came; errors of our own validators already say it all."""
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            return "is required, but missing"
        case "extra_forbidden":
            return f"unknown parameter {shown(item['loc'][-1])}"
        case "value_error" | "assertion_error":
            return str(context["error"])
        case "union_tag_not_found":
            return "is required, but missing"
        case "union_tag_invalid":
            return f"unknown: {shown(context['tag'])}"
        case "model_type" | "model_attributes_type" | "dataclass_type" | "dict_type":
            return f"must be a JSON object, got {shown(item['input'])}"
        case _:
            return f"{_SUBJECT.sub('must', item['msg'])}, got {shown(item['input'])}"


def _choices(item: Mapping[str, Any]) -> str | None:
    expected = item.get("ctx", {}).get("expected")
    return f"one of: {expected}" if expected else None


def _suggestions(item: Mapping[str, Any]) -> tuple[str, ...]:
    context = item.get("ctx", {})
    if item["type"] == "union_tag_invalid":
        return similar(context["tag"], _quoted(context["expected_tags"]))
    if item["type"] in ("literal_error", "enum") and isinstance(item["input"], str):
        return similar(item["input"], _quoted(context["expected"]))
    return ()


def _quoted(text: str) -> list[str]:
    """The names in pydantic's ``'a', 'b' or 'c'``."""
    return text.split("'")[1::2]


def _description(place: Place, kind: str) -> str | None:
    """What the field is for, and its default: what to write instead."""
    field = place.field
    if field is None or field.description is None or kind == "value_error":
        return None
    if field.default is PydanticUndefined or isinstance(field.default, BaseModel):
        return field.description
    return f"{field.description} Default: {json.dumps(field.default)}."
