"""Counts of several API processes behind one address, as one: prometheus-client's files, which outlive the processes that wrote them.

The library looks at its variable when it is imported, so this module imports nothing of it.
"""

import os
import shutil
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def share_counts(directory: Path) -> None:
    """Has this process and those that it starts count into files of an empty directory.

    To be called once, by the process that starts the others, before it imports ``service.app``.
    """
    shutil.rmtree(directory, ignore_errors=True)  # counts of an earlier start are over
    directory.mkdir(parents=True)
    os.environ[VARIABLE] = str(directory)
