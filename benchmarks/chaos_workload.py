"""The jobs of a chaos run and the users who submit, watch, cancel and use them.

Equal bodies give equal bits, so the oracle runs each body once, undisturbed, and is compared with every job that has that body.
"""

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from sklearn.datasets import load_digits

from benchmarks.chaos_history import RecordingClient

Json = dict[str, Any]
Role = Literal["plain", "cancelled", "poison"]

NUM_BODIES = 6
CYCLES = 4
POLL_SECONDS = 0.25
END_SECONDS = 600.0
"""A job has so long from its submission to its end; with 200 kills the slowest took less than 90 seconds."""


@dataclass(frozen=True)
class Planned:
    """A job that a user is going to submit."""

    number: int
    client: str
    role: Role
    body_number: int
    cancel_after_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a job has come to, as its user sees it.

    Attributes:
        snapshots: The sha256 of each snapshot's weights as the list says, in the order of the list.
        cycles: Their cycles.
        weights: The sha256 of the last snapshot's bytes as they were sent.
        predictions: The sha256 of the ensemble's answer to a fixed question; None: it has no snapshot.
        snapshot_events: The cycles of the events that made snapshots known.
    """

    job: Json
    snapshots: list[str]
    cycles: list[int]
    weights: str | None
    predictions: str | None
    snapshot_events: list[int]
    events: list[Json] = field(default_factory=list)


def body(dataset_id: str, number: int, *, epochs_per_cycle: int) -> Json:
    """The request of body ``number``; dropout, so that lost randomness would show."""
    return {
        "kind": "train",
        "name": f"chaos {number}",
        "dataset_id": dataset_id,
        "model": {"architecture": "mlp", "params": {"hidden": [64, 32 + 8 * number], "dropout": 0.1}},
        "schedule": {"type": "warm_restarts", "max_lr": 0.05, "cycles": CYCLES, "epochs_per_cycle": epochs_per_cycle},
        "batch_size": 16,
        "seed": number,
    }


def plan_jobs(num_jobs: int, clients: list[str], random_: random.Random) -> list[Planned]:
    """The jobs in the order of their submission: of twenty, two are cancelled and one is poison."""
    jobs = []
    for number in range(num_jobs):
        role: Role = "cancelled" if number % 10 == 4 else "poison" if number % 20 == 9 else "plain"
        delay = random_.uniform(0.0, 6.0)
        jobs.append(Planned(number, clients[number % len(clients)], role, random_.randrange(NUM_BODIES), delay))
    return jobs


def submit_and_follow(
    client: RecordingClient, planned: Planned, request: Json, *, prefix: str, on_submitted: Callable[[str], None] = lambda _: None
) -> str:
    """Takes a job from its submission to its end, as an eager user does; returns its id."""
    key = f"{prefix}-{planned.number}"
    made = client.call("POST", "/v1/jobs", body=request, key=key)
    assert made.status_code == 202, made.text
    job_id: str = made.json()["id"]
    on_submitted(job_id)
    client.call_once("POST", "/v1/jobs", body=request, key=key)  # as one does who doubts the first answer
    began = time.monotonic()
    has_cancelled = planned.role != "cancelled"
    while True:
        if not has_cancelled and time.monotonic() - began >= planned.cancel_after_seconds:
            client.call("POST", f"/v1/jobs/{job_id}/cancel")
            has_cancelled = True
        answer = client.call("GET", f"/v1/jobs/{job_id}")
        document = answer.json()
        if document.get("terminal"):
            return job_id
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - began < END_SECONDS, f"{job_id} has not ended after {END_SECONDS:.0f} s: {document}"
        time.sleep(POLL_SECONDS)


def outcome_of(client: RecordingClient, job_id: str) -> Outcome:
    """Looks at everything that a job has left."""
    job = client.call("GET", f"/v1/jobs/{job_id}").json()
    snapshots = client.call("GET", f"/v1/jobs/{job_id}/snapshots?limit=100").json()["data"]
    events = _events(client, job_id)
    weights, predictions = None, None
    if snapshots:
        last = max(snapshots, key=lambda each: int(each["cycle"]))
        weights = hashlib.sha256(client.call("GET", f"/v1/snapshots/{last['id']}/weights").content).hexdigest()
        question = {"inputs": load_digits().images[:8].tolist()}
        answer = client.call("POST", f"/v1/ensembles/{job['ensemble_id']}/predict", body=question)
        predictions = hashlib.sha256(orjson.dumps(answer.json().get("predictions"))).hexdigest()
    return Outcome(
        job=job,
        snapshots=[each["sha256"] for each in snapshots],
        cycles=[each["cycle"] for each in snapshots],
        weights=weights,
        predictions=predictions,
        snapshot_events=[event["cycle"] for event in events if event["type"] == "snapshot"],
        events=[event for event in events if event["type"] in ("state", "progress")],
    )


def _events(client: RecordingClient, job_id: str) -> list[Json]:
    """The job's events, page by page."""
    found: list[Json] = []
    after: Any = None
    while True:
        query = f"&after={after}" if after is not None else ""
        page = client.call("GET", f"/v1/jobs/{job_id}/events?limit=1000{query}").json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = page["last_id"]
