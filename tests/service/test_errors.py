"""The table of problems, its documentation, and what becomes of exceptions."""

import re
from pathlib import Path

import httpx2
import pytest

from clr.errors import DatasetError, InputError, ModelError
from clr.schedules import ScheduleError
from service.errors import Problem, problem_of, problem_response, to_json
from service.problem_kinds import PROBLEMS, ProblemKind
from tests.service.conftest import problem
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactMissing, ArtifactUnavailable, StoreFull
from worker.job_store import StoreUnavailable

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "problems.md"


def section(code: str, kind: ProblemKind) -> str:
    """What the documentation must say of a code."""
    retry = f"\n\nRetryable, after {kind.retry_after_seconds} s." if kind.retry_after_seconds else ""
    return f"## {code}\n\n**{kind.status} {kind.title}.** {kind.meaning}\n\n{kind.remedy}{retry}\n"


def test_documentation_lists_every_problem_as_it_is() -> None:
    text = DOCUMENTATION.read_text()
    sections = ["## " + part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    assert [part.strip() for part in sections] == [section(code, kind).strip() for code, kind in PROBLEMS.items()]


def test_every_problem_has_a_page(api: httpx2.Client) -> None:
    for code, kind in PROBLEMS.items():
        page = api.get(f"/problems/{code}").json()
        assert (page["code"], page["status"], page["title"], page["retryable"]) == (code, kind.status, kind.title, kind.retryable)


def test_unknown_problem_page_suggests_one(api: httpx2.Client) -> None:
    assert "validation_error" in problem(api.get("/problems/validation_eror"), 404, "not_found")["detail"]


@pytest.mark.parametrize(
    ("exception", "code", "pointer"),
    [
        (DatasetError("bad row", "#/file"), "dataset_invalid", "#/file"),
        (DatasetError("bad row"), "dataset_invalid", "#"),
        (ScheduleError("too short"), "validation_error", "#/schedule"),
        (ModelError("no image"), "validation_error", "#/model"),
        (InputError("wrong shape"), "shape_mismatch", "#/inputs"),
        (StoreUnavailable("away"), "backend_unavailable", None),
        (ArtifactUnavailable("away"), "backend_unavailable", None),
        (StoreFull("full"), "storage_full", None),
        (ArtifactMissing("gone"), "artifact_lost", None),
        (ArtifactDamaged("flipped"), "artifact_lost", None),
        (AlreadyExists("key", "hash"), "internal", None),
        (KeyError("secret"), "internal", None),
    ],
)
def test_exception_becomes_its_problem(exception: Exception, code: str, pointer: str | None) -> None:
    found = problem_of(exception)
    assert found.code == code
    assert [error.pointer for error in found.errors] == ([pointer] if pointer else [])


def test_internal_problem_says_nothing_of_the_exception() -> None:
    assert "secret" not in problem_of(KeyError("secret")).detail


def test_problem_document_is_complete() -> None:
    response = problem_response({"path": "/v1/x", "state": {"request_id": "req_1"}}, Problem("overloaded", "full", extra={"limit": 3}))
    assert response.status_code == 503
    assert response.media_type == "application/problem+json"
    assert (response.headers["retry-after"], response.headers["x-request-id"]) == ("1", "req_1")
    assert response.body == to_json(
        {
            "type": "/problems/overloaded",
            "title": "Too much to do",
            "status": 503,
            "code": "overloaded",
            "detail": "full",
            "instance": "/v1/x",
            "request_id": "req_1",
            "retryable": True,
            "limit": 3,
        }
    )


def test_text_that_is_not_unicode_is_written_with_a_backslash() -> None:
    assert to_json({"a": ["\ud800b"]}) == b'{"a":["\\\\ud800b"]}'
