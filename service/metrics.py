"""What Prometheus reads: sums over all tenants, and no name, id or key of anyone.

Requests and predictions are counted here; the rest is looked up when it is asked for, from the stores that all processes share. Where
several API processes serve one address, their launcher sets prometheus-client's own variable: each counts into files of that directory, and
whichever is asked sums all of them.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api_processes import SHARED_COUNTS
from worker.artifacts import ArtifactError, ArtifactStore
from worker.job_store import JobStore, StoreUnavailable
from worker.jobs import JobStatus
from worker.quarantine import FOLDER as QUARANTINE

logger = logging.getLogger(__name__)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PREDICTION_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
PREDICTING = ("/predict", "/infer")
"""Ends of the routes that predict."""

OK = 200
RECOVERY_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
"""Bounds that worker/lua/prelude.lua counts by."""

BEGUN = "begun"
"""Name in a request's state: when its headers came (``time.perf_counter``), where it was looked at before it came to the application."""

UNKNOWN_PATH = "unknown"
"""Route of the requests that no route takes: their paths are anyone's to choose, and would fill the memory."""

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class RequestCounts:
    """The requests that this process has answered."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._predictions = Histogram(
            "snapcycle_prediction_seconds",
            "From the headers of a request for predictions to the end of its answer.",
            buckets=PREDICTION_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter("snapcycle_requests", "Answered requests.", labels, registry=self.registry)
        self._seconds = Histogram(
            "snapcycle_request_seconds",
            "From a request's headers to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )

        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def add(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one."""
        known = self._counters.get((method, route, status))
        if known is None:
            requests = self._requests.labels(method if method in METHODS else "other", route, str(status))
            known = requests, self._seconds.labels(route)
            if method in METHODS:  # else anyone could fill the memory
                self._counters[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)
        if status == OK and route.endswith(PREDICTING):
            self._predictions.observe(seconds)

    def exposition(self) -> bytes:
        """The counts in Prometheus' text format: of all processes, where they share them."""
        if os.environ.get(SHARED_COUNTS) is None:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # the library has no types here
        return generate_latest(shared)


class CountRequests:
    """ASGI middleware that counts every request by its route's template."""

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self.app = app
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = scope.get("state", {}).get(BEGUN) or time.perf_counter()
        status = 500

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN_PATH)
            self.counts.add(method=scope["method"], route=route, status=status, seconds=time.perf_counter() - began)


class ServiceState(Collector):
    """What the stores know, asked at each scrape. What is away is left out, and ``snapcycle_up`` says so."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore) -> None:
        self._store, self._artifacts = store, artifacts

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: the names are known only when the stores answer."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The current values."""
        up = GaugeMetricFamily("snapcycle_up", "Whether a component answers.", labels=("component",))
        try:
            yield from self._of_redis()
            up.add_metric(("redis",), 1)
        except StoreUnavailable:
            up.add_metric(("redis",), 0)
        try:
            count = len(self._artifacts.list_names(QUARANTINE))
            yield GaugeMetricFamily("snapcycle_quarantined_artifacts", "Damaged objects that were set aside.", value=count)
            up.add_metric(("artifacts",), 1)
        except ArtifactError:
            up.add_metric(("artifacts",), 0)
        yield up

    def _of_redis(self) -> Iterator[Metric]:
        counts, counted = self._store.counts(), self._store.counters()
        oldest = self._store.list(status=JobStatus.QUEUED, limit=1, order="asc").records
        ratio, num_workers = self._store.memory_ratio(), len(self._store.workers())
        jobs = GaugeMetricFamily("snapcycle_jobs", "Jobs by status.", labels=("status",))
        for status, count in counts.items():
            jobs.add_metric((status,), count)
        yield jobs
        yield GaugeMetricFamily("snapcycle_queue_depth", "Jobs that wait.", value=counts[JobStatus.QUEUED])
        age = (datetime.now(UTC) - datetime.fromisoformat(oldest[0].created_at)).total_seconds() if oldest else 0.0
        yield GaugeMetricFamily("snapcycle_queue_age_seconds", "How long ago the oldest waiting job was submitted.", value=max(0.0, age))
        yield GaugeMetricFamily("snapcycle_workers", "Living workers.", value=num_workers)
        for name, text in (
            ("lease_expiries", "Jobs that were taken from a silent worker."),
            ("fenced_commits", "Snapshots that a worker without the job's lease tried to commit."),
        ):
            yield CounterMetricFamily(f"snapcycle_{name}", text, value=counted.get(name, 0))
        yield _recoveries(counted)
        if ratio is not None:
            yield GaugeMetricFamily("snapcycle_redis_memory_ratio", "used_memory / maxmemory of Redis.", value=ratio)


def _recoveries(counted: dict[str, int]) -> HistogramMetricFamily:
    """The histogram that the job store's scripts have counted."""
    numbers = [counted.get(f"recovery_le_{bound}", 0) for bound in (*RECOVERY_SECONDS, "inf")]
    bounds = (*(f"{bound:.1f}" for bound in RECOVERY_SECONDS), "+Inf")
    text = "From the end of a lost worker's lease, or of a crashed trainer, to the job's next claim."
    return HistogramMetricFamily(
        "snapcycle_recovery_seconds",
        text,
        buckets=list(zip(bounds, accumulate(numbers), strict=True)),
        sum_value=counted.get("recovery_ms", 0) / 1000,
    )


def exposition(counts: RequestCounts, store: JobStore, artifacts: ArtifactStore) -> bytes:
    """All metrics in Prometheus' text format."""
    state = CollectorRegistry()
    state.register(ServiceState(store, artifacts))
    return counts.exposition() + generate_latest(state)
