"""A service that asks for keys, with two tenants who have one object of each kind."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from service.principals import Scope
from tests.service.conftest import TRAINING, Server, Trained, Worker, make_settings, npz_bytes, upload
from worker.valkey_server import ValkeyServer

Json = dict[str, Any]

STUDY = {
    "kind": "study",
    "model": TRAINING["model"],
    "batch_size": 16,
    "seeds": [0],
    "cycles": 2,
    "epochs": 2,
    "arms": ["snapshot_ensemble", "cosine"],
}
RANGE_TEST = {"kind": "range_test", "model": TRAINING["model"], "num_rates": 20, "batch_size": 16}


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of every route of the application, but for FastAPI's own document."""
    contexts = [
        context for route in app.routes if hasattr(route, "effective_route_contexts") for context in route.effective_route_contexts()
    ]
    plain = [(method, route.path) for route in app.routes if hasattr(route, "path") for method in getattr(route, "methods", None) or ()]
    assert {path for _, path in plain} == {"/openapi.json"}, "a route without a scope"
    return sorted((method, context.path) for context in contexts for method in context.methods or ())


@dataclass
class Tenant:
    """A tenant with keys and objects."""

    name: str
    api: httpx2.Client
    keys: dict[str, str]
    dataset_id: str = ""
    job_id: str = ""
    ensemble_id: str = ""
    chosen_id: str = ""
    snapshot_ids: list[str] = field(default_factory=list)


@dataclass
class KeyedService:
    """The server, and who uses it."""

    server: Server
    worker: Worker
    trained: Trained
    tenants: dict[str, Tenant]

    def key(self, tenant: str, *scopes: Scope, expires_in_days: float | None = None) -> str:
        """A fresh key."""
        made = self.server.services.door.ring.store.create(
            scopes=scopes or tuple(Scope), tenant=tenant, name=None, expires_in_days=expires_in_days
        )
        self.server.services.door.ring.refresh()
        return made[1]

    def client(self, key: str | None) -> httpx2.Client:
        """A client that sends this key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.server.url, timeout=30, trust_env=False, headers=headers)

    def finished_job(self, tenant: Tenant, **fields: Any) -> str:
        """A job of the tenant that has succeeded with three snapshots."""
        response = tenant.api.post("/v1/jobs", json={"dataset_id": tenant.dataset_id, **TRAINING, **fields})
        assert response.status_code == 202, response.text
        job_id = str(response.json()["id"])
        self.worker.claim(job_id)
        for step in (1, 2, 3):
            self.worker.progress(job_id, step)
        for cycle in range(3):
            self.worker.snapshot(job_id, cycle)
        self.worker.finish(job_id)
        return job_id


@contextmanager
def keyed_service(directory: Path, trained: Trained, **limits: Any) -> Iterator[KeyedService]:
    """A service of its own, with its own Valkey, and the tenants a and b."""
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(directory / "valkey"))
        server = stack.enter_context(Server(make_settings(valkey, directory / "data", auth="on", **limits)))
        service = KeyedService(server, Worker(server, trained), trained, {})
        for name in ("a", "b"):
            key = service.key(name)
            tenant = Tenant(name, stack.enter_context(service.client(key)), {"all": key})
            service.tenants[name] = tenant
            tenant.dataset_id = upload(tenant.api, npz_bytes(x=trained.x, y=trained.y)).json()["id"]
            tenant.job_id = service.finished_job(tenant)
            tenant.ensemble_id = tenant.api.get(f"/v1/jobs/{tenant.job_id}").json()["ensemble_id"]
            tenant.snapshot_ids = [each["id"] for each in tenant.api.get(f"/v1/jobs/{tenant.job_id}/snapshots").json()["data"]]
            tenant.chosen_id = tenant.api.post("/v1/ensembles", json={"members": tenant.snapshot_ids[:2]}).json()["id"]
        yield service
