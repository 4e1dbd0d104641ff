"""What the routes need, opened once for the life of the application."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from clr.datasets import Dataset, load_dataset
from service.ensembles import EnsembleDirectory
from service.events import EventHub
from service.predictor import Predictor
from service.uploads import remove_abandoned_uploads
from worker.artifacts import ArtifactStore
from worker.celery_app import create_celery, publish
from worker.dataset_store import dataset_path, get_dataset
from worker.job_store import JobStore, StoreUnavailable, connect
from worker.reconciler import run_reconciler
from worker.settings import Settings

KEPT_DATASETS = 8
PARSERS = 2
"""Datasets that are parsed at a time: each may take several times its file's size in memory."""


class DatasetCache:
    """The latest used datasets, mapped from their files, so that checking a job costs no second load."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._loaded: OrderedDict[str, Dataset] = OrderedDict()

    def load(self, dataset_id: str) -> Dataset | None:
        """The dataset of this id; None where there is none."""
        manifest = get_dataset(self._artifacts, dataset_id)
        if manifest is None:
            return None
        if (found := self._find(dataset_id)) is not None:
            return found
        with self._load_lock:
            if (found := self._find(dataset_id)) is not None:
                return found
            dataset = load_dataset(dataset_path(self._artifacts, manifest))
            with self._lock:
                self._loaded[dataset_id] = dataset
                while len(self._loaded) > KEPT_DATASETS:
                    self._loaded.popitem(last=False)
            return dataset

    def _find(self, dataset_id: str) -> Dataset | None:
        with self._lock:
            if dataset_id in self._loaded:
                self._loaded.move_to_end(dataset_id)
            return self._loaded.get(dataset_id)


class RecentOutageError(StoreUnavailable):
    """The job store was away just now, and another request is asking whether it is back."""


class Outage:
    """Remembers that the job store was away, and lets one request at a time ask whether it is back.

    A call to a frozen server takes two seconds, and there are 40 threads for all requests: without this memory the 400th
    request of a burst would wait for nine others, one after the other.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._is_away = False
        self._asking = threading.Lock()

    def notice(self) -> None:
        """Records that a call has failed."""
        self._is_away = True

    def check(self) -> None:
        """Returns at once where the job store was not away, or is back.

        Raises:
            StoreUnavailable: It is away.
        """
        if not self._is_away:
            return
        if not self._asking.acquire(blocking=False):
            raise RecentOutageError("Redis was away just now: repeat the request")
        try:
            self._store.ping()
            self._is_away = False
        finally:
            self._asking.release()


@dataclass(frozen=True)
class Services:
    """The stores and helpers behind the routes."""

    settings: Settings
    store: JobStore
    artifacts: ArtifactStore
    hub: EventHub
    predictor: Predictor
    datasets: DatasetCache
    ensembles: EnsembleDirectory
    publish: Callable[[str], object]
    outage: Outage
    parsing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(PARSERS))
    _closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        """Opens everything and starts the event reader and the reconciler. Redis may be away: it is asked when it is needed."""
        remove_abandoned_uploads(settings.staging_dir)
        store = JobStore(connect(settings))
        artifacts = ArtifactStore.open(settings.artifacts_url)
        services = cls(
            settings=settings,
            store=store,
            artifacts=artifacts,
            hub=EventHub(store),
            predictor=Predictor(artifacts),
            datasets=DatasetCache(artifacts),
            ensembles=EnsembleDirectory(store, artifacts),
            publish=partial(publish, create_celery(settings)),
            outage=Outage(store),
        )
        services.hub.start()
        threading.Thread(
            target=run_reconciler,
            args=(store, artifacts, services.publish),
            kwargs={"settings": settings, "stop": services._closing},
            name="reconciler",
            daemon=True,
        ).start()
        return services

    def close(self) -> None:
        """Ends the threads."""
        self._closing.set()
        self.hub.close()
        self.predictor.close()


async def get_services(request: Request) -> Services:
    """The services of the application that handles the request."""
    services: Services = request.app.state.services
    return services


def get_store(services: Annotated[Services, Depends(get_services)]) -> JobStore:
    """The job store, unless it is known to be away; checked in the thread that the request has waited for."""
    services.outage.check()
    return services.store


ServicesDep = Annotated[Services, Depends(get_services)]
StoreDep = Annotated[JobStore, Depends(get_store)]
