"""Sends spoiled requests to a real API process: our own byte and JSON fuzzer's, then schemathesis' from its OpenAPI document.

No answer may be a 5xx (but for the documented 503 of a full prediction queue) or take longer than 5 s, and the process may not gain more
than 50 MB. Prints a table and writes benchmarks/results/fuzz.json. The exit status says whether all of it held.
"""

import argparse
import json
import os
import platform
import secrets
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.fuzzing.campaign import HANG_SECONDS, Figures, Target, most_common, rss_bytes, run_campaign
from benchmarks.fuzzing.corpus import Corpus, csv_bytes, npy_bytes, read_corpus
from benchmarks.fuzzing.schema import SchemaFigures, run_schemathesis
from service.client import Client
from service.embedded import Stack
from service.problem_kinds import PROBLEMS
from worker.settings import Settings

RESULTS = Path(__file__).parent / "results"
MAX_GROWTH_BYTES = 50_000_000
MAX_RATE = 10**6
"""Requests a second that a key may send: the fuzzer is to meet the parsers, not the limit."""

Headers = tuple[tuple[str, str], ...]

SCHEMA_SHARE = 0.2
"""How many schemathesis is asked to send for each request of our own; it comes near that."""


@dataclass(frozen=True)
class Outcome:
    """Both campaigns, and whether the service still worked after them."""

    own: Figures
    schema: SchemaFigures | None
    rss_start_bytes: int
    rss_end_bytes: int
    works_afterwards: bool

    @property
    def has_passed(self) -> bool:
        """Whether everything held that is promised."""
        schema_failed = self.schema is not None and bool(self.schema.failures)
        return self.own.num_violations == 0 and not schema_failed and self.growth_bytes < MAX_GROWTH_BYTES and self.works_afterwards

    @property
    def growth_bytes(self) -> int:
        """What the API process has gained from its warm state to the end."""
        return self.rss_end_bytes - self.own.rss_steady_bytes


