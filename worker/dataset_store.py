"""Datasets in the artifact store: one file of tensors each, and a manifest that makes it visible."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from worker.artifacts import ArtifactDamaged, ArtifactStore
from worker.ids import is_id
from worker.jobs import now_rfc3339
from worker.records import MANIFEST, dataset_prefix, file_path, read_document, store_file, write_document


class DatasetPage(NamedTuple):
    """Some datasets, and whether there are more in the direction of reading."""

    datasets: list[dict[str, Any]]
    has_more: bool


def put_dataset(artifacts: ArtifactStore, dataset_id: str, data_path: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Stores a dataset and returns its manifest.

    Args:
        artifacts: The store.
        dataset_id: A fresh id.
        data_path: The file that ``clr.datasets.save_dataset`` wrote; the caller's to remove.
        description: What the manifest says besides: name, task, summary, ….
    """
    data = store_file(artifacts, _data_key(dataset_id), data_path)
    manifest = {**description, "id": dataset_id, "created_at": now_rfc3339(), "files": {"data": data}}
    write_document(artifacts, f"{dataset_prefix(dataset_id)}/{MANIFEST}", manifest)
    return manifest


def get_dataset(artifacts: ArtifactStore, dataset_id: str) -> dict[str, Any] | None:
    """The manifest of a dataset; None where there is none of this id."""
    return read_document(artifacts, f"{dataset_prefix(dataset_id)}/{MANIFEST}") if is_id("ds", dataset_id) else None


def dataset_path(artifacts: ArtifactStore, manifest: dict[str, Any]) -> Path:
    """A local, verified file with the dataset's tensors, for ``clr.datasets.load_dataset``."""
    return file_path(artifacts, manifest["files"]["data"])


def list_datasets(
    artifacts: ArtifactStore,
    *,
    after: str | None = None,
    limit: int = 20,
    order: Literal["asc", "desc"] = "desc",
    is_wanted: Callable[[str], bool] = lambda _: True,
) -> DatasetPage:
    """A page of manifests in the order of their ids, so of their creation, from the one that follows ``after``.

    ``is_wanted`` says of an id whether the list has it.
    """
    ids = [name for name in artifacts.list_names("datasets") if is_id("ds", name)]
    if order == "desc":
        ids.reverse()
    if after is not None:
        ids = [name for name in ids if (name < after if order == "desc" else name > after)]
    found: list[dict[str, Any]] = []
    for dataset_id in ids:
        try:
            manifest = get_dataset(artifacts, dataset_id) if is_wanted(dataset_id) else None
        except ArtifactDamaged:  # one that cannot be read keeps no other one away
            continue
        if manifest is None:  # not wanted, being written, or being deleted
            continue
        if len(found) == limit:
            return DatasetPage(found, has_more=True)
        found.append(manifest)
    return DatasetPage(found, has_more=False)


def delete_dataset(artifacts: ArtifactStore, dataset_id: str) -> None:
    """Removes a dataset that no job uses (see JobStore.delete_dataset_guard); the manifest goes last, so it can be repeated."""
    artifacts.delete(_data_key(dataset_id))
    artifacts.delete_prefix(dataset_prefix(dataset_id))


def _data_key(dataset_id: str) -> str:
    return f"{dataset_prefix(dataset_id)}/data.safetensors"
