"""Identifiers: a prefix that names the kind, and a ULID, so that ids sort by the time they were made.

An ensemble and a snapshot carry the suffix of their job, so one id leads to the other without a look-up.
"""

import os
import re
import secrets
import socket
import time
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

Kind = Literal["ds", "job", "ens", "req", "worker"]

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32."""

ULID_CHARS = 26
_RANDOM_CHARS = 16
_RANDOM_CHAR_OF_BYTE = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
"""Five random bits of eight: every answer has an id of its own."""
_ULID = re.compile(rf"[0-7][{ALPHABET}]{{{ULID_CHARS - 1}}}")
_SNAPSHOT = re.compile(rf"snap_({_ULID.pattern})_(0|[1-9][0-9]{{0,5}})")


def new_id(kind: Kind) -> str:
    """A fresh id: 48 bits of milliseconds since 1970 and 80 random bits, so that nobody can guess it."""
    return f"{kind}_{_encoded_time(time.time_ns() // 1_000_000)}{os.urandom(_RANDOM_CHARS).translate(_RANDOM_CHAR_OF_BYTE).decode()}"


def derived_id(job_id: str, name: str) -> str:
    """The id of a job that belongs to another one: of the same time, and always the same for the same name."""
    digest = blake2b(f"{job_id}/{name}".encode(), digest_size=10).digest()
    return job_id[:-_RANDOM_CHARS] + _encode(int.from_bytes(digest), _RANDOM_CHARS)


def is_id(kind: Kind, text: str) -> bool:
    """Whether ``text`` has the form of an id of this kind."""
    prefix, _, suffix = text.partition("_")
    return prefix == kind and _ULID.fullmatch(suffix) is not None


def unix_ms_of(identifier: str) -> int:
    """When an id was made, in milliseconds since 1970."""
    number = 0
    for char in _suffix(identifier)[:-_RANDOM_CHARS]:
        number = 32 * number + ALPHABET.index(char)
    return number


def ensemble_id_of(job_id: str) -> str:
    """The id of the ensemble that a job's snapshots make."""
    return "ens_" + _suffix(job_id)


def job_id_of_ensemble(ensemble_id: str) -> str:
    """The job whose snapshots make this ensemble; for ensembles that were put together by hand no such job exists."""
    return "job_" + _suffix(ensemble_id)


def snapshot_id_of(job_id: str, cycle: int) -> str:
    """The id of the snapshot that a job takes at the end of a cycle, counted from 0."""
    return f"snap_{_suffix(job_id)}_{cycle}"


def parse_snapshot_id(text: str) -> tuple[str, int] | None:
    """The job id and the cycle of a snapshot id; None where the form is another."""
    match = _SNAPSHOT.fullmatch(text)
    return (f"job_{match[1]}", int(match[2])) if match else None


def new_word() -> str:
    """A random part of a worker's id: two containers can share a host name, and number their processes alike."""
    return secrets.token_hex(4)


def worker_id_of(pid: int, word: str) -> str:
    """The name that a worker process of this machine gives itself, also for a launcher that gave it the word and saw it die."""
    return f"{socket.gethostname()}:{pid}:{word}"


def _suffix(identifier: str) -> str:
    return identifier.partition("_")[2]


@lru_cache(maxsize=16)
def _encoded_time(unix_ms: int) -> str:
    return _encode(unix_ms, ULID_CHARS - _RANDOM_CHARS)


def _encode(number: int, num_chars: int) -> str:
    """The last characters of a number in base 32."""
    return "".join([ALPHABET[number >> shift & 31] for shift in range(5 * (num_chars - 1), -1, -5)])
