"""The trainer process: takes one job from stdin, does it, stages files in the working directory, tells about it on stdout, exits.

It knows neither the job store nor the artifact store, so it holds no credentials, and it ends when stdin does: a worker that was
killed takes its trainer along. Started as ``python -m worker.trainer`` by ``worker.trainer_process``.
"""

import argparse
import os
import signal
import sys
import traceback
from threading import Thread
from typing import BinaryIO, NoReturn, assert_never

import numpy as np
import torch

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.training import train
from worker import failpoints
from worker.evaluate_job import EvaluateJob
from worker.failpoints import failpoint
from worker.job_specs import EvaluateSpec, RangeTestSpec, StudySpec, TrainSpec
from worker.protocol import EXIT_FAILED, Line, Ready, StopRequest, TrainerJob
from worker.range_test_job import RangeTestJob
from worker.sandbox import bound_memory, confine
from worker.study_job import StudyJob
from worker.train_job import TrainJob
from worker.trainer_dialogue import Requests, Send
from worker.trainer_failures import failure_of


def main() -> int:
    """Warms up, runs the job that stdin brings, and returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs one job for a snapcycle worker.")
    parser.add_argument("--device", required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--file-bytes", type=int, required=True)
    arguments = parser.parse_args()
    device = _choose_device(arguments.device)
    send = _claim_stdout()
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    confine(arguments.file_bytes)
    make_deterministic()
    warm_up(device)
    if device == "cpu":
        bound_memory(arguments.memory_bytes)
    send(Ready())
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    job = TrainerJob.model_validate_json(line)
    requests = Requests()
    signal.signal(signal.SIGTERM, lambda *_: setattr(requests, "drain", True))
    Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    try:
        failpoint("trainer.job_received")
        return run_job(job, device, send, requests)
    except Exception as error:  # noqa: BLE001  # the process boundary: the worker records it
        failed = failure_of(error)
        if failed is None or failed.category != "user":  # what the request asked for is no defect, and its message says all
            traceback.print_exc()
        if failed is not None:
            send(failed)
        return EXIT_FAILED


def run_job(job: TrainerJob, device: str, send: Send, requests: Requests) -> int:
    """Does what the job's kind asks for, and returns the exit status.

    Each kind tells ``Started``, ``FirstStep`` and ``Progress``, stages what it makes, looks at ``requests`` between two steps, and ends
    with ``Finished``; where it was asked to drain, with ``EXIT_DRAINED``.
    """
    match job.spec:
        case TrainSpec() as spec:
            return TrainJob(spec, job, device, send, requests).to_end()
        case RangeTestSpec() as spec:
            return RangeTestJob(spec, job, device, send, requests).to_end()
        case StudySpec() as spec:
            return StudyJob(spec, job, device, send, requests).to_end()
        case EvaluateSpec() as spec:
            return EvaluateJob(spec, job, device, send, requests).to_end()
        case unknown:
            assert_never(unknown)


def make_deterministic() -> None:
    """Fixes every choice that could change the bits of a run."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a module class; nothing reads memory that it has not written
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # torch's default rounds fp32 convolutions to 10 bits, in evaluation as well
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def warm_up(device: str) -> None:
    """Trains toy runs, so that the job's first step pays for no lazy import, kernel choice or device context."""
    generator = np.random.default_rng(0)
    dataset = Dataset.from_arrays(generator.random((64, 8, 8), dtype=np.float32), np.arange(64) % 2)
    schedule = {"type": "warm_restarts", "cycles": 1, "epochs": 1}
    for architecture in ("mlp", "small_cnn"):
        config = TrainingConfig.model_validate({"model": {"architecture": architecture}, "schedule": schedule, "batch_size": 16})
        for _ in train(config, dataset, device=device):
            pass


def _choose_device(name: str) -> str:
    """The device that ``auto`` means on this machine; other names as they are."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _claim_stdout() -> Send:
    """Returns what writes to the supervisor, and sends all stray output of libraries to stderr instead."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(line: Line) -> None:
        pipe.write(line.encode())
        pipe.flush()

    return send


def _listen(stdin: BinaryIO, requests: Requests) -> NoReturn:
    """Takes stop requests in; ends the process with its stdin, whatever the training does."""
    for line in stdin:
        requests.stop = StopRequest.model_validate_json(line).when
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    # Nothing is left to tear down, and the listening thread would keep a regular exit from closing stdin.
    os._exit(main())
