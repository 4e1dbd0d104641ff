"""The data sets that come with the service: scikit-learn's digits, and Fashion-MNIST from its IDX files."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clr.errors import DatasetError, did_you_mean

FASHION_MNIST_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package ``dataset-fashion-mnist`` puts the files."""

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801


@dataclass(frozen=True)
class BuiltinArrays:
    """The arrays of a built-in data set: unsigned bytes (N, H, W) and class indices (N,)."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    x_test: np.ndarray[Any, Any] | None
    y_test: np.ndarray[Any, Any] | None
    class_names: tuple[str, ...]


def builtin_names() -> tuple[str, ...]:
    """The names that ``load_builtin`` takes."""
    return ("digits", "fashion-mnist")


def read_builtin(name: str, *, fashion_mnist_dir: Path | None = None) -> BuiltinArrays:
    """The arrays of the built-in data set ``name``.

    Raises:
        DatasetError: Unknown name, or the Fashion-MNIST files are missing or damaged.
    """
    match name:
        case "digits":
            return _digits()
        case "fashion-mnist":
            return _fashion_mnist(fashion_mnist_dir or FASHION_MNIST_DIR)
    names = builtin_names()
    raise DatasetError(f"built-in dataset must be one of {', '.join(names)}, got {name!r}{did_you_mean(name, names)}", "#/source/name")


def read_idx(path: Path, magic: int) -> np.ndarray[Any, Any]:
    """The unsigned bytes of an IDX file, plain or gzip: magic, big-endian sizes, values.

    Raises:
        DatasetError: Another magic number, or more or fewer values than the sizes say.
    """
    num_dimensions = magic & 0xFF
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * num_dimensions)
            if len(header) < 4 + 4 * num_dimensions or struct.unpack(">I", header[:4])[0] != magic:
                raise DatasetError(f"{path} must begin with the IDX magic {magic:#x}, got {header[:4].hex()!r}: install the package again")
            shape = struct.unpack(f">{num_dimensions}I", header[4:])
            size = int(np.prod(shape, dtype=np.uint64))
            data = file.read(min(size, 1 << 30) + 1)
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): install the package dataset-fashion-mnist again") from error
    if len(data) != size:
        raise DatasetError(f"{path} must hold {size} values for its sizes {shape}, got {len(data)}: install the package again")
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)


def _digits() -> BuiltinArrays:
    from sklearn.datasets import load_digits  # takes a second to import, and only this function needs it

    digits = load_digits()
    return BuiltinArrays(digits.images.astype(np.uint8), digits.target, None, None, tuple(str(digit) for digit in range(10)))


def _fashion_mnist(directory: Path) -> BuiltinArrays:
    def read(name: str, magic: int) -> np.ndarray[Any, Any]:
        for path in (directory / f"{name}.gz", directory / name):
            if path.is_file():
                return read_idx(path, magic)
        raise DatasetError(
            f"Fashion-MNIST needs {name}.gz or {name} in {directory}, which is not there: install the Debian package "
            "dataset-fashion-mnist, or set SNAPCYCLE_FASHION_MNIST_DIR to the directory that holds the four files",
            "#/source/name",
        )

    x, y = read("train-images-idx3-ubyte", _IMAGES_MAGIC), read("train-labels-idx1-ubyte", _LABELS_MAGIC)
    x_test, y_test = read("t10k-images-idx3-ubyte", _IMAGES_MAGIC), read("t10k-labels-idx1-ubyte", _LABELS_MAGIC)
    return BuiltinArrays(x, y, x_test, y_test, FASHION_MNIST_CLASSES)
