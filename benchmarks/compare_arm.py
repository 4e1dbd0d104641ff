"""The inside of an arm (``compare_process.ArmProcess``): answers calls, one JSON document per line, until its input ends.

Run by the python of the arm's own virtual environment as ``python -m benchmarks.compare_arm MODULE CORES``.
"""

import importlib
import json
import os
import sys
import traceback
import warnings
from types import ModuleType


def main() -> None:
    """Serves until the standard input ends."""
    name, cores = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # peers print freely, so answers leave by a copy of the standard output
    warnings.simplefilter("ignore")
    module = _module(name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(module, request["function"])(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller decides which errors it expected
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _module(name: str) -> ModuleType:
    """The arm's module, which imports what it measures."""
    match name:
        case "training_own":
            return importlib.import_module("benchmarks.training_own")
        case "training_job":
            return importlib.import_module("benchmarks.training_job")
        case "training_bare":
            return importlib.import_module("benchmarks.training_bare")
        case "training_peers":
            return importlib.import_module("benchmarks.peers.training_peers")
        case "training_libraries":
            return importlib.import_module("benchmarks.peers.training_libraries")
        case "forward_own":
            return importlib.import_module("benchmarks.forward_own")
        case "forward_peers":
            return importlib.import_module("benchmarks.peers.forward_peers")
        case "serving_load":
            return importlib.import_module("benchmarks.serving_load")
        case _:
            raise ValueError(f"there is no arm {name!r}")


if __name__ == "__main__":
    main()
