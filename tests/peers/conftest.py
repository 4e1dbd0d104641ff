"""The peers, called in their own virtual environment, and the rows that the tests measure for docs/comparison.md.

``make peers`` installs the environment and writes the table. Without it the tests that need a peer's code are skipped.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
import torch

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".bench/peers"


class PeerError(Exception):
    """What a peer's code raised: name and message."""


class Peers:
    """A process of the peers' python that answers calls to the modules of ``benchmarks/peers``."""

    def __init__(self) -> None:
        self._noise = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [VENV / "bin/python", "-m", "benchmarks.peers.serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise, text=True, cwd=ROOT,
            env=os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, module: str, function: str, **arguments: object) -> Any:
        """The value of a function of ``benchmarks/peers/<module>_numbers.py``.

        Raises:
            PeerError: The peer's code raised.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"module": f"{module}_numbers", "function": function, "arguments": arguments}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._noise.seek(0)
            raise AssertionError(f"the peers' process ended during {module}.{function}: {self._noise.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Ends the process by ending its input."""
        self._process.communicate()
        self._noise.close()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        line: Where the test stands in its file: the table keeps the order of the tests.
        finding: What was measured, in words with numbers.
    """

    test: str
    line: int
    formula: str
    peer: str
    verdict: Literal["agrees", "differs", "defect"]
    finding: str


class Record(Protocol):
    """Adds a row for the running test; called last, after its assertions."""

    def __call__(self, formula: str, peer: str, verdict: Literal["agrees", "differs", "defect"], finding: str) -> None: ...


@pytest.fixture(scope="session")
def peers() -> Iterator[Peers]:
    """The peers' process."""
    if not (VENV / "installed").exists():
        pytest.skip("the peers are not installed: make peers")
    process = Peers()
    yield process
    process.close()


@pytest.fixture(scope="session")
def rows() -> Iterator[list[Row]]:
    """The rows of all tests; written to the file that SNAPCYCLE_PEER_ROWS names, if it names one."""
    collected: list[Row] = []
    yield collected
    if path := os.environ.get("SNAPCYCLE_PEER_ROWS"):
        Path(path).write_text(json.dumps([asdict(row) for row in collected]))


@pytest.fixture
def record(rows: list[Row], request: pytest.FixtureRequest) -> Record:
    """Adds a row of this test."""
    item = request.node
    test = f"{Path(item.location[0]).name}::{item.originalname}"

    def add(formula: str, peer: str, verdict: Literal["agrees", "differs", "defect"], finding: str) -> None:
        rows.append(Row(test, item.location[1] or 0, formula, peer, verdict, finding))

    return add


@pytest.fixture
def torch_version() -> str:
    """Name and version of torch as a peer; the build does not matter."""
    return f"torch {torch.__version__.partition('+')[0]}"
