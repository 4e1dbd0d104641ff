"""Writes docs/comparison.md from the rows that the tests in tests/peers measured: no number in it is typed by hand."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TypedDict

SECTIONS = {
    "test_warm_restarts.py": "Warm restarts",
    "test_other_schedules.py": "Other schedules",
    "test_range_sweeps.py": "Range test: rates, smoothing, stopping",
    "test_range_suggestions.py": "Range test: suggestions",
    "test_averaging.py": "Averages",
}
VERDICTS = ("agrees", "differs", "defect")
TARGET = Path(__file__).parents[2] / "docs/comparison.md"


class Row(TypedDict):
    """A row as tests/peers/conftest.py writes it."""

    test: str
    line: int
    formula: str
    peer: str
    verdict: str
    finding: str


def main() -> None:
    """Rewrites the table; says whether it changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="the file that SNAPCYCLE_PEER_ROWS named")
    arguments = parser.parse_args()
    text = document(json.loads(arguments.rows.read_text()))
    changed = not TARGET.exists() or TARGET.read_text() != text
    TARGET.write_text(text)
    print(f"docs/comparison.md: {'rewritten' if changed else 'unchanged'}")


def document(rows: list[Row]) -> str:
    """The whole page.

    Raises:
        ValueError: A test file gave no row, so that the page would lose a section.
    """
    by_file: dict[str, list[Row]] = {name: [] for name in SECTIONS}
    for row in sorted(rows, key=lambda row: (row["line"], row["peer"], row["formula"], row["finding"])):
        by_file[row["test"].partition("::")[0]].append(row)
    if missing := [name for name, own in by_file.items() if not own]:
        raise ValueError(
            f"every file of tests/peers must give rows, got none of {', '.join(missing)}: run all of them, with the peers installed"
        )
    parts = [INTRODUCTION, _summary(rows)]
    parts += [_section(name, own) for name, own in by_file.items()]
    return "\n".join(parts)


INTRODUCTION = """\
# How our formulas compare with others'

Each line is a test that runs the peer's own code beside ours and measured what the line says; `make peers` installs the peers into
`.bench/peers`, runs the tests in `tests/peers` and writes this page. Peers marked as transcribed are the exception: those two projects
run on Lua and on a Keras of 2017, so their formulas are written down in `tests/peers/transcribed.py`.
timm cannot be imported whole without torchvision; its scheduler package is imported by itself.

*agrees*: the same numbers, the largest gap rounded up to a power of ten. *differs*: another convention, or a default that one must know.
*defect*: not what the peer itself, its paper or the formula's name promises.
"""


def _summary(rows: list[Row]) -> str:
    counts = Counter((row["peer"], row["verdict"]) for row in rows)
    lines = ["| peer | agrees | differs | defect |", "|---|---|---|---|"]
    names = sorted({row["peer"] for row in rows}, key=str.casefold)
    lines += [f"| {peer} | " + " | ".join(str(counts[peer, verdict]) for verdict in VERDICTS) + " |" for peer in names]
    return "\n".join([*lines, ""])


def _section(name: str, rows: list[Row]) -> str:
    lines = [
        f"## {SECTIONS[name]}",
        "",
        f"Tests: `tests/peers/{name}`",
        "",
        "| formula | peer | verdict | measured | test |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        test = row["test"].partition("::")[2]
        lines.append(f"| {row['formula']} | {row['peer']} | {row['verdict']} | {row['finding']} | `{test}` |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
