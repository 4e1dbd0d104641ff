"""Predictions inside this process: ensembles from the artifact store, kept by size, answered by the batcher's thread."""

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from clr.ensemble import Ensemble
from service.batcher import Batcher, Outcome, Timed
from service.ensembles import Members
from service.errors import Problem
from worker.artifacts import ArtifactStore
from worker.records import file_path

CACHE_BYTES = 2 << 30
MAX_UNDER_WAY = 256
"""Requests; what each may hold is bounded by the limits of bodies and rows."""

COMPANY_SECONDS = 0.05
"""How long those who ask count as several after two predictions were under way together: their next ones come one by one."""

MAX_THREADS = 4
"""Small ensembles gain nothing from more, and a worker usually trains on the same machine."""


class Predictor:
    """Loaded ensembles and the thread that uses them.

    Invariant: the ensembles kept take at most ``cache_bytes``, or there is only one.
    """

    def __init__(self, artifacts: ArtifactStore, *, cache_bytes: int = CACHE_BYTES, device: str = "cpu", num_processes: int = 1) -> None:
        torch.set_num_threads(max(1, min(MAX_THREADS, torch.get_num_threads() // num_processes)))
        self._artifacts = artifacts
        self._cache_bytes = cache_bytes
        self._device = device
        self._loaded: OrderedDict[tuple[str, ...], Ensemble] = OrderedDict()
        # By content: ensembles of the same snapshots, of which anybody may make any number, are one here.
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._batcher = Batcher()
        self._under_way = 0
        self._company_until = -math.inf

    def close(self) -> None:
        """Ends the inference thread once everything is answered."""
        self._batcher.close()

    def load(self, members: Members) -> Ensemble:
        """The ensemble of these members; one load at a time, since loads compete for the same disk and memory.

        Raises:
            ArtifactMissing, ArtifactDamaged, EnsembleError, SnapshotError: A member is lost or does not fit the others.
        """
        key = members.content
        if (found := self._find(key)) is not None:
            return found
        with self._load_lock:
            if (found := self._find(key)) is not None:
                return found
            paths = [file_path(self._artifacts, snapshot["files"]["weights"]) for snapshot in members.snapshots]
            ensemble = Ensemble.load(paths, device=self._device)
            self._keep(key, ensemble)
            return ensemble

    def loaded(self, members: Members) -> Ensemble | None:
        """The ensemble of these members where it is in memory already."""
        return self._find(members.content)

    @property
    def has_company(self) -> bool:
        """Whether more than one prediction is under way, or was a moment ago."""
        return self._under_way > 1 or time.monotonic() < self._company_until

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the places for predictions under way.

        Raises:
            Problem: All places are taken.
        """
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Takes one of the places for predictions under way, until ``leave``.

        Raises:
            Problem: All places are taken.
        """
        if self._under_way >= MAX_UNDER_WAY:
            raise Problem("overloaded", f"{MAX_UNDER_WAY} predictions are under way, the most that may be: repeat the request in a second")
        self._under_way += 1
        if self._under_way > 1:
            self._company_until = time.monotonic() + COMPANY_SECONDS

    def leave(self) -> None:
        """Gives the place back."""
        self._under_way -= 1

    async def predict(self, ensemble: Ensemble, rows: Tensor, *, with_members: bool = False) -> Timed:
        """Answers rows that ``ensemble.checked`` has passed, with others that wait; ``with_members`` keeps what each member says."""
        return await self._batcher.predict(ensemble, rows, with_members=with_members)

    def submit(self, ensemble: Ensemble, rows: Tensor, tell: Callable[[Outcome], None], loop: asyncio.AbstractEventLoop) -> None:
        """As ``predict``, without a task: ``tell`` gets the outcome on the event loop, and must not raise."""
        self._batcher.submit(ensemble, rows, tell=tell, loop=loop)

    def _find(self, key: tuple[str, ...]) -> Ensemble | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return self._loaded.get(key)

    def _keep(self, key: tuple[str, ...], ensemble: Ensemble) -> None:
        with self._lock:
            self._loaded[key] = ensemble
            while len(self._loaded) > 1 and sum(kept.size_bytes for kept in self._loaded.values()) > self._cache_bytes:
                self._loaded.popitem(last=False)
