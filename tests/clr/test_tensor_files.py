"""Tensor files: equal content gives equal bytes, and damage is found."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from clr import tensor_files
from clr.tensor_files import TensorFileError, load_tensors, save_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "c": torch.ones(2, 2, dtype=torch.bfloat16)}
DOCUMENT = {"z": 1, "a": {"ä": [1.5, None, True]}}


def test_file_is_plain_safetensors_and_comes_back(tmp_path: Path) -> None:
    digest = save_tensors(tmp_path / "x", TENSORS, DOCUMENT)
    assert digest == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    tensors, document = load_tensors(tmp_path / "x")
    assert document == DOCUMENT
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert safetensors.torch.load_file(tmp_path / "x").keys() == TENSORS.keys()


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    other_order = dict(reversed(TENSORS.items()))
    transposed = {**other_order, "b": TENSORS["b"].T.contiguous().T}
    digests = {save_tensors(tmp_path / "x", tensors, DOCUMENT) for tensors in (TENSORS, other_order, transposed) for _ in range(5)}
    assert len(digests) == 1
    assert save_tensors(tmp_path / "x", TENSORS, {**DOCUMENT, "z": 2}) not in digests


def test_failed_write_leaves_the_older_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = save_tensors(tmp_path / "x", TENSORS, DOCUMENT)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clr.tensor_files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(tmp_path / "x", TENSORS, {"other": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest() == digest


def raw_file(header: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable safetensors file"),
        (b"\0" * 7, "not a readable safetensors file"),
        (struct.pack("<Q", (4 << 20) + 1) + bytes(100), "header of at most 4194304 bytes, got 4194305"),
        (struct.pack("<Q", 50) + bytes(10), "not a readable safetensors file"),
        (raw_file({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, bytes(4)), "not a readable safetensors file"),
        (raw_file({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "metadata key 'snapcycle'"),
        (raw_file({"__metadata__": {"snapcycle": "{"}}), "not a readable safetensors file"),
        (raw_file({"__metadata__": {"snapcycle": "[" * 100_000}}), "not a readable safetensors file"),
        (raw_file({"__metadata__": {"snapcycle": "[]"}}), "must hold a JSON object under 'snapcycle', got list"),
    ],
)
def test_hostile_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(TensorFileError, match=message):
        load_tensors(tmp_path / "x")


def test_file_of_very_many_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors(tmp_path / "x", TENSORS, DOCUMENT)
    monkeypatch.setattr(tensor_files, "MAX_TENSORS", 2)
    with pytest.raises(TensorFileError, match="at most 2 tensors, got 3"):
        load_tensors(tmp_path / "x")


def test_not_a_number_in_the_document_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_tensors(tmp_path / "x", TENSORS, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
