"""Sends many spoiled requests and judges every answer: documented, in time, and without growing memory."""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.client import Answer, Connection
from benchmarks.fuzzing.corpus import Corpus
from benchmarks.fuzzing.requests import Draft, Generator

HANG_SECONDS = 5.0
GIVE_UP_SECONDS = 30.0
"""How long an answer is waited for, though ``HANG_SECONDS`` is already a violation: it tells slow from never."""

WARM_UP_SHARE = 0.1
"""Part of the requests after which memory counts as steady: by then every parser and pool has been used."""

SAMPLE_SECONDS = 0.5
MAX_KEPT = 200
OVERLOADED = "overloaded"
"""The one 503 that is documented for a service whose stores are there."""


@dataclass
class Figures:
    """What a campaign has counted."""

    seed: int
    requests: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    num_violations: int = 0
    rss_steady_bytes: int = 0
    rss_end_bytes: int = 0
    rss_highest_bytes: int = 0

    @property
    def rss_growth_bytes(self) -> int:
        """How much memory the API has gained since it was warm."""
        return self.rss_end_bytes - self.rss_steady_bytes

    @property
    def num_server_errors(self) -> int:
        """Answers from 500 on, the documented 503 included."""
        return sum(count for status, count in self.statuses.items() if status >= 500)


@dataclass(frozen=True)
class Target:
    """The service under test.

    Attributes:
        pid: Its process, whose memory is watched.
        codes: The documented problem codes with their statuses.
    """

    host: str
    port: int
    pid: int
    codes: Mapping[str, int]


def run_campaign(
    target: Target,
    corpus: Corpus,
    *,
    seed: int,
    num_requests: int,
    connections: int,
    failures: Path,
    headers: tuple[tuple[str, str], ...] = (),
) -> Figures:
    """Sends the requests and returns the figures. Requests that were answered wrongly are written below ``failures``."""
    figures = Figures(seed)
    generator = Generator(corpus, seed, headers=headers)
    asyncio.run(_run(target, corpus, generator, figures, num_requests=num_requests, connections=connections, failures=failures))
    return figures


async def _run(
    target: Target, corpus: Corpus, generator: Generator, figures: Figures, *, num_requests: int, connections: int, failures: Path
) -> None:
    began = time.monotonic()
    sampler = asyncio.create_task(_watch_memory(target.pid, figures, num_requests))

    async def client() -> None:
        async with Connection(target.host, target.port) as connection:
            while figures.requests < num_requests:
                figures.requests += 1
                await _send(connection, next(generator), target, corpus, figures, failures)

    await asyncio.gather(*(client() for _ in range(connections)))
    sampler.cancel()
    figures.rss_end_bytes = rss_bytes(target.pid)
    figures.rss_highest_bytes = max(figures.rss_highest_bytes, figures.rss_end_bytes)
    figures.rss_steady_bytes = figures.rss_steady_bytes or figures.rss_end_bytes
    figures.seconds = time.monotonic() - began


async def _send(connection: Connection, draft: Draft, target: Target, corpus: Corpus, figures: Figures, failures: Path) -> None:
    data = draft.encode()
    figures.mutations[draft.mutation] += 1
    figures.operations[draft.operation] += 1
    try:
        answer = await connection.exchange(
            data, is_head=draft.method == "HEAD", is_last=draft.raw is not None, timeout_seconds=GIVE_UP_SECONDS
        )
    except (TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
        connection.close()
        answer = Answer(0, {}, b"", GIVE_UP_SECONDS)
        _keep(figures, failures, draft, data, answer, f"no whole answer within {GIVE_UP_SECONDS:.0f} s ({error!r})")
        return
    figures.statuses[answer.status] += 1
    if answer.status == 0:
        figures.unanswered[draft.mutation] += 1
    figures.slowest_seconds = max(figures.slowest_seconds, answer.seconds)
    if (why := judge(draft, answer, target.codes)) is not None:
        _keep(figures, failures, draft, data, answer, why)
    elif answer.status in (201, 202):
        corpus.remember(answer.headers.get("location", ""))


def judge(draft: Draft, answer: Answer, codes: Mapping[str, int]) -> str | None:
    """What is wrong with an answer; None where it is one that the API documents."""
    if answer.seconds > HANG_SECONDS:
        return f"took {answer.seconds:.1f} s, more than {HANG_SECONDS:.0f} s"
    if answer.status == 0:
        # What is no HTTP, or ends in the middle, has no claim to an answer.
        return None if draft.raw is not None else "the connection ended without an answer"
    if answer.status < 400 or draft.method == "HEAD":
        return f"status {answer.status}" if answer.status >= 500 else None
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        is_parser = answer.status == 400 and answer.headers.get("content-type", "").startswith("text/plain")
        return None if is_parser else f"status {answer.status} as {answer.headers.get('content-type')}"
    document = json.loads(answer.body)
    if codes.get(document["code"]) != answer.status:
        return f"status {answer.status} with the code {document['code']}"
    return f"status {answer.status}, {document['code']}" if answer.status >= 500 and document["code"] != OVERLOADED else None


def _keep(figures: Figures, failures: Path, draft: Draft, data: bytes, answer: Answer, why: str) -> None:
    """Counts a violation, and writes the request down so that it can be sent again: ``nc host port < FILE``."""
    figures.num_violations += 1
    if len(figures.violations) >= MAX_KEPT:
        return
    failures.mkdir(parents=True, exist_ok=True)
    path = failures / f"{figures.seed}-{figures.num_violations}.http"
    path.write_bytes(data)
    figures.violations.append(
        {
            "why": why,
            "operation": draft.operation,
            "mutation": draft.mutation,
            "request": path.name,
            "status": answer.status,
            "answer": answer.body[:400].decode("utf-8", "replace"),
            "head": base64.b64encode(data[:300]).decode(),
        }
    )


async def _watch_memory(pid: int, figures: Figures, num_requests: int) -> None:
    while True:
        rss = rss_bytes(pid)
        figures.rss_highest_bytes = max(figures.rss_highest_bytes, rss)
        if not figures.rss_steady_bytes and figures.requests >= WARM_UP_SHARE * num_requests:
            figures.rss_steady_bytes = rss
        await asyncio.sleep(SAMPLE_SECONDS)


def rss_bytes(pid: int) -> int:
    """Memory that a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def most_common(counts: Mapping[Any, int], names: Collection[Any] | None = None) -> dict[str, int]:
    """Counts as JSON, the largest first."""
    chosen = {name: count for name, count in counts.items() if names is None or name in names}
    return {str(name): count for name, count in sorted(chosen.items(), key=lambda item: (-item[1], str(item[0])))}