def main() -> int:
    """Runs both campaigns against a service of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=100_000, help="requests of our own fuzzer; schemathesis sends about a fifth as many besides"
    )
    parser.add_argument("--seed", type=int, help="seed of the campaign; a new one by default")
    parser.add_argument("--connections", type=int, default=6, help="connections at a time")
    parser.add_argument("--keys", action="store_true", help="with API keys asked for, and sent")
    parser.add_argument("--without-schemathesis", action="store_true", help="let our own fuzzer send all requests")
    parser.add_argument("--json", type=Path, default=RESULTS / "fuzz.json", help="file for the figures")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(2**31)
    print(f"seed {seed}: repeat with make fuzz SEED={seed}{' KEYS=1' if arguments.keys else ''}", flush=True)
    with tempfile.TemporaryDirectory(prefix="snapcycle-fuzz-") as directory, (Path(directory) / "log").open("wb") as log:
        # What is sent may make keys, after which a service in its automatic mode would ask for them.
        settings = Settings(
            redis_url=None,
            artifacts=None,
            data_dir=Path(directory),
            host="127.0.0.1",
            port=0,
            auth="auto" if arguments.keys else "off",
            rate_limit=MAX_RATE,
            rate_burst=MAX_RATE,
        )
        with Stack(settings, num_workers=1, log=log) as stack:
            corpus, headers = prepare(stack, with_key=arguments.keys)
            outcome = fuzz(stack, corpus, arguments, seed=seed, headers=headers)
        if not outcome.works_afterwards:
            print((Path(directory) / "log").read_text()[-5000:])
    figures = document_of(outcome, with_keys=arguments.keys)
    print(as_table(outcome))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if outcome.has_passed else 1


def prepare(stack: Stack, *, with_key: bool) -> tuple[Corpus, Headers]:
    """Trains small ensembles on arrays and on a table, then ends the worker: the API is under test. Returns what all requests bear."""
    with Client(stack.url) as client:
        digits = client.datasets.builtin("digits")
        table = Path(stack.settings.data_dir) / "table.csv"
        table.write_bytes(csv_bytes(rows=60))
        flowers = client.datasets.upload(table, target="species")
        for dataset in (digits, flowers):
            client.jobs.train(dataset, architecture="mlp", cycles=2, epochs_per_cycle=1, max_lr=0.05, batch_size=16).wait()
    for worker in stack.workers:
        worker.ask_to_stop()
        worker.end(seconds=60)
    headers = (("Authorization", f"Bearer {_new_key(stack.url)}"),) if with_key else ()
    return read_corpus(stack.url, headers=dict(headers)), headers


def _new_key(url: str) -> str:
    """An API key for everything; from now on the service asks for one."""
    body = json.dumps({"scopes": ["read", "predict", "train", "admin"]}).encode()
    return str(_post(f"{url}/v1/api-keys", body, {"Content-Type": "application/json"})["key"])


def fuzz(stack: Stack, corpus: Corpus, arguments: argparse.Namespace, *, seed: int, headers: Headers) -> Outcome:
    """Both campaigns, one after the other, on the same API process."""
    (api,) = stack.api.children
    assert api.process is not None
    parts = urlsplit(stack.url)
    codes = {code: kind.status for code, kind in PROBLEMS.items()}
    target = Target(str(parts.hostname), int(parts.port or 0), api.process.pid, codes)
    rss_start_bytes = rss_bytes(target.pid)
    num_of_schema = 0 if arguments.without_schemathesis else int(SCHEMA_SHARE * arguments.requests)
    own = run_campaign(
        target,
        corpus,
        seed=seed,
        num_requests=arguments.requests,
        connections=arguments.connections,
        failures=RESULTS / "fuzz-failures",
        headers=headers,
    )
    still_predicts = _predicts(stack, corpus, headers)
    # Afterwards, since it deletes whatever it finds.
    schema = run_schemathesis(stack.url, num_requests=num_of_schema, seed=seed, headers=headers) if num_of_schema else None
    is_same_process = api.process.poll() is None
    works_afterwards = still_predicts and is_same_process and _takes_data(stack, headers)
    return Outcome(own, schema, rss_start_bytes, rss_bytes(target.pid) if is_same_process else 0, works_afterwards=works_afterwards)


def _predicts(stack: Stack, corpus: Corpus, headers: Headers) -> bool:
    """Whether the service predicts as before."""
    body = npy_bytes(np.zeros((2, *corpus.input_shape), np.float32))
    url = f"{stack.url}/v1/ensembles/{corpus.fixed['ensemble_id'][-1]}/predict"
    return len(_post(url, body, {"Content-Type": "application/x-npy", **dict(headers)})["predictions"]) == 2


def _takes_data(stack: Stack, headers: Headers) -> bool:
    """Whether the service makes a dataset as before."""
    body = json.dumps({"source": {"type": "builtin", "name": "digits"}}).encode()
    return bool(_post(f"{stack.url}/v1/datasets", body, {"Content-Type": "application/json", **dict(headers)})["status"] == "ready")


def _post(url: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def document_of(outcome: Outcome, *, with_keys: bool) -> dict[str, Any]:
    """The figures that are published."""
    own, schema = outcome.own, outcome.schema
    return {
        "benchmark": "fuzz",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "seed": own.seed,
        "with_keys": with_keys,
        "passed": outcome.has_passed,
        "requests": own.requests + (schema.requests if schema else 0),
        "requests_of_schemathesis": schema.requests if schema else 0,
        "seconds": round(own.seconds + (schema.seconds if schema else 0.0), 1),
        "slowest_seconds": round(own.slowest_seconds, 3),
        "statuses": most_common(own.statuses),
        "unanswered": most_common(own.unanswered),
        "mutations": most_common(own.mutations),
        "operations": most_common(own.operations),
        "server_errors": own.num_server_errors,
        "violations": own.violations,
        "num_violations": own.num_violations,
        "schemathesis_failures": list(schema.failures) if schema else [],
        "rss_start_bytes": outcome.rss_start_bytes,
        "rss_steady_bytes": own.rss_steady_bytes,
        "rss_end_bytes": outcome.rss_end_bytes,
        "rss_highest_bytes": own.rss_highest_bytes,
        "rss_growth_bytes": outcome.growth_bytes,
        "works_afterwards": outcome.works_afterwards,
    }


def as_table(outcome: Outcome) -> str:
    """The figures for people."""
    own, schema = outcome.own, outcome.schema
    total = own.requests + (schema.requests if schema else 0)
    seconds = own.seconds + (schema.seconds if schema else 0.0)
    families = {f"{family}xx": sum(n for status, n in own.statuses.items() if status // 100 == family) for family in (2, 3, 4, 5)}
    lines = [
        f"{total} requests in {seconds:.0f} s ({total / max(seconds, 1e-9):.0f} a second), seed {own.seed}",
        f"  schemathesis       {schema.requests if schema else 0:>8}   failures {len(schema.failures) if schema else 0}",
        f"  own fuzzer         {own.requests:>8}   violations {own.num_violations}",
        "  statuses           " + ", ".join(f"{name} {count}" for name, count in families.items()) + f", none {own.statuses[0]}",
        f"  without an answer  {_unanswered(own)}",
        f"  slowest answer     {own.slowest_seconds:>8.2f} s   limit {HANG_SECONDS:.0f} s",
        f"  memory, MB         {outcome.growth_bytes / 1e6:>+8.1f}     limit {MAX_GROWTH_BYTES / 1e6:.0f}; {_memory(outcome)}",
        f"  works afterwards   {'yes' if outcome.works_afterwards else 'NO'}",
    ]
    lines += [f"  VIOLATION {item['operation']} ({item['mutation']}): {item['why']}: {item['request']}" for item in own.violations[:20]]
    lines += [f"  SCHEMATHESIS {failure}" for failure in (schema.failures[:20] if schema else ())]
    return "\n".join(lines)


def _unanswered(own: Figures) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in most_common(own.unanswered).items())
    return f"{counts}: what is no HTTP, or ends in the middle" if counts else "none"


def _memory(outcome: Outcome) -> str:
    own = outcome.own
    return f"{own.rss_steady_bytes / 1e6:.0f} warm, {own.rss_highest_bytes / 1e6:.0f} highest, {outcome.rss_end_bytes / 1e6:.0f} at the end"


if __name__ == "__main__":
    sys.exit(main())
