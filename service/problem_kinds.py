"""The table of problems: every code that the API answers with, its status, what it means and what its reader can do.

``docs/problems.md`` is this table, written out.
"""

from collections.abc import Mapping
from dataclasses import dataclass


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
        "A multipart form, npy array, picture or compressed body is cut off or breaks its format.",
        "Let a library build the body; the detail says what is wrong.",
    ),
    "unauthenticated": ProblemKind(
        401,
        "An API key is needed",
        "The request has no API key, or one that is unknown, revoked or expired.",
        "Send Authorization: Bearer and a key; `snapcycle keys create` makes one.",
    ),
    "forbidden": ProblemKind(
        403,
        "Not allowed",
        "The API key lacks the scope that the detail names, or a web page of another origin made a browser ask for a change.",
        "Use a key with the scope; call the API from a program, or from a page that the service itself serves.",
    ),
    "not_found": ProblemKind(404, "Not found", "There is no such path or object.", "Check the id; the list endpoints show what there is."),
    "method_not_allowed": ProblemKind(
        405, "Method not allowed", "The path exists, but not for this method.", "Use a method of the Allow header."
    ),
    "not_acceptable": ProblemKind(
        406, "Not acceptable", "No representation has a media type of the Accept header.", "Ask for one of the types in the detail."
    ),
    "request_timeout": ProblemKind(
        408,
        "Request came too slowly",
        "The headers were not complete in time, or the body of a prediction came too slowly.",
        "Send the request at once, and close what is idle.",
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
    "rate_limited": ProblemKind(
        429,
        "Too many requests",
        "The API key was used more often than its rate limit allows.",
        "Repeat the request after Retry-After seconds, and send fewer.",
        retry_after_seconds=1,
    ),
    "quota_exceeded": ProblemKind(
        429,
        "Quota is used up",
        "The tenant has as many waiting jobs, bytes of datasets or usable API keys as one may have.",
        "Wait until jobs have ended, cancel some, or delete datasets or revoke keys that are not needed.",
        retry_after_seconds=60,
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
        503,
        "Storage is full",
        "The artifact store, or the disk of uploads, has no space left.",
        "Free space, then repeat the request.",
        retry_after_seconds=60,
    ),
    "overloaded": ProblemKind(
        503,
        "Too much to do",
        "The queue of predictions or the memory of Redis is nearly full, or the sender or all together have too many uploads, "
        "event streams or bytes of predictions under way.",
        "Repeat the request after Retry-After, and have fewer under way.",
        retry_after_seconds=1,
    ),
}
