"""Schemathesis as a process of its own: it reads the OpenAPI document and holds every answer against it."""

import json
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
CASES_BESIDE_FUZZING = 4000
"""About how many cases its other phases make of our document, whatever their number is set to."""

CASES_PER_EXAMPLE = 1.3
"""Cases for each example that it may draw for each operation."""


@dataclass(frozen=True)
class SchemaFigures:
    """What schemathesis has counted."""

    requests: int
    seconds: float
    failures: tuple[str, ...]


def run_schemathesis(url: str, *, num_requests: int, seed: int, headers: tuple[tuple[str, str], ...] = ()) -> SchemaFigures:
    """Sends about ``num_requests``, at least the few thousand of its coverage phase.

    Raises:
        RuntimeError: It did not run; its own words are in the message.
    """
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as answer:
        num_operations = sum(len(methods) for methods in json.load(answer)["paths"].values())
    examples = max(1, round((num_requests - CASES_BESIDE_FUZZING) / (CASES_PER_EXAMPLE * num_operations)))
    with tempfile.TemporaryDirectory(prefix="snapcycle-schemathesis-") as directory:
        report = Path(directory) / "report.json"
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--max-examples", str(examples)),
            *("--checks", ",".join(CHECKS), "--seed", str(seed), "--workers", "2", "--request-timeout", "30", "--max-response-time", "5"),
            *("--continue-on-failure", "--no-shrink", "--warnings", "off", "--report", "json", "--report-json-path", str(report)),
            *(part for name, value in headers for part in ("--header", f"{name}:{value}")),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
        if not report.exists():
            raise RuntimeError(f"schemathesis did not run: {(ended.stdout + ended.stderr)[-2000:]}")
        document = json.loads(report.read_text())
    failures = (*document["failures"], *document["errors"])
    return SchemaFigures(
        requests=document["test_cases"]["generated"],
        seconds=document["running_time"],
        failures=tuple(json.dumps(failure)[:600] for failure in failures),
    )
