"""JSON request bodies, read strictly: what two parsers could read differently is refused, not guessed."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.errors import Problem, invalid
from service.validation import FieldError, body_errors, pointer_to

MAX_DEPTH = 32
"""Levels of a request document; the deepest that the API knows has four."""


@dataclass(frozen=True)
class JsonBudget:
    """How much structure a body may have. Two bytes of text can become a list of 60, and each wrong item an entry that is described.

    Attributes:
        values: Commas, so about the values.
        containers: Lists and objects.
        texts: Names and texts.
    """

    values: int
    containers: int
    texts: int

    def check(self, body: bytes) -> None:
        """Counts signs, those inside of texts too, which takes a hundredth of the time of reading; a small body cannot have too many.

        Raises:
            Problem: There are more than allowed.
        """
        if len(body) <= min(self.values, self.containers, self.texts):
            return
        counted = (
            (body.count(b","), self.values, "values"),
            (body.count(b"[") + body.count(b"{"), self.containers, "lists and objects"),
            (body.count(b'"') // 2, self.texts, "names and texts"),
        )
        for count, limit, what in counted:
            if count > limit:
                raise Problem("too_large", f"a JSON body may have at most {limit} {what} here, got about {count}: send fewer")


DOCUMENT = JsonBudget(values=10_000, containers=10_000, texts=20_000)
"""For requests that describe something: the longest list that the API knows has a hundred items."""

Model = TypeVar("Model", bound=BaseModel)


async def json_document(request: Request) -> Any:
    """The body as plain Python values.

    Raises:
        Problem: 415 for another media type or charset, 400 for what is not exactly one JSON document.
    """
    require_json(request)
    return decode_json(await request.body())


async def optional_json_document(request: Request) -> Any:
    """As ``json_document``; no body at all stands for an empty object."""
    body = await request.body()
    if not body:
        return {}
    require_json(request)
    return decode_json(body)


def require_json(request: Request) -> None:
    """Refuses a body that is not declared to be JSON in UTF-8."""
    content_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if content_type.strip().lower() != "application/json":
        raise Problem(
            "unsupported_media_type", f"Content-Type must be application/json, got {content_type.strip() or 'none'}: set the header"
        )
    name, _, charset = parameters.strip().partition("=")
    if name.lower() == "charset" and charset.strip('"').lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem("unsupported_media_type", f"JSON must be in UTF-8, got charset {charset[:40]}: encode the body as UTF-8")


def decode_json(body: bytes, budget: JsonBudget = DOCUMENT) -> Any:
    """Decodes one JSON document.

    Refuses NaN and Infinity, repeated keys, numbers beyond float64, half surrogates, deep nesting, and what is beyond the budget.
    """
    if not body:
        raise Problem("malformed_json", "the body is empty: send a JSON object")
    budget.check(body)
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object_without_repeats)
    except UnicodeDecodeError as error:
        raise Problem("malformed_json", f"byte {error.start} is not UTF-8: encode the body as UTF-8") from None
    except json.JSONDecodeError as error:
        raise Problem("malformed_json", f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise Problem("malformed_json", f"more than {MAX_DEPTH} levels: flatten the document") from None
    except ValueError:  # int() refuses more than 4,300 digits
        raise Problem("malformed_json", "an integer has more than 4300 digits: send a number of a sensible size") from None
    _check_values(document)
    return document


def validated(model: type[Model], document: Any) -> Model:
    """``document`` as ``model``; a ``Problem`` with one entry per wrong field otherwise."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid(body_errors(model, error)) from None


def _refuse_constant(name: str) -> NoReturn:
    raise Problem("malformed_json", f"{name} is not JSON: leave the value out or send a number")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Problem("malformed_json", f"key {json.dumps(repeated)[:80]} stands twice in one object: keep one of them")
    return document


def _check_values(document: Any) -> None:
    """Walks the document with a stack of its own, since its depth is the user's choice."""
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while stack:
        path, value = stack.pop()
        if len(path) > MAX_DEPTH:
            raise Problem("malformed_json", f"more than {MAX_DEPTH} levels: flatten the document")
        match value:
            case dict():
                for name, item in value.items():
                    _check_text(name, path)
                    stack.append(((*path, name), item))
            case list():
                stack.extend(((*path, index), item) for index, item in enumerate(value))
            case str():
                _check_text(value, path)
            case float() if not math.isfinite(value):
                raise invalid([FieldError("must fit a 64-bit float: send a smaller number", pointer=pointer_to(path))])


def _check_text(text: str, path: tuple[str | int, ...]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        place = pointer_to(path).encode("utf-8", "backslashreplace").decode()
        raise Problem("malformed_json", f"the text at {place} has half of a surrogate pair: escape both halves, or none") from None
