"""The page that the rows become: complete, in order, and true to the tests that stand in it."""

import re
from pathlib import Path

import pytest

from benchmarks.peers.write_table import SECTIONS, TARGET, Row, document


def row(file: str, line: int, verdict: str = "agrees") -> Row:
    return Row(test=f"{file}::test_{line}", line=line, formula="cosine", peer="timm 1", verdict=verdict, finding="to 1e-16")


def test_rows_stand_in_the_order_of_their_tests_and_are_counted() -> None:
    rows = [row(name, line, verdict) for line, verdict in [(9, "defect"), (3, "agrees")] for name in SECTIONS]
    text = document(rows)
    assert [int(line) for line in re.findall(r"`test_(\d+)`", text)] == [3, 9] * len(SECTIONS)
    assert f"| timm 1 | {len(SECTIONS)} | 0 | {len(SECTIONS)} |" in text


def test_a_page_that_would_lose_a_section_is_refused() -> None:
    first, *others = SECTIONS
    with pytest.raises(ValueError, match=f"got none of {first}: run all of them"):
        document([row(name, 1) for name in others])


def test_every_test_of_the_page_exists() -> None:
    page = TARGET.read_text()
    sections = re.split(r"^Tests: `tests/peers/(.*)`$", page, flags=re.MULTILINE)[1:]
    assert sections[::2] == list(SECTIONS)
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        source = (Path(__file__).parent / name).read_text()
        defined = set(re.findall(r"^def (test_\w+)", source, flags=re.MULTILINE))
        assert set(re.findall(r"`(test_\w+)` \|$", body, flags=re.MULTILINE)) == defined
