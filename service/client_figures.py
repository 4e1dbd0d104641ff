"""The calls of the API about minima and figures; they become methods of the client like those of ``service.client_calls``."""

from collections.abc import Mapping
from typing import Any

from service.client_calls import read_json, read_list, submit
from service.client_core import Call, Json

JobRef = str | Mapping[str, Any]
"""A job's id, or the object that has it."""


def evaluate(job: JobRef, *, landscape: Json | None = None, name: str | None = None, metadata: dict[str, str] | None = None) -> Call[Json]:
    """Submits a measurement of the landscape around a train job's snapshots; its ``result()["landscape"]`` is the report."""
    given = {"landscape": landscape, "name": name, "metadata": metadata}
    body = {"kind": "evaluate", "job_id": _id_of(job), **{field: value for field, value in given.items() if value is not None}}
    return submit(body)


def figures(job_id: str, *, against: JobRef | None = None) -> Call[list[Json]]:
    """The figures that the job can have: their names, whether they are there, and why not."""
    return Call(method="GET", path=f"/v1/jobs/{job_id}/figures", read=read_list, params=_params(against))


def figure(job_id: str, name: str, *, against: JobRef | None = None) -> Call[Json]:
    """One figure, as ``plotly.graph_objects.Figure`` takes it; ``against`` shows another job beside it."""
    return Call(method="GET", path=f"/v1/jobs/{job_id}/figures/{name}", read=read_json, params=_params(against))


def _params(against: JobRef | None) -> dict[str, str]:
    return {} if against is None else {"against": _id_of(against)}


def _id_of(job: JobRef) -> str:
    return job if isinstance(job, str) else str(job["id"])
