"""The jobs of a chaos run and the users who submit, watch, cancel, pause, extend and use them.

Equal bodies give equal bits, so the oracle runs each body once, undisturbed, and is compared with every job that has that body.
"""

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, assert_never

import orjson
from sklearn.datasets import load_digits

from benchmarks.chaos_history import RecordingClient

Json = dict[str, Any]
NUM_BODIES = 6
CYCLES, MORE_CYCLES = 4, 2
POLL_SECONDS = 0.25
REST_SECONDS = 1.0
"""How long a paused job rests."""

END_SECONDS = 600.0
"""A job has so long from its submission to its end; with 200 kills the slowest took less than 90 seconds."""


class Role(StrEnum):
    """What a user does with a job once it is submitted."""

    PLAIN = "plain"
    """Nothing."""
    CANCELLED = "cancelled"
    """Cancels it, in whatever state it is."""
    POISON = "poison"
    """Nothing; its trainer is killed as often as one is seen."""
    PAUSED = "paused"
    """Pauses it, and resumes it."""
    EXTENDED_RUNNING = "extended_running"
    """Asks for more cycles while it runs, or after its end where it is too fast."""
    EXTENDED_LATER = "extended_later"
    """Asks for more cycles after its end."""

    @property
    def is_extended(self) -> bool:
        """Whether the job gets more cycles."""
        return self in (Role.EXTENDED_RUNNING, Role.EXTENDED_LATER)


ROLES = (
    {9: Role.POISON} | dict.fromkeys((4, 14), Role.CANCELLED) | dict.fromkeys((2, 12, 16), Role.PAUSED)
    | dict.fromkeys((1, 11), Role.EXTENDED_RUNNING) | dict.fromkeys((7, 17), Role.EXTENDED_LATER)
)  # fmt: skip
"""Of twenty jobs; all others are plain."""


@dataclass(frozen=True)
class Planned:
    """A job that a user is going to submit.

    Attributes:
        act_after_seconds: How long after the submission the user does what the role says.
    """

    number: int
    client: str
    role: Role
    body_number: int
    act_after_seconds: float

    @property
    def oracle_number(self) -> int:
        """The number by which the oracle knows what the job comes to."""
        return extended(self.body_number) if self.role.is_extended else self.body_number


@dataclass(frozen=True)
class Outcome:
    """What a job has come to, as its user sees it.

    Attributes:
        snapshots: The sha256 of each snapshot's weights as the list says, in the order of the list.
        cycles: Their cycles.
        weights: The sha256 of each snapshot's bytes as they were sent.
        contents: The sha256 of each snapshot without the plan that it was taken under, which an extension changes (``content_sha256``).
        predictions: The sha256 of the ensemble's answer to a fixed question; None: it has no snapshot.
        snapshot_events: The cycles of the events that made snapshots known.
    """

    job: Json
    snapshots: list[str]
    cycles: list[int]
    weights: list[str]
    contents: list[str]
    predictions: str | None
    snapshot_events: list[int]
    events: list[Json] = field(default_factory=list)


def extended(body_number: int) -> int:
    """The number by which the oracle knows a body with MORE_CYCLES."""
    return NUM_BODIES + body_number


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
    """The jobs in the order of their submission."""
    jobs = []
    for number in range(num_jobs):
        role = ROLES.get(number % 20, Role.PLAIN)
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
    has_acted = planned.role in (Role.PLAIN, Role.POISON)
    while True:
        answer = client.call("GET", f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        document = answer.json()
        if document["terminal"] and (has_acted or not planned.role.is_extended):
            return job_id
        if not has_acted and (document["terminal"] or time.monotonic() - began >= planned.act_after_seconds):
            has_acted = act(client, planned.role, document, key=f"{key}-extension")
            continue
        assert time.monotonic() - began < END_SECONDS, f"{job_id} has not ended after {END_SECONDS:.0f} s: {document}"
        time.sleep(POLL_SECONDS)


def act(client: RecordingClient, role: Role, job: Json, *, key: str) -> bool:
    """Does with a job what its role says; False where that is not possible yet, so it is to be tried again."""
    path = f"/v1/jobs/{job['id']}"
    match role:
        case Role.PLAIN | Role.POISON:
            return True
        case Role.CANCELLED:
            client.call("POST", f"{path}/cancel")
            return True
        case Role.PAUSED:
            client.call("POST", f"{path}/pause")
            while not ((now := client.call("GET", path).json())["terminal"] or now["status"] == "paused"):
                time.sleep(POLL_SECONDS)
            time.sleep(REST_SECONDS)
            client.call("POST", f"{path}/resume")
            return True
        case Role.EXTENDED_RUNNING | Role.EXTENDED_LATER:
            if not job["terminal"] and (role is Role.EXTENDED_LATER or job["status"] != "running"):
                time.sleep(POLL_SECONDS)
                return False
            return extend(client, job["id"], key=key)
        case _:
            assert_never(role)


def extend(client: RecordingClient, job_id: str, *, key: str) -> bool:
    """Asks for more cycles; False where the job has left the state in which it can have them."""
    answer = client.call("POST", f"/v1/jobs/{job_id}/extend", body={"cycles": MORE_CYCLES}, key=key)
    assert answer.status_code in (200, 409), answer.text
    return answer.status_code == 200


def outcome_of(client: RecordingClient, job_id: str) -> Outcome:
    """Looks at everything that a job has left."""
    job = client.call("GET", f"/v1/jobs/{job_id}").json()
    snapshots = client.call("GET", f"/v1/jobs/{job_id}/snapshots?limit=100").json()["data"]
    events = _events(client, job_id)
    files = [client.call("GET", f"/v1/snapshots/{each['id']}/weights").content for each in snapshots]
    predictions = None
    if snapshots:
        question = {"inputs": load_digits().images[:8].tolist()}
        answer = client.call("POST", f"/v1/ensembles/{job['ensemble_id']}/predict", body=question)
        predictions = hashlib.sha256(orjson.dumps(answer.json().get("predictions"))).hexdigest()
    return Outcome(
        job=job,
        snapshots=[each["sha256"] for each in snapshots],
        cycles=[each["cycle"] for each in snapshots],
        weights=[hashlib.sha256(file).hexdigest() for file in files],
        contents=[content_sha256(file) for file in files],
        predictions=predictions,
        snapshot_events=[event["cycle"] for event in events if event["type"] == "snapshot"],
        events=[event for event in events if event["type"] in ("state", "progress")],
    )


def content_sha256(file: bytes) -> str:
    """The hash of a snapshot's tensors and metadata without how many cycles were planned, and so whether another one was to follow.

    A job that gets more cycles while it runs goes by the longer plan from its next attempt on, whenever that begins; both plans have the
    same rates up to the end of the shorter one.
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = orjson.loads(file[8:end])
    said = orjson.loads(header["__metadata__"]["snapcycle"])
    del said["config"]["schedule"]["cycles"], said["next_learning_rate"]
    header["__metadata__"]["snapcycle"] = said
    return hashlib.sha256(orjson.dumps(header, option=orjson.OPT_SORT_KEYS) + file[end:]).hexdigest()


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
