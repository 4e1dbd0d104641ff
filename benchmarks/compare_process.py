"""An arm of a comparison: a process of its own python, which has loaded what it needs and waits for its turn."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
OWN_PYTHON = ROOT / ".venv/bin/python"
PEERS_PYTHON = ROOT / ".bench/peers/bin/python"
EXIT_SECONDS = 30

Json = dict[str, Any]


class ArmError(Exception):
    """What an arm raised: name and message."""


def thread_environment(threads: int) -> dict[str, str]:
    """The environment that gives every arm the same number of threads, which leave the cores as soon as they have nothing to do."""
    number = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(names, number), "GOMP_SPINCOUNT": "1000", "PYTHONWARNINGS": "ignore"}


class ArmProcess:
    """Calls to the functions of one module of ``benchmarks.compare_arm``; blocked on its input, it uses no core between them."""

    def __init__(
        self, python: Path, module: str, *, cores: Sequence[int], threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._module = module
        self._noise = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.compare_arm", module, ",".join(map(str, cores))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **thread_environment(threads), **(environment or {})},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(self, function: str, **arguments: object) -> Any:
        """The value that the function returns.

        Raises:
            ArmError: It raised, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"function": function, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._noise.seek(0)
            raise ArmError(f"the arm {self._module} ended during {function}: {self._noise.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ArmError(f"{self._module}.{function}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """Ends the process by ending its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._noise.close()
