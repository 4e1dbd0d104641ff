"""Fair comparisons: turns in the order A-B-B-A, medians with their spread, ratios with their interval, and a record of the machine.

A campaign is a list of turns. Each is written to the campaign's JSON file as soon as it is over, so that a campaign that was interrupted
goes on where it stopped, and so that every published figure can be computed again from the raw ones.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

Json = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
"""The published figures and charts."""

SCRATCH = Path(__file__).parents[1] / ".bench"
"""The figures of this machine; not in the repository, so that who clones it measures for himself."""

DRAWS = 10_000
"""Of the bootstrap."""

MAX_STEAL = 0.05
"""A turn in which the hypervisor took more of the time than this is marked."""


@dataclass(frozen=True)
class Spread:
    """Median and interquartile range."""

    median: float
    lower_quartile: float
    upper_quartile: float


@dataclass(frozen=True)
class Ratio:
    """The geometric mean of paired ratios with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of a single value, the value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0) -> Ratio:
    """How many times larger the numerators are, pair by pair.

    The interval is the percentile bootstrap over the pairs' logarithms: pairs are drawn with replacement, as a campaign on another
    day would draw them.
    """
    logs = [math.log(over / under) for over, under in zip(numerators, denominators, strict=True)]
    draw = random.Random(seed)
    means = sorted(statistics.fmean(draw.choices(logs, k=len(logs))) for _ in range(DRAWS))
    low, high = (means[round(share * (DRAWS - 1))] for share in (0.025, 0.975))
    return Ratio(math.exp(statistics.fmean(logs)), math.exp(low), math.exp(high), len(logs))


def interleaved(arms: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Repeat and arm of each turn: every other repeat in the reverse order, so that a slow drift of the machine favours nobody."""
    for repeat in range(repeats):
        for arm in arms if repeat % 2 == 0 else reversed(arms):
            yield repeat, arm


@dataclass(frozen=True)
class Ticks:
    """What the kernel has counted for all cores since the start."""

    total: int
    stolen: int

    @classmethod
    def now(cls) -> Self:
        """Reads /proc/stat; zeros where there is none."""
        try:
            fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return cls(0, 0)
        return cls(sum(fields[:8]), fields[7])  # guest time, behind these eight, is counted in user time already

    def steal_share_until(self, later: "Ticks") -> float:
        """Share of the time between the two in which another machine had the cores."""
        return (later.stolen - self.stolen) / max(later.total - self.total, 1)


@dataclass(frozen=True)
class Turn:
    """One measurement of one arm in one case.

    Attributes:
        case: What is measured, such as the tier or payload and connections.
        arm: Who is measured.
        repeat: From 0; the arms' turns of one repeat form pairs.
        figures: What was measured.
        load: The load average of a minute when the turn began; one's own earlier turns count in it.
        steal: Share of the time that the hypervisor took during the turn.
        begun_at: RFC 3339.
    """

    case: str
    arm: str
    repeat: int
    figures: Json
    load: float
    steal: float
    begun_at: str


def add_campaign_options(parser: argparse.ArgumentParser) -> None:
    """The options that every campaign has."""
    parser.add_argument("--quick", action="store_true", help="a minute that shows that everything runs; its figures mean nothing")
    parser.add_argument("--fresh", action="store_true", help="forget earlier turns")
    parser.add_argument("--publish", action="store_true", help="write the figures to benchmarks/results too, which README quotes")


def campaign_paths(name: str, arguments: argparse.Namespace) -> "CampaignPaths":
    """Where a campaign's turns, and at its end its figures and its chart, are written."""
    own = SCRATCH / (f"{name}-quick" if arguments.quick else name)
    return CampaignPaths(own, RESULTS / name if arguments.publish and not arguments.quick else None)


@dataclass(frozen=True)
class CampaignPaths:
    """Without their ending.

    Attributes:
        own: This machine's.
        published: None where nothing is to be published.
    """

    own: Path
    published: Path | None

    @property
    def turns(self) -> Path:
        """Of the turns so far."""
        return self.own.with_suffix(".json")

    @property
    def charts(self) -> list[Path]:
        """Of the chart."""
        return [path.with_suffix(".svg") for path in (self.own, self.published) if path is not None]

    def publish(self) -> None:
        """Copies the figures to where they are published, if that was asked for."""
        if self.published is not None:
            self.published.with_suffix(".json").write_bytes(self.turns.read_bytes())


class Campaign:
    """The turns so far, in memory and in a JSON file."""

    def __init__(self, path: Path, name: str, settings: Json, *, fresh: bool) -> None:
        self._path, self._name, self._settings = path, name, settings
        self.turns: list[Turn] = []
        if path.exists() and not fresh:
            kept = json.loads(path.read_text())
            if kept["settings"] != settings:
                raise SystemExit(f"{path} has turns with other settings, {kept['settings']}: move it away, or begin anew with --fresh")
            self.turns = [Turn(**turn) for turn in kept["turns"]]

    def turn(self, case: str, arm: str, repeat: int, measure: Callable[[], Json]) -> Turn:
        """The turn, measured now unless the file has it."""
        for known in self.turns:
            if (known.case, known.arm, known.repeat) == (case, arm, repeat):
                return known
        begun_at, load, before = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0], Ticks.now()
        figures = measure()
        turn = Turn(case, arm, repeat, figures, round(load, 2), round(before.steal_share_until(Ticks.now()), 4), begun_at)
        self.turns.append(turn)
        self.write({})
        return turn

    def values(self, case: str, arm: str, figure: str) -> list[float]:
        """A figure's values by repeat; turns that have None for it are left out."""
        turns = sorted((turn for turn in self.turns if (turn.case, turn.arm) == (case, arm)), key=lambda turn: turn.repeat)
        return [turn.figures[figure] for turn in turns if turn.figures.get(figure) is not None]

    def ratio(self, case: str, arm: str, other: str, figure: str) -> Ratio | None:
        """How many times larger an arm's figure is than another's; None without pairs."""
        by_repeat: dict[int, dict[str, float]] = {}
        for turn in self.turns:
            if turn.case == case and turn.arm in (arm, other) and turn.figures.get(figure) is not None:
                by_repeat.setdefault(turn.repeat, {})[turn.arm] = turn.figures[figure]
        pairs = [(found[arm], found[other]) for found in by_repeat.values() if {arm, other} <= found.keys()]
        return paired_ratio(*zip(*pairs, strict=True)) if pairs else None

    def has(self, case: str, arm: str, repeat: int = 0) -> bool:
        """Whether the arm has had its turn of the repeat in the case."""
        return any((turn.case, turn.arm, turn.repeat) == (case, arm, repeat) for turn in self.turns)

    def noisy_turns(self) -> int:
        """Turns in which more time was stolen than is fair."""
        return sum(turn.steal > MAX_STEAL for turn in self.turns)

    def write(self, summary: Json) -> None:
        """Writes everything, with the figures that sum it up as ``summary``."""
        document = {
            "benchmark": self._name,
            "machine": machine(),
            "settings": self._settings,
            "summary": summary,
            "turns": [asdict(turn) for turn in self.turns],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> Json:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions("torch", "numpy", "uvicorn", "uvloop", "httptools", "orjson"),
    }


def versions(*names: str) -> dict[str, str]:
    """The installed versions of distributions; those that are missing are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
