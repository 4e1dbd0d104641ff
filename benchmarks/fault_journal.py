"""What a campaign of faults has found so far: a line for each fault, with the sources it was run on, so that it can be run in parts."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import orjson

SOURCES = ("benchmarks", "clr", "service", "worker")
SUFFIXES = frozenset({".py", ".lua"})


@dataclass(frozen=True)
class Report:
    """How a fault was survived."""

    name: str
    group: str
    seconds: float
    violations: list[str]


class Journal:
    """A file of reports. Those on other sources than today's don't count: a figure is that of one state of the program."""

    def __init__(self, path: Path, *, sources: str) -> None:
        self._path = path
        self._sources = sources
        self._lock = Lock()

    def add(self, report: Report) -> None:
        """Keeps a report."""
        with self._lock, self._path.open("ab") as file:
            file.write(orjson.dumps(asdict(report) | {"sources": self._sources}) + b"\n")

    def held(self) -> dict[str, Report]:
        """The latest report of each fault, by name, where every invariant held in it."""
        if not self._path.exists():
            return {}
        lines = [orjson.loads(line) for line in self._path.read_bytes().splitlines()]
        latest = {line["name"]: line for line in lines if line.pop("sources") == self._sources}
        return {name: Report(**line) for name, line in latest.items() if not line["violations"]}


def sources_sha256(root: Path, packages: Sequence[str] = SOURCES) -> str:
    """A hash of the program's source files and their names."""
    digest = hashlib.sha256()
    for path in sorted(path for package in packages for path in (root / package).rglob("*") if path.suffix in SUFFIXES):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
