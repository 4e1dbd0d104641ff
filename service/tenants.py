"""The datasets as one tenant sees them: what belongs to another one isn't there. Routes get nothing else.

A foreign id and an unknown one take the same way through a route, and so have the same answer. The jobs: ``service.tenant_jobs``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clr.datasets import Dataset
from service.dataset_cache import DatasetCache
from worker.artifacts import ArtifactStore
from worker.dataset_store import DatasetPage, delete_dataset, get_dataset, list_datasets, put_dataset
from worker.jobs import DEFAULT_TENANT

Json = dict[str, Any]


def tenant_of(document: Json) -> str:
    """Whose a stored document is; what was made before there were tenants is the default one's."""
    return str(document.get("tenant", DEFAULT_TENANT))


@dataclass(frozen=True)
class _Owned:
    tenant: str
    size_bytes: int


class DatasetOwners:
    """Whose each dataset is, and its size: read once, since a manifest never changes."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._known: dict[str, _Owned] = {}

    def is_of(self, dataset_id: str, tenant: str) -> bool:
        """Whether the dataset is there and the tenant's."""
        owned = self._find(dataset_id)
        return owned is not None and owned.tenant == tenant

    def stored_bytes(self, tenant: str) -> int:
        """What the tenant's datasets take."""
        names = self._artifacts.list_names("datasets")
        found = [owned for name in names if (owned := self._find(name)) is not None]
        return sum(owned.size_bytes for owned in found if owned.tenant == tenant)

    def forget(self, dataset_id: str) -> None:
        """Lets go of a dataset that is no more."""
        self._known.pop(dataset_id, None)

    def _find(self, dataset_id: str) -> _Owned | None:
        if (known := self._known.get(dataset_id)) is not None:
            return known
        manifest = get_dataset(self._artifacts, dataset_id)
        if manifest is None:
            return None
        owned = _Owned(tenant_of(manifest), manifest["files"]["data"]["size_bytes"])
        self._known[dataset_id] = owned
        return owned


class TenantDatasets:
    """One tenant's datasets."""

    def __init__(self, artifacts: ArtifactStore, cache: DatasetCache, owners: DatasetOwners, tenant: str) -> None:
        self._artifacts, self._cache, self._owners, self._tenant = artifacts, cache, owners, tenant

    def get(self, dataset_id: str) -> Json | None:
        """The manifest of a dataset; None where there is none of this id."""
        manifest = get_dataset(self._artifacts, dataset_id)
        return manifest if manifest is not None and tenant_of(manifest) == self._tenant else None

    def load(self, dataset_id: str) -> Dataset | None:
        """The dataset of this id; None where there is none."""
        return self._cache.load(dataset_id) if self._owners.is_of(dataset_id, self._tenant) else None

    def list(self, *, after: str | None, limit: int, order: Literal["asc", "desc"]) -> DatasetPage:
        """A page of manifests in the order of their ids, from the one that follows ``after``."""
        return list_datasets(
            self._artifacts, after=after, limit=limit, order=order, is_wanted=lambda name: self._owners.is_of(name, self._tenant)
        )

    def put(self, dataset_id: str, data_path: Path, description: Json) -> Json:
        """Stores a dataset as this tenant's and returns its manifest."""
        return put_dataset(self._artifacts, dataset_id, data_path, {**description, "tenant": self._tenant})

    def delete(self, dataset_id: str) -> None:
        """Removes a dataset that no job uses."""
        delete_dataset(self._artifacts, dataset_id)
        self._owners.forget(dataset_id)

    def stored_bytes(self) -> int:
        """What they take in the artifact store."""
        return self._owners.stored_bytes(self._tenant)
