"""Answers calls for the peers' numbers, one JSON document per line, run by the python of the peers' own virtual environment.

A request names a function of a module beside this file and its keyword arguments; the answer holds its value, or the name and
message of what it raised. The peers print freely, so answers leave by a copy of the standard output that only this file holds.
"""

import importlib
import json
import os
import sys
import warnings


def main() -> None:
    """Serves until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        function = getattr(importlib.import_module(f"benchmarks.peers.{request['module']}"), request["function"])
        try:
            answer = {"value": function(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - the process boundary: the caller decides which errors it expected
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
