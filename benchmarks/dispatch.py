"""How long a job waits for its first training step: from the moment before ``POST /v1/jobs``, on an idle worker.

Prints a table, and writes every figure to the file given with ``--json``.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from service.client import Client
from service.client_core import Json
from service.embedded import Stack
from worker.settings import Settings

GOAL_MILLISECONDS = 60.0
IDLE_SECONDS = 6.0
"""How long the worker has had nothing to do before each job: time to warm its next trainer up."""


def main() -> int:
    """Runs the benchmark; the exit status says whether the median meets the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20, help="jobs to submit, one after the other")
    parser.add_argument("--dataset", default="digits", help="the built-in dataset to train on: digits has 1,797 rows, fashion-mnist 70,000")
    parser.add_argument("--architecture", default="mlp", help="the network to train")
    parser.add_argument("--publish", action="store_true", help="write the figures to benchmarks/results too, which README quotes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapcycle-dispatch-") as directory, (Path(directory) / "log").open("wb") as log:
        settings = Settings(redis_url=None, artifacts=None, data_dir=Path(directory), host="127.0.0.1", port=0)
        with Stack(settings, num_workers=1, log=log) as stack, Client(stack.url) as client:
            delays = measure(client, arguments.dataset, arguments.architecture, num_jobs=arguments.jobs)
    figures = {"dataset": arguments.dataset, "architecture": arguments.architecture, **summarize(delays)}
    print(as_table(figures))
    if arguments.publish:
        (Path(__file__).parent / "results" / "dispatch.json").write_text(json.dumps({**figures, "milliseconds": delays}, indent=2) + "\n")
    return 0 if figures["median"] <= GOAL_MILLISECONDS else 1


def measure(client: Client, dataset_name: str, architecture: str, *, num_jobs: int) -> list[float]:
    """Milliseconds from submission to first step of each job, after one that warms up the connections and caches."""
    dataset = client.datasets.builtin(dataset_name)
    delays = []
    for _ in range(num_jobs + 1):
        time.sleep(IDLE_SECONDS)
        sent_at = time.time()
        job = client.jobs.train(dataset, architecture=architecture, cycles=2, epochs_per_cycle=1).wait()
        first_step_at = datetime.fromisoformat(job.data["training_started_at"]).timestamp()
        delays.append(round((first_step_at - sent_at) * 1000, 1))
    return delays[1:]


def summarize(delays: list[float]) -> Json:
    """The figures that are published."""
    return {
        "benchmark": "dispatch",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "jobs": len(delays),
        "minimum": min(delays),
        "median": statistics.median(delays),
        "maximum": max(delays),
        "goal_for_median": GOAL_MILLISECONDS,
    }


def as_table(figures: Json) -> str:
    """The figures for people."""
    what = f"{figures['jobs']} jobs of {figures['architecture']} on {figures['dataset']}"
    lines = [f"POST /v1/jobs to the first training step, {what}, idle worker ({figures['machine']})"]
    lines += [f"  {name:<8} {figures[name]:>8.1f} ms" for name in ("minimum", "median", "maximum")]
    lines.append(f"  goal     {figures['goal_for_median']:>8.1f} ms for the median")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
