"""Every refusal and failure that the API answers: one table of exceptions, RFC 9457 on the wire.

Exceptions: ``Problem`` is the only one that the service itself raises. Errors of ``clr`` and ``worker`` become problems in
``TRANSLATIONS``, and nowhere else.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clr.errors import DatasetError, EnsembleError, InputError, ModelError, NpyError, SnapshotError
from clr.schedules import ScheduleError
from service.oip_paths import is_oip_path
from service.problem_kinds import PROBLEMS
from service.security_headers import SECURITY_HEADERS
from service.validation import FieldError, parameter_errors
from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactUnavailable, StoreFull
from worker.job_store import DatasetGone, DatasetInUse, IdempotencyMismatch, InvalidState, JobMissing, RunInUse, StoreUnavailable

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"


_DETAILS = {
    ("not_found", "Not Found"): "there is no such path: GET /openapi.json lists all, /docs shows them",
    ("method_not_allowed", "Method Not Allowed"): "the path does not take this method: use one of the Allow header",
}
"""What stands in place of Starlette's two words."""

_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 400: "malformed_body", 413: "too_large", 406: "not_acceptable"}


class Problem(Exception):
    """An answer that is not a success.

    Args:
        code: A key of ``PROBLEMS``.
        detail: Thing, value, expectation, remedy.
        errors: One entry per wrong field.
        headers: Further response headers.
        extra: Further members of the document, such as ``allowed_actions``.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.kind = PROBLEMS[code]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def invalid(errors: Sequence[FieldError]) -> Problem:
    """The 422 for wrong fields; its detail counts them."""
    count = len(errors)
    return Problem("validation_error", "1 field is wrong" if count == 1 else f"{count} fields are wrong", errors=errors)


def invalid_field(detail: str, *, pointer: str | None = None, parameter: str | None = None, hint: str | None = None) -> Problem:
    """The 422 for one wrong place of the body (``pointer``) or one query parameter or header (``parameter``)."""
    return invalid([FieldError(detail, pointer=pointer, parameter=parameter, hint=hint)])


def _http_problem(exc: HTTPException) -> Problem:
    """Starlette's and FastAPI's own refusals."""
    code = _CODE_OF_STATUS.get(exc.status_code)
    if code is None:
        return Problem("internal", _DEFECT)
    return Problem(code, _DETAILS.get((code, str(exc.detail)), str(exc.detail)), headers=exc.headers)


def _dataset_problem(exc: DatasetError) -> Problem:
    return Problem("dataset_invalid", str(exc), errors=[FieldError(str(exc), pointer=exc.pointer or "#")])


def _mismatch_problem(exc: IdempotencyMismatch) -> Problem:
    return Problem("idempotency_mismatch", str(exc), errors=[FieldError(str(exc), parameter="Idempotency-Key")])


_DEFECT = "the service failed; nothing is known to be wrong with the request"

TRANSLATIONS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda exc: exc,
    RequestValidationError: lambda exc: invalid(parameter_errors(exc.errors())),
    HTTPException: _http_problem,
    ClientDisconnect: lambda _: Problem("malformed_body", "the client went away before the end of the body"),
    DatasetError: _dataset_problem,
    NpyError: lambda exc: Problem("malformed_body", str(exc)),
    InputError: lambda exc: Problem("shape_mismatch", str(exc), errors=[FieldError(str(exc), pointer="#/inputs")]),
    ScheduleError: lambda exc: invalid_field(str(exc), pointer="#/schedule"),
    ModelError: lambda exc: invalid_field(str(exc), pointer="#/model"),
    EnsembleError: lambda exc: invalid_field(str(exc), pointer="#/members"),
    JobMissing: lambda exc: Problem("not_found", str(exc)),
    InvalidState: lambda exc: Problem("invalid_state", str(exc), extra={"allowed_actions": list(exc.allowed)}),
    IdempotencyMismatch: _mismatch_problem,
    DatasetGone: lambda exc: invalid_field(str(exc), pointer="#/dataset_id"),
    DatasetInUse: lambda exc: Problem("in_use", str(exc), extra={"used_by": list(exc.job_ids)}),
    RunInUse: lambda exc: Problem("in_use", str(exc), extra={"used_by": list(exc.job_ids)}),
    StoreUnavailable: lambda exc: Problem("backend_unavailable", str(exc)),
    ArtifactUnavailable: lambda exc: Problem("backend_unavailable", str(exc)),
    StoreFull: lambda exc: Problem("storage_full", str(exc)),
    ArtifactMissing: lambda exc: Problem("artifact_lost", str(exc)),
    ArtifactDamaged: lambda exc: Problem("artifact_lost", str(exc)),
    SnapshotError: lambda exc: Problem("artifact_lost", str(exc)),
    Exception: lambda _: Problem("internal", _DEFECT),
}
"""What each exception of any layer becomes; the nearest class counts."""


def problem_of(exc: Exception) -> Problem:
    """The problem that an exception becomes."""
    return next(TRANSLATIONS[kind] for kind in type(exc).__mro__ if kind in TRANSLATIONS)(exc)


def problem_response(scope: Mapping[str, Any], problem: Problem) -> Response:
    """The RFC 9457 document, with the request's id."""
    kind = problem.kind
    request_id = scope.get("state", {}).get("request_id")
    document = {
        "type": f"/problems/{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "code": problem.code,
        "detail": problem.detail,
        "instance": scope["path"],
        "request_id": request_id,
        "retryable": kind.retryable,
        **problem.extra,
    }
    if problem.errors:
        document["errors"] = [error.document() for error in problem.errors]
    if is_oip_path(scope["path"]):
        document["error"] = _in_one_text(problem)
    headers = {**SECURITY_HEADERS, **problem.headers}  # also where no middleware adds them: an exception goes past all of them
    if request_id is not None:
        headers["X-Request-ID"] = request_id
    if kind.retry_after_seconds is not None:
        headers.setdefault("Retry-After", str(kind.retry_after_seconds))
    if problem.code == "internal":
        headers["Connection"] = "close"  # uvicorn closes it after an exception; a client that knows does not reuse it
    return Response(to_json(document), kind.status, headers, PROBLEM_JSON)


def _in_one_text(problem: Problem) -> str:
    """What the Open Inference Protocol calls ``error``: all that its clients show."""
    wrong = [f"{error.pointer or error.parameter}: {error.detail}" + (f" ({error.hint})" if error.hint else "") for error in problem.errors]
    return "; ".join(wrong) if problem.code == "validation_error" and wrong else problem.detail


def to_json(document: object) -> bytes:
    """JSON bytes; text that is not Unicode (half of a surrogate pair) is written with a backslash, since JSON has no such thing."""
    try:
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return orjson.dumps(_unicode_only(document))


def _unicode_only(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_unicode_only(key): _unicode_only(item) for key, item in value.items()}
        case list() | tuple():
            return [_unicode_only(item) for item in value]
        case _:
            return value


async def answer_problem(request: Request, exc: Exception) -> Response:
    """The exception handler of the whole application."""
    problem = problem_of(exc)
    if problem.code in ("artifact_lost", "backend_unavailable", "storage_full"):
        logger.error("%s %s answered %s: %s", request.method, request.url.path, problem.code, problem.detail)
    return problem_response(request.scope, problem)


def install_error_handling(app: FastAPI) -> None:
    """Makes every exception that leaves a route a problem document."""
    for exception in TRANSLATIONS:
        app.add_exception_handler(exception, answer_problem)
