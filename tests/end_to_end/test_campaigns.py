"""The random kills and the load in short: what ``make chaos`` and ``make bench-load`` find must not depend on how fast the machine is."""

import json
from pathlib import Path

import pytest

from benchmarks import chaos, load

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.timeout(300)  # a busy machine takes its time to heal
def test_random_kills_violate_no_invariant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "chaos.json"
    options = ["--kills", "8", "--jobs", "5", "--epochs", "10", "--per-minute", "30", "--seed", "341", "--output", str(output)]
    assert chaos.main(options) == 0, capsys.readouterr().out
    figures = json.loads(output.read_text())
    assert (figures["kills"], figures["jobs"], figures["violations"]) == (8, 5, 0)
    assert (figures["lost"], figures["duplicates"]) == (0, 0)


def test_under_load_nothing_is_refused_or_lost_and_every_tenant_has_its_turn(tmp_path: Path) -> None:
    output = tmp_path / "load.json"
    load.main(["--jobs", "200", "--clients", "20", "--warm-up", "1", "--seconds", "5", "--claims", "30", "--json", str(output)])
    figures = json.loads(output.read_text())
    assert {name.split()[1] for name in figures["statuses"]} == {"200", "202"}
    assert sum(figures["statuses"].values()) > 300
    assert figures["jobs_there"] == figures["jobs_acknowledged"] > 200
    assert figures["claims"] == {"many": 10, "some": 10, "few": 10}
