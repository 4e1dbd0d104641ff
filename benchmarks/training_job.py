"""Our whole job, from the request to its end: API, queue, worker, trainer process, snapshots and checkpoints in the store."""

import atexit
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.training_tiers_data import QUICK, TIERS, dataset_of
from service.client import Client
from service.embedded import Stack
from worker.settings import Settings

IDLE_SECONDS = 6.0
"""After the start and after each job, outside its clock: time for the worker to warm its next trainer up, so that this takes no core from
whoever is measured next, and every job finds an idle service."""

_running = ExitStack()
_service: dict[str, Client] = {}
_datasets: dict[str, str] = {}


def read(tier: str, directory: str, *, quick: bool) -> None:  # noqa: ARG001 - as the other arms are called
    """Starts the service once, and uploads the tier's rows."""
    if not _service:
        atexit.register(_running.close)
        data_dir = Path(_running.enter_context(tempfile.TemporaryDirectory(prefix="snapcycle-bench-")))
        log = _running.enter_context((data_dir / "log").open("wb"))
        settings = Settings(redis_url=None, artifacts=None, data_dir=data_dir, host="127.0.0.1", port=0)
        stack = _running.enter_context(Stack(settings, num_workers=1, log=log))
        _service["client"] = _running.enter_context(Client(stack.url))
        time.sleep(IDLE_SECONDS)
    data = dataset_of((QUICK if quick else TIERS)[tier])
    assert data.test_inputs is not None
    assert data.test_targets is not None
    arrays = (data.inputs.numpy(), data.targets.numpy())
    uploaded = _service["client"].datasets.upload_arrays(
        *arrays, x_test=data.test_inputs.numpy(), y_test=data.test_targets.numpy(), name=f"tier {tier}"
    )
    _datasets[tier] = uploaded["id"]


def run(tier: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Submits the tier's run and waits for its end; the clock runs from before the request until the client knows."""
    config = (QUICK if quick else TIERS)[tier].config(seed).model_dump(mode="json", exclude_none=True)
    began = time.perf_counter()
    job = _service["client"].jobs.submit({"kind": "train", "dataset_id": _datasets[tier], **config}).wait()
    seconds = time.perf_counter() - began
    result = job.result()
    time.sleep(1.0 if quick else IDLE_SECONDS)
    return {
        "seconds": seconds,
        "accuracies": [each["accuracy"] for each in result["ensemble_sizes"]["test"]["first"]],
        "peak_megabytes": None,
        "cores": len(os.sched_getaffinity(0)),
    }
