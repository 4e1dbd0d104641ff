"""Built-in data: the digits as scikit-learn ships them, Fashion-MNIST from IDX files that are checked."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from clr.builtins import FASHION_MNIST_DIR, builtin_names, read_builtin, read_idx
from clr.datasets import load_builtin
from clr.errors import DatasetError


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def write_fashion_mnist(directory: Path) -> None:
    for prefix, rows in (("train", 20), ("t10k", 10)):
        images = np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3)
        (directory / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(rows, dtype=np.uint8) % 10))


def test_digits_are_1797_images_of_sixteen_greys() -> None:
    digits = load_builtin("digits")
    assert digits.inputs.shape == (1797, 8, 8)
    assert (int(digits.inputs.min()), int(digits.inputs.max())) == (0, 16)
    assert digits.targets.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.class_names == tuple("0123456789")
    assert digits.test_inputs is None


def test_fashion_mnist_is_read_from_plain_and_packed_files(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    dataset = load_builtin("fashion-mnist", fashion_mnist_dir=tmp_path)
    assert dataset.inputs[1].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert dataset.test_inputs is not None
    assert dataset.test_inputs.shape == (10, 2, 3)
    assert dataset.class_names[dataset.targets[9]] == "Ankle boot"


@pytest.mark.skipif(not FASHION_MNIST_DIR.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_installed_fashion_mnist_has_its_known_content() -> None:
    arrays = read_builtin("fashion-mnist")
    assert arrays.x_test is not None
    assert (arrays.x.shape, arrays.x_test.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert np.bincount(arrays.y).tolist() == [6000] * 10
    assert arrays.x.mean() / 255 == pytest.approx(0.2860, abs=5e-5)  # the mean that users of the data set normalise by


def test_missing_files_are_named_with_the_package_and_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.*dataset-fashion-mnist.*SNAPCYCLE_FASHION_MNIST_DIR"):
        load_builtin("fashion-mnist", fashion_mnist_dir=tmp_path)


def test_unknown_name_gets_a_suggestion() -> None:
    assert builtin_names() == ("digits", "fashion-mnist")
    with pytest.raises(DatasetError, match=r"digits, fashion-mnist, got 'digit' \(did you mean 'digits'\?\)") as caught:
        load_builtin("digit")
    assert caught.value.pointer == "#/source/name"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must begin with the IDX magic 0x801"),
        (b"\0\0\x08\x03" + bytes(8), "must begin with the IDX magic 0x801, got '00000803'"),
        (struct.pack(">II", 0x801, 3) + bytes(2), r"must hold 3 values for its sizes \(3,\), got 2"),
        (struct.pack(">II", 0x801, 3) + bytes(4), "must hold 3 values .* got 4"),
        (struct.pack(">II", 0x801, 2**32 - 1), "must hold 4294967295 values .* got 0"),
    ],
)
def test_damaged_idx_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        read_idx(tmp_path / "labels", 0x801)


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx(np.arange(200, dtype=np.uint8)))[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        read_idx(tmp_path / "labels.gz", 0x801)
