"""Requests that arrive at a given rate from many connections, whether or not earlier ones were answered: an open loop.

A slow answer delays no other request and hides nothing: a request's time counts from the moment it was due.
"""

import asyncio
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.http_connections import Answer, HttpConnection

OPENERS = 16
"""Connections that are opened, and used for the first time, side by side."""


@dataclass(frozen=True)
class Tenant:
    """Someone with a key and data."""

    name: str
    key: str
    share: float
    dataset_id: str

    def body(self, number: int) -> bytes:
        """A submission."""
        job = {"dataset_id": self.dataset_id, "name": f"{self.name} {number}", "model": {"architecture": "mlp", "params": {"hidden": [32]}}}
        return json.dumps({**job, "schedule": {"type": "warm_restarts", "cycles": 2, "epochs_per_cycle": 1}}).encode()


@dataclass
class Record:
    """What was asked and how it went.

    Attributes:
        milliseconds: Of each kind of request, from the moment it was due to the last byte of its answer.
        late: Milliseconds by which this process sent each request after the moment it was due: its own share of the above.
        statuses: How often each kind had each status.
        answer_bytes: The size of the last answer of each kind.
        reconnections: Connections that the server had closed while they were idle.
    """

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late: list[float] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    answer_bytes: dict[str, int] = field(default_factory=dict)
    reconnections: int = 0

    def note(self, kind: str, answer: Answer, due: float) -> None:
        """One answered request."""
        self.milliseconds[kind].append((time.perf_counter() - due) * 1000)
        self.statuses[kind, answer.status] += 1
        self.answer_bytes[kind] = len(answer.body)


class Load:
    """Requests of three kinds at given rates, from many clients in turn.

    Args:
        url: The server.
        tenants: Who submits and lists.
        job_ids: Keys and ids of jobs to look at.
        rng: When requests are due, and whose they are.
    """

    def __init__(self, url: str, tenants: Sequence[Tenant], job_ids: Sequence[tuple[str, str]], rng: random.Random) -> None:
        self.record = Record()
        self._url = url
        self._tenants = tenants
        self._job_ids = job_ids
        self._rng = rng
        self._number = 0
        self._idle: asyncio.Queue[HttpConnection] = asyncio.Queue()

    async def open(self, num_connections: int) -> None:
        """Opens the connections; each looks at a job at once, since a server waits only so long for a new connection's first request."""
        waiting = iter(range(num_connections))

        async def open_some() -> None:
            for _ in waiting:
                connection = await HttpConnection.open(self._url)
                await self._request(connection, "poll")
                self._idle.put_nowait(connection)

        await asyncio.gather(*(open_some() for _ in range(OPENERS)))

    def close(self) -> None:
        """Closes the connections."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    async def run(self, rates: dict[str, float], seconds: float) -> Record:
        """Sends requests at random moments (a Poisson process for each kind), waits for the last answer, and says how it went."""
        self.record = Record()
        moments = []
        for kind, rate in rates.items():
            moment = self._rng.expovariate(rate)
            while moment < seconds:
                moments.append((moment, kind))
                moment += self._rng.expovariate(rate)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for moment, kind in sorted(moments):
                await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
                tasks.create_task(self._send(kind, began + moment))
        return self.record

    async def _send(self, kind: str, due: float) -> None:
        connection = await self._idle.get()
        if not connection.is_open:
            connection.close()
            connection = await HttpConnection.open(self._url)
            self.record.reconnections += 1
        self.record.late.append((time.perf_counter() - due) * 1000)
        self.record.note(kind, await self._request(connection, kind), due)
        self._idle.put_nowait(connection)

    async def _request(self, connection: HttpConnection, kind: str) -> Answer:
        tenant = self._rng.choice(self._tenants)
        match kind:
            case "submit":
                self._number += 1
                return await connection.request("POST", "/v1/jobs", key=tenant.key, body=tenant.body(self._number))
            case "list":
                return await connection.request("GET", "/v1/jobs?status=queued&limit=20", key=tenant.key)
            case _:
                key, job_id = self._rng.choice(self._job_ids)
                return await connection.request("GET", f"/v1/jobs/{job_id}", key=key)


def summary(times: Sequence[float]) -> dict[str, float]:
    """Milliseconds at three places of the distribution."""
    cuts = statistics.quantiles(times, n=1000, method="inclusive")
    return {"count": len(times), "p50": cuts[499], "p99": cuts[989], "p999": cuts[998]}
