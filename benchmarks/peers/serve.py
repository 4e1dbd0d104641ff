"""Answers calls for the peers' numbers, one JSON document per line, run by the python of the peers' own virtual environment.

A request names a function of a module beside this file and its keyword arguments; the answer holds its value, or the name and
message of what it raised. The peers print freely, so answers leave by a copy of the standard output that only this file holds.
"""

import importlib
import json
import os
import sys
import warnings
from types import ModuleType


def main() -> None:
    """Serves until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        function = getattr(_module(request["module"]), request["function"])
        try:
            answer = {"value": function(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller decides which errors it expected
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _module(name: str) -> ModuleType:
    """The peer's module, which imports the peer: each takes seconds."""
    match name:
        case "fastai_numbers":
            return importlib.import_module("benchmarks.peers.fastai_numbers")
        case "lightning_numbers":
            return importlib.import_module("benchmarks.peers.lightning_numbers")
        case "lr_finder_numbers":
            return importlib.import_module("benchmarks.peers.lr_finder_numbers")
        case "timm_numbers":
            return importlib.import_module("benchmarks.peers.timm_numbers")
        case "torchensemble_numbers":
            return importlib.import_module("benchmarks.peers.torchensemble_numbers")
        case _:
            raise ValueError(f"there is no module {name!r} beside this file")


if __name__ == "__main__":
    main()
