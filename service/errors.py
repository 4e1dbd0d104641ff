"""Every refusal and failure that the API answers: one table of problems, one table of exceptions, RFC 9457 on the wire.

Exceptions: ``Problem`` is the only one that the service itself raises. Errors of ``clr`` and ``worker`` become problems in
``TRANSLATIONS``, and nowhere else. ``docs/problems.md`` is this module's table, written out.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clr.errors import DatasetError, EnsembleError, InputError, ModelError, NpyError, SnapshotError
from clr.schedules import ScheduleError
from service.validation import FieldError, parameter_errors
from worker.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactUnavailable, StoreFull
from worker.job_store import DatasetGone, DatasetInUse, IdempotencyMismatch, InvalidState, JobMissing, RunInUse, StoreUnavailable

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"


@dataclass(frozen=True)
class ProblemKind:
    """One row of the table: what a code means and what its reader can do."""

    status: int
    title: str
    meaning: str
    remedy: str
    retry_after_seconds: int | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return self.retry_after_seconds is not None


PROBLEMS: Mapping[str, ProblemKind] = {
    "malformed_json": ProblemKind(
        400,
        "Body is not JSON",
        "The body is not one JSON document in UTF-8, or it has NaN or Infinity, a repeated key, half a surrogate pair or too many levels.",
        "Send RFC 8259 JSON; the detail says where reading stopped.",
    ),
    "malformed_body": ProblemKind(
        400,
        "Body cannot be read",
        "A multipart form or npy array is cut off or breaks its format.",
        "Let a library build the body; the detail says what is wrong.",
    ),
    "forbidden": ProblemKind(
        403,
        "Not from this page",
        "A web page of another origin made a browser ask for a change.",
        "Call the API from a program, or from a page that the service itself serves.",
    ),
    "not_found": ProblemKind(404, "Not found", "There is no such path or object.", "Check the id; the list endpoints show what there is."),
    "method_not_allowed": ProblemKind(
        405, "Method not allowed", "The path exists, but not for this method.", "Use a method of the Allow header."
    ),
    "not_acceptable": ProblemKind(
        406, "Not acceptable", "No representation has a media type of the Accept header.", "Ask for one of the types in the detail."
    ),
    "invalid_state": ProblemKind(
        409,
        "Not possible in this state",
        "The job's status does not allow the action.",
        "Choose from allowed_actions, or wait for another status.",
    ),
    "in_use": ProblemKind(409, "In use", "Jobs still refer to the object.", "Delete the jobs that used_by lists first."),
    "not_ready": ProblemKind(
        409, "Not ready yet", "The object exists, but what was asked for is not there yet.", "Follow the job's events and ask again."
    ),
    "artifact_lost": ProblemKind(
        410,
        "Stored file is lost",
        "A stored file is missing or no longer has its checksum, so it is not used.",
        "Restore the artifact store from a backup, or make the object again.",
    ),
    "too_large": ProblemKind(
        413, "Too large", "The body or what it describes is over a limit.", "Send less; GET /v1/capabilities has the limits."
    ),
    "uri_too_long": ProblemKind(414, "URL too long", "The path and query are over the limit.", "Shorten the query."),
    "unsupported_media_type": ProblemKind(
        415, "Media type not supported", "The Content-Type or Content-Encoding is not one that the path takes.", "Use a type of the detail."
    ),
    "range_not_satisfiable": ProblemKind(
        416, "Range not satisfiable", "The Range starts beyond the end of the file.", "Content-Range has the file's size."
    ),
    "misdirected": ProblemKind(
        421,
        "Not this host",
        "The service listens on this machine only, and the Host header names another.",
        "Use localhost, 127.0.0.1 or [::1].",
    ),
    "validation_error": ProblemKind(
        422,
        "Request is not valid",
        "Fields or parameters have wrong names, types or values, or do not fit together.",
        "Correct what errors lists; each entry names its place.",
    ),
    "idempotency_mismatch": ProblemKind(
        422,
        "Idempotency-Key was used for another request",
        "The key belongs to a request with another body.",
        "Use a new key for a new request.",
    ),
    "dataset_invalid": ProblemKind(
        422, "Dataset is not usable", "The data cannot be trained on.", "Correct the rows or columns of the detail and upload again."
    ),
    "shape_mismatch": ProblemKind(
        422,
        "Inputs do not fit the ensemble",
        "The rows have another shape, type or columns than the training data, or hold NaN or infinities.",
        "Send rows like those of the dataset; GET /v1/ensembles/{id} has the input_shape.",
    ),
    "headers_too_large": ProblemKind(
        431, "Headers too large", "The request's headers are over the limit.", "Send fewer or shorter headers."
    ),
    "internal": ProblemKind(500, "Internal error", "A defect of the service.", "Report it with the request_id; the log has the trace."),
    "backend_unavailable": ProblemKind(
        503,
        "Storage is away",
        "Redis or the artifact store does not answer. What was acknowledged is kept.",
        "Repeat the request after Retry-After seconds; with an Idempotency-Key that is safe.",
        retry_after_seconds=2,
    ),
    "storage_full": ProblemKind(
        503, "Storage is full", "The artifact store has no space left.", "Free space, then repeat the request.", retry_after_seconds=60
    ),
    "overloaded": ProblemKind(
        503,
        "Too many predictions wait",
        "The queue of predictions is full.",
        "Repeat the request after Retry-After.",
        retry_after_seconds=1,
    ),
}

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
    headers = {"Cache-Control": "no-store", **problem.headers}
    if request_id is not None:
        headers["X-Request-ID"] = request_id
    if kind.retry_after_seconds is not None:
        headers["Retry-After"] = str(kind.retry_after_seconds)
    if problem.code == "internal":
        headers["Connection"] = "close"  # uvicorn closes it after an exception; a client that knows does not reuse it
    return Response(to_json(document), kind.status, headers, PROBLEM_JSON)


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
