"""The datasets that were used last, loaded."""

import threading
from collections import OrderedDict

from clr.datasets import Dataset, load_dataset
from worker.artifacts import ArtifactStore
from worker.dataset_store import dataset_path, get_dataset

KEPT_DATASETS = 8


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
        dataset_path(self._artifacts, manifest)  # a dataset is mapped from its file, which is looked at again where it has changed
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
