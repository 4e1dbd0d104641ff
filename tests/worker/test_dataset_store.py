from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.artifacts import ArtifactDamaged, ArtifactStore
from worker.dataset_store import dataset_path, delete_dataset, get_dataset, list_datasets, put_dataset
from worker.ids import new_id

DESCRIPTION = {"name": "digits", "task": "classification", "summary": {"rows": 1797}}


@pytest.fixture
def put(artifacts: ArtifactStore, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    staged = tmp_path / "staged.safetensors"
    staged.write_bytes(b"tensors")
    return lambda dataset_id: put_dataset(artifacts, dataset_id, staged, DESCRIPTION)


def test_a_dataset_reads_back(artifacts: ArtifactStore, put: Callable[[str], dict[str, Any]]) -> None:
    dataset_id = new_id("ds")
    manifest = put(dataset_id)
    assert get_dataset(artifacts, dataset_id) == manifest
    assert {name: manifest[name] for name in ("id", *DESCRIPTION)} == {"id": dataset_id, **DESCRIPTION}
    assert manifest["files"]["data"]["size_bytes"] == 7
    assert dataset_path(artifacts, manifest).read_bytes() == b"tensors"
    delete_dataset(artifacts, dataset_id)
    assert get_dataset(artifacts, dataset_id) is None
    assert artifacts.list_names("datasets") == []


def test_a_dataset_without_manifest_does_not_exist(artifacts: ArtifactStore, put: Callable[[str], dict[str, Any]]) -> None:
    half, whole = new_id("ds"), new_id("ds")
    artifacts.create(f"datasets/{half}/data.safetensors", b"tensors")
    put(whole)
    assert get_dataset(artifacts, half) is None
    assert [manifest["id"] for manifest in list_datasets(artifacts).datasets] == [whole]


def test_ids_of_another_form_find_nothing(artifacts: ArtifactStore) -> None:
    artifacts.create("datasets/other/manifest.json", b"{}")
    for dataset_id in ("other", "", "..", "ds_", "../jobs"):
        assert get_dataset(artifacts, dataset_id) is None


def test_datasets_are_listed_by_age(artifacts: ArtifactStore, put: Callable[[str], dict[str, Any]]) -> None:
    a, b, c = (f"ds_{number:026d}" for number in range(3))
    for dataset_id in (b, c, a):
        put(dataset_id)

    def page(**kwargs: Any) -> tuple[list[str], bool]:
        datasets, has_more = list_datasets(artifacts, **kwargs)
        return [manifest["id"] for manifest in datasets], has_more

    assert page() == ([c, b, a], False)
    assert page(limit=2) == ([c, b], True)
    assert page(limit=2, after=b) == ([a], False)
    assert page(limit=2, order="asc") == ([a, b], True)
    assert page(limit=1, order="asc", after=b) == ([c], False)


def test_a_damaged_manifest_is_named(artifacts: ArtifactStore, put: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    dataset_id = new_id("ds")
    put(dataset_id)
    (tmp_path / "artifacts" / "datasets" / dataset_id / "manifest.json").write_bytes(b"\0\0")
    with pytest.raises(ArtifactDamaged, match=f"datasets/{dataset_id}/manifest.json is damaged"):
        get_dataset(artifacts, dataset_id)
