"""Files of named tensors with one JSON document: safetensors, nothing that could run code.

The document is the single metadata key ``snapcycle``, with sorted keys: the format writes several keys in random order, and
equal content must give equal bytes. A file appears under its name only when it is complete and on the disk.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 10_000
_KEY = "snapcycle"


class TensorFileError(ValueError):
    """The file is not one of ours, or is damaged. Callers re-raise it as their own error."""


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Writes tensors and document to ``path`` in one atomic step; returns the file's SHA-256 in hexadecimal."""
    path = Path(path)
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        _save(contiguous, part, text)
        with part.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return digest


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped from the file, and the document.

    Raises:
        TensorFileError: Not a safetensors file of ours, or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise TensorFileError(f"{path.name} must have a header of at most {MAX_HEADER_BYTES} bytes, got {header_bytes}")
        with safetensors.safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if _KEY not in metadata or len(names) > MAX_TENSORS:
                raise TensorFileError(
                    f"{path.name} must have the metadata key {_KEY!r} and at most {MAX_TENSORS} tensors, got {len(names)}"
                )
            document = json.loads(metadata[_KEY])
            tensors = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise TensorFileError(f"{path.name} is not a readable safetensors file: {error}") from error
    if not isinstance(document, dict):
        raise TensorFileError(f"{path.name} must hold a JSON object under {_KEY!r}, got {type(document).__name__}")
    return tensors, document


def _save(tensors: Mapping[str, Tensor], path: Path, text: str) -> None:
    """Writes the file; what the disk refuses is an ``OSError`` here as everywhere, where safetensors only says so in words."""
    try:
        safetensors.torch.save_file(dict(tensors), path, metadata={_KEY: text})
    except safetensors.SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _sync_directory(directory: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
