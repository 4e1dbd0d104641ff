"""Our own service for the comparison: the whole stack on one core, with an ensemble that it has trained itself."""

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_safetensors

from benchmarks.compare_process import thread_environment
from benchmarks.training_tiers_data import TIERS, Tier, dataset_of
from service.client import Client
from service.embedded import Stack
from worker.settings import Settings

MEMBERS = 5
ROWS = 10_000
TIER = Tier("A", "mlp", TIERS["A"].model, ROWS, MEMBERS, 1, 1_000)


@dataclass(frozen=True)
class OwnService:
    """Where it answers, and its ensemble."""

    port: int
    ensemble_id: str


@contextmanager
def own_service(members: Path, directory: Path, core: int) -> Iterator[OwnService]:
    """Starts it on ``core``, trains the members there, and writes their weights for the peers.

    Its worker has ended when the first prediction is measured: an idle one would take time from everybody on the core.
    """
    before = os.sched_getaffinity(0)
    os.environ.update(thread_environment(1))
    settings = Settings(redis_url=None, artifacts=None, data_dir=directory / "snapcycle", host="127.0.0.1", port=0)
    (directory / "snapcycle").mkdir()
    os.sched_setaffinity(0, {core})  # what this process starts inherits it
    try:
        with (directory / "snapcycle.log").open("wb") as log, Stack(settings, num_workers=1, log=log) as stack:
            os.sched_setaffinity(0, before)
            with Client(stack.url) as client:
                ensemble_id = _train(client, stack.url, members)
            for worker in stack.workers:
                worker.ask_to_stop()
            for worker in stack.workers:
                worker.end(seconds=15)
            yield OwnService(int(stack.url.rpartition(":")[2]), ensemble_id)
    finally:
        os.sched_setaffinity(0, before)


def _train(client: Client, url: str, members: Path) -> str:
    data = dataset_of(TIER)
    assert data.test_inputs is not None
    assert data.test_targets is not None
    uploaded = client.datasets.upload_arrays(
        data.inputs.numpy(), data.targets.numpy(), x_test=data.test_inputs.numpy(), y_test=data.test_targets.numpy(), name="fashion-mnist"
    )
    config = TIER.config(0, precision="fp32").model_dump(mode="json", exclude_none=True)
    job = client.jobs.submit({"kind": "train", "dataset_id": uploaded["id"], **config}).wait()
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for number, snapshot in enumerate(job.snapshots()):
        with urllib.request.urlopen(f"{url}/v1/snapshots/{snapshot['id']}/weights") as answer:
            tensors = load_safetensors(answer.read())
        arrays["moments"] = np.array([tensors.pop("preprocessing.mean").item(), tensors.pop("preprocessing.std").item()], np.float32)
        arrays |= {f"{number}.{name}": array for name, array in tensors.items()}
    members.mkdir()
    for name, array in arrays.items():
        np.save(members / f"{name}.npy", array, allow_pickle=False)
    np.save(members / "rows.npy", data.test_inputs[:200].numpy(), allow_pickle=False)
    return str(job.data["ensemble_id"])
