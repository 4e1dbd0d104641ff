"""What the routes need, opened once for the life of the application."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from service.allowances import Allowance
from service.api_keys import KeyStore
from service.authorization import Door, PrincipalDep
from service.dataset_cache import DatasetCache
from service.ensembles import EnsembleDirectory
from service.event_streams import stream_allowance
from service.events import EventHub
from service.key_ring import KeyRing
from service.memory_pressure import MemoryGauge
from service.outage import Outage
from service.predictor import Predictor
from service.rate_limits import RateLimits
from service.receiving import body_allowance
from service.tenant_jobs import TenantJobStore
from service.tenants import DatasetOwners, TenantDatasets
from service.upload_admission import UploadGate
from service.uploads import remove_abandoned_uploads
from worker import failpoints
from worker.artifacts import ArtifactStore
from worker.celery_app import create_celery, publish
from worker.job_store import JobStore, connect
from worker.jobs import DEFAULT_TENANT
from worker.reconciler import run_reconciler
from worker.settings import Settings

LANE_THREADS = 16
"""Requests that submit, and requests that read jobs, at a time: two lanes, so that a list never waits behind synced writes."""
PARSERS = 2
"""Datasets that are parsed at a time: each may take several times its file's size in memory."""
UNPACKERS = 2
"""Inferences with a compressed body that are answered at a time: a small body can unpack to the largest that a prediction may have."""


@dataclass(frozen=True)
class Services:
    """The stores and helpers behind the routes.

    Attributes:
        tenant: Whose objects ``store``, ``datasets`` and ``ensembles`` have. As opened, ``store`` has everybody's.
        door: Who gets in.
        bodies: Bytes of bodies of predictions that arrive or are being answered.
        streams: Event streams that are open.
        uploads: Uploads under way.
    """

    settings: Settings
    tenant: str
    door: Door
    store: JobStore
    artifacts: ArtifactStore
    hub: EventHub
    predictor: Predictor
    datasets: TenantDatasets
    datasets_of: Callable[[str], TenantDatasets]
    ensembles: EnsembleDirectory
    publish: Callable[[str], object]
    outage: Outage
    memory: MemoryGauge
    bodies: Allowance
    streams: Allowance
    uploads: UploadGate = field(default_factory=UploadGate)
    writing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LANE_THREADS))
    reading: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LANE_THREADS))
    parsing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(PARSERS))
    unpacking: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(UNPACKERS))
    _views: dict[str, "Services"] = field(default_factory=dict)
    _closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        """Opens everything and starts the event reader and the reconciler. Redis may be away: it is asked when it is needed."""
        failpoints.arm(settings.failpoints)
        remove_abandoned_uploads(settings.staging_dir)
        store = JobStore(connect(settings))
        artifacts = ArtifactStore.open(settings.artifacts_url)
        ring = KeyRing(KeyStore.open(settings, artifacts))
        datasets_of = partial(TenantDatasets, artifacts, DatasetCache(artifacts), DatasetOwners(artifacts))
        services = cls(
            settings=settings,
            tenant=DEFAULT_TENANT,
            door=Door(ring, auth=settings.auth, limits=RateLimits(rate=settings.rate_limit, burst=settings.rate_burst)),
            store=store,
            artifacts=artifacts,
            hub=EventHub(store),
            predictor=Predictor(artifacts, num_processes=settings.api_processes),
            datasets=datasets_of(DEFAULT_TENANT),
            datasets_of=datasets_of,
            ensembles=EnsembleDirectory(store, artifacts),
            publish=partial(publish, create_celery(settings)),
            outage=Outage(store),
            memory=MemoryGauge(store),
            bodies=body_allowance(settings.max_predict_bytes),
            streams=stream_allowance(settings.max_connections),
        )
        ring.start()
        services.memory.start()
        services.hub.start()
        threading.Thread(
            target=run_reconciler,
            args=(store, artifacts, services.publish),
            kwargs={"settings": settings, "stop": services._closing},
            name="reconciler",
            daemon=True,
        ).start()
        return services

    def seen_by(self, tenant: str) -> "Services":
        """The services with this tenant's objects alone."""
        view = self._views.get(tenant)
        if view is None:
            store = TenantJobStore(self.store, tenant)
            ensembles = EnsembleDirectory(store, self.artifacts, tenant=tenant)
            view = replace(self, tenant=tenant, store=store, datasets=self.datasets_of(tenant), ensembles=ensembles)
            self._views[tenant] = view
        return view

    def close(self) -> None:
        """Ends the threads."""
        self._closing.set()
        self.door.ring.close()
        self.memory.close()
        self.hub.close()
        self.predictor.close()


async def get_services(request: Request, principal: PrincipalDep) -> Services:
    """The services of the application that handles the request, with the objects of its sender alone."""
    services: Services = request.app.state.services
    return services.seen_by(principal.tenant)


def get_store(services: Annotated[Services, Depends(get_services)]) -> JobStore:
    """The job store, unless it is known to be away; checked in the thread that the request has waited for."""
    services.outage.check()
    return services.store


ServicesDep = Annotated[Services, Depends(get_services)]
StoreDep = Annotated[JobStore, Depends(get_store)]
