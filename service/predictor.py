"""Predictions inside this process: ensembles from the artifact store, kept by size, answered by one inference thread.

One thread, because a forward pass uses all of torch's own threads; a second would only make both slower.
"""

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clr.ensemble import Ensemble, EnsemblePrediction, RegressionPrediction
from service.ensembles import Members
from service.errors import Problem
from worker.artifacts import ArtifactStore
from worker.records import file_path

CACHE_BYTES = 2 << 30
MAX_UNDER_WAY = 64
MAX_THREADS = 4
"""Small ensembles gain nothing from more, and a worker usually trains on the same machine."""


_Content = tuple[str, ...]
"""The sha256 of each member's weights, in order: ensembles of the same snapshots, of which anybody may make any number, are one here."""


@dataclass(frozen=True)
class Timed:
    """What an ensemble said, and how long that took."""

    prediction: EnsemblePrediction | RegressionPrediction
    queue_seconds: float
    compute_seconds: float


class Predictor:
    """Loaded ensembles and the thread that uses them.

    Invariant: the ensembles kept take at most ``cache_bytes``, or there is only one.
    """

    def __init__(self, artifacts: ArtifactStore, *, cache_bytes: int = CACHE_BYTES, device: str = "cpu") -> None:
        torch.set_num_threads(min(MAX_THREADS, os.cpu_count() or 1))
        self._artifacts = artifacts
        self._cache_bytes = cache_bytes
        self._device = device
        self._loaded: OrderedDict[_Content, Ensemble] = OrderedDict()
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._under_way = 0

    def close(self) -> None:
        """Ends the inference thread after its current prediction."""
        self._inference.shutdown(wait=True, cancel_futures=True)

    def load(self, members: Members) -> Ensemble:
        """The ensemble of these members; one load at a time, since loads compete for the same disk and memory.

        Raises:
            ArtifactMissing, ArtifactDamaged, EnsembleError, SnapshotError: A member is lost or does not fit the others.
        """
        key = _content(members)
        if (found := self._find(key)) is not None:
            return found
        with self._load_lock:
            if (found := self._find(key)) is not None:
                return found
            paths = [file_path(self._artifacts, snapshot["files"]["weights"]) for snapshot in members.snapshots]
            ensemble = Ensemble.load(paths, device=self._device)
            self._keep(key, ensemble)
            return ensemble

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the places for predictions under way.

        Raises:
            Problem: All places are taken.
        """
        if self._under_way >= MAX_UNDER_WAY:
            raise Problem("overloaded", f"{MAX_UNDER_WAY} predictions are under way, the most that may be: repeat the request in a second")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def predict(self, ensemble: Ensemble, inputs: np.ndarray[Any, Any], *, with_members: bool = False) -> Timed:
        """Answers the rows on the inference thread; ``with_members`` keeps what each member says."""
        asked = time.perf_counter()

        def answer() -> Timed:
            begun = time.perf_counter()
            prediction = ensemble.predict_with_uncertainty(inputs, with_members=with_members)
            return Timed(prediction, begun - asked, time.perf_counter() - begun)

        return await asyncio.get_running_loop().run_in_executor(self._inference, answer)

    def _find(self, key: _Content) -> Ensemble | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return self._loaded.get(key)

    def _keep(self, key: _Content, ensemble: Ensemble) -> None:
        with self._lock:
            self._loaded[key] = ensemble
            while len(self._loaded) > 1 and sum(kept.size_bytes for kept in self._loaded.values()) > self._cache_bytes:
                self._loaded.popitem(last=False)


def _content(members: Members) -> _Content:
    return tuple(snapshot["files"]["weights"]["sha256"] for snapshot in members.snapshots)
