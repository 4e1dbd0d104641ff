"""Data sets: what is accepted and how it is encoded, what is refused and how, and files that come back the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from clr import datasets
from clr.datasets import Dataset, Task, class_counts, load_csv, load_dataset, load_npz, save_dataset, summarize
from clr.errors import DatasetError

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([3, 1, 3, 2, 1, 3])


@pytest.mark.parametrize(
    ("y", "names", "indices"),
    [
        (Y, ("1", "2", "3"), [2, 0, 2, 1, 0, 2]),
        (np.array([10, 9, 10, 9, 9, 9], np.uint8), ("9", "10"), [1, 0, 1, 0, 0, 0]),
        (np.array([True, False, True, True, True, True]), ("False", "True"), [1, 0, 1, 1, 1, 1]),
        (np.array(["b", "a", "b", "c", "a", "a"]), ("a", "b", "c"), [1, 0, 1, 2, 0, 0]),
        (Y[:, None], ("1", "2", "3"), [2, 0, 2, 1, 0, 2]),
    ],
)
def test_labels_of_any_kind_become_indices_in_sorted_order(y: np.ndarray[Any, Any], names: tuple[str, ...], indices: list[int]) -> None:
    dataset = Dataset.from_arrays(X, y)
    assert dataset.task is Task.CLASSIFICATION
    assert dataset.class_names == names
    assert dataset.targets.tolist() == indices
    assert dataset.targets.dtype == torch.int64
    assert dataset.num_outputs == len(names)


def test_floats_are_values_unless_the_task_says_otherwise() -> None:
    regression = Dataset.from_arrays(X, Y.astype(np.float64))
    assert (regression.task, regression.class_names, regression.num_outputs) == (Task.REGRESSION, (), 1)
    assert regression.targets.tolist() == [3.0, 1.0, 3.0, 2.0, 1.0, 3.0]
    assert Dataset.from_arrays(X, Y.astype(np.float64), task="classification").class_names == ("1", "2", "3")
    assert Dataset.from_arrays(X, Y, task=Task.REGRESSION).targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "kept"), [("u1", torch.uint8), ("f8", torch.float32), ("f2", torch.float32), ("i8", torch.float32), ("?", torch.float32)]
)
def test_only_unsigned_bytes_keep_their_type(dtype: str, kept: torch.dtype) -> None:
    dataset = Dataset.from_arrays(X.astype(dtype), Y)
    assert dataset.inputs.dtype is kept
    np.testing.assert_array_equal(dataset.inputs.numpy(), X.astype(dtype).astype(np.float64))


def test_arrays_that_cannot_be_written_to_are_copied_without_a_warning() -> None:
    frozen = np.frombuffer(X.tobytes(), np.float32).reshape(6, 2)
    assert Dataset.from_arrays(frozen, Y).sha256 == Dataset.from_arrays(X, Y).sha256


def test_hash_tells_content_apart_and_nothing_else() -> None:
    base = Dataset.from_arrays(X, Y, x_test=X[:2], y_test=Y[:2])
    assert base.sha256 == Dataset.from_arrays(np.asfortranarray(X.astype(np.float64)), Y.astype(np.int8), x_test=X[:2], y_test=Y[:2]).sha256
    others = [
        Dataset.from_arrays(X, Y),
        Dataset.from_arrays(X + 1, Y, x_test=X[:2], y_test=Y[:2]),
        Dataset.from_arrays(X, Y + 1, x_test=X[:2], y_test=Y[:2] + 1),
        Dataset.from_arrays(X, np.flip(Y), x_test=X[:2], y_test=Y[:2]),
        Dataset.from_arrays(X.reshape(6, 1, 2), Y, x_test=X[:2].reshape(2, 1, 2), y_test=Y[:2]),
        Dataset.from_arrays(X.astype(np.uint8), Y, x_test=X[:2].astype(np.uint8), y_test=Y[:2]),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 7


NAN = X.copy()
NAN[4, 1] = np.nan


@pytest.mark.parametrize(
    ("arguments", "message", "pointer"),
    [
        ({"x": NAN}, r"x must hold finite numbers within float32, got nan at \(4, 1\)", "#/file"),
        ({"x": X.astype(np.float64) * 1e38}, r"finite numbers within float32, got 4e\+38 at \(2, 0\)", "#/file"),
        ({"x": X[:, 0]}, r"x must have the shape .* got \(6,\)", "#/file"),
        ({"x": X[:0], "y": Y[:0]}, r"got \(0, 2\)", "#/file"),
        ({"x": X.reshape(6, 1, 1, 1, 2)}, r"got \(6, 1, 1, 1, 2\)", "#/file"),
        ({"x": X.astype(str)}, "x must hold numbers, got <U", "#/file"),
        ({"x": X.astype(complex)}, "x must hold numbers, got complex128", "#/file"),
        ({"y": Y[:5]}, "y must hold a target for each of the 6 rows, got 5", "#/file"),
        ({"y": np.eye(6)}, r"one target a row, got the shape \(6, 6\): turn one-hot labels around with argmax", "#/file"),
        ({"y": np.array([1, 2, np.inf, 1, 2, 1])}, "y must hold finite numbers, got inf in row 2", "#/file"),
        ({"y": np.ones(6, int)}, "between 2 and 10000 different labels, got 1", "#/file"),
        ({"y": np.array([1, 2, 1.5, 1, 2, 1]), "task": "classification"}, "whole numbers for classification, got 1.5 in row 2", "#/task"),
        ({"y": np.array(list("aabbab")), "task": "regression"}, "regression needs numbers as targets, got text", "#/task"),
        ({"y": Y.astype(float) * 1e39}, r"y must be within float32, got 3e\+39 in row 0", "#/file"),
        ({"task": "clasification"}, r"got 'clasification' \(did you mean 'classification'\?\)", "#/task"),
        ({"x_test": X}, "x_test needs y_test", "#/file"),
        ({"x_test": X[:, :1], "y_test": Y}, r"rows like x, torch.float32 \(2,\), got torch.float32 \(1,\)", "#/file"),
        ({"x_test": X[:1], "y_test": np.array([7])}, "y_test must hold the labels 1, 2, 3, got 7 in row 0", "#/file"),
        ({"x_test": X[:1], "y_test": np.array(["1"])}, "y_test must hold integers as labels, got text", "#/file"),
        ({"x_test": X[:2], "y_test": Y[:1]}, "y_test must hold a target for each of the 2 rows, got 1", "#/file"),
        ({"y": np.array(["a\n", "b", "b", "b", "b", "b"])}, r"printable characters, got 'a\\n'", "#/file"),
        ({"y": np.array(["a", "b" * 201, "a", "a", "a", "a"])}, "1 to 200 printable", "#/file"),
        ({"y": np.array(["a", "\ud800", "a", "a", "a", "a"])}, "printable characters", "#/file"),
        ({"y": np.array([1, 2, 3, 1, 2, None])}, "y must hold numbers or text, got object", "#/file"),
        ({"y": Y - 1, "class_names": ("a", "b", "a")}, "class names must differ, got a, b, a", "#/file"),
        ({"class_names": ("only", "two")}, "y must hold the labels 0, 1, got 3 in row 0", "#/file"),
    ],
)
def test_unusable_arrays_are_refused_by_array_row_and_value(arguments: dict[str, Any], message: str, pointer: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        Dataset.from_arrays(**{"x": X, "y": Y, **arguments})
    assert caught.value.pointer == pointer


def test_many_whole_numbers_are_labels_only_if_the_user_says_so() -> None:
    x, y = np.zeros((101, 1), np.float32), np.arange(101)
    with pytest.raises(DatasetError, match="101 different whole numbers, which may be labels or a quantity"):
        Dataset.from_arrays(x, y)
    assert len(Dataset.from_arrays(x, y, task="classification").class_names) == 101
    assert len(Dataset.from_arrays(x, y % 100).class_names) == 100


def test_names_that_would_not_fit_a_snapshot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_DOCUMENT_BYTES", 50)
    with pytest.raises(DatasetError, match="must take at most 50 bytes"):
        Dataset.from_arrays(X, Y)


@pytest.mark.parametrize("kind", ["classification", "regression", "test rows", "table"])
def test_saved_data_set_comes_back_the_same(tmp_path: Path, kind: str) -> None:
    match kind:
        case "classification":
            dataset = Dataset.from_arrays(X.astype(np.uint8), np.array(["ä", "b", "ä", "b", "c", "c"]))
        case "regression":
            dataset = Dataset.from_arrays(X, Y.astype(float))
        case "test rows":
            dataset = Dataset.from_arrays(X, Y, x_test=X[:3], y_test=Y[:3])
        case _:
            (tmp_path / "t.csv").write_text("a,b,y\n1,red,u\n2,blue,v\n")
            dataset = load_csv(tmp_path / "t.csv", target="y")
    digest = save_dataset(dataset, tmp_path / "data.safetensors")
    loaded = load_dataset(tmp_path / "data.safetensors")
    for name in ("task", "class_names", "columns", "sha256"):
        assert getattr(loaded, name) == getattr(dataset, name)
    for name in ("inputs", "targets", "test_inputs", "test_targets"):
        ours, theirs = getattr(dataset, name), getattr(loaded, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.dtype == theirs.dtype and torch.equal(ours, theirs))
    assert save_dataset(loaded, tmp_path / "again.safetensors") == digest
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


def test_file_whose_tensors_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    save_dataset(Dataset.from_arrays(X, Y), path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    good = safetensors.torch.load_file(path)
    for change in (
        {"inputs": good["inputs"].double()},
        {"targets": good["targets"][:5].clone()},
        {"targets": good["targets"] + 1},
        {"targets": good["targets"].int()},
        {"test_inputs": good["inputs"].clone()},
    ):
        safetensors.torch.save_file(good | change, path, metadata=metadata)
        with pytest.raises(DatasetError):
            load_dataset(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match="is not a dataset file"):
        load_dataset(path)


def test_npz_and_csv_become_data_sets(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y, x_test=X[:1], y_test=Y[:1])
    from_npz = load_npz(tmp_path / "data.npz")
    assert (from_npz.num_rows, from_npz.num_test_rows, from_npz.input_shape) == (6, 1, (2,))
    np.savez(tmp_path / "data.npz", x=X)
    with pytest.raises(DatasetError, match="lacks the array 'y'"):
        load_npz(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", x=X, z=Y)
    with pytest.raises(DatasetError, match=r"got 'z.npy'") as caught:
        load_npz(tmp_path / "data.npz")
    assert caught.value.pointer == "#/file"
    (tmp_path / "data.csv").write_text("a,price\n1,10.5\n2,11\n")
    from_csv = load_csv(tmp_path / "data.csv", target="price")
    assert (from_csv.task, from_csv.targets.tolist()) == (Task.REGRESSION, [10.5, 11.0])
    with pytest.raises(DatasetError) as caught:
        load_csv(tmp_path / "data.csv", target="prize")
    assert caught.value.pointer == "#/target"


def test_summary_counts_classes_or_measures_the_target() -> None:
    dataset = Dataset.from_arrays(X, Y, x_test=X[:2], y_test=Y[:2])
    assert class_counts(dataset) == [2, 1, 3]
    assert summarize(dataset) == {
        "task": "classification",
        "rows": 6,
        "test_rows": 2,
        "input_shape": [2],
        "dtype": "float32",
        "sha256": dataset.sha256,
        "classes": [{"name": "1", "rows": 2}, {"name": "2", "rows": 1}, {"name": "3", "rows": 3}],
        "target": None,
        "columns": [],
    }
    assert summarize(Dataset.from_arrays(X, Y / 2))["target"] == {"min": 0.5, "mean": pytest.approx(13 / 12), "max": 1.5}
