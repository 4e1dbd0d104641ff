"""A sample of the fault plan on a real stack: each failure's kind and each stage of a job once. ``make faults`` runs all of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import fault_server
from benchmarks.fault_failpoints import ACTIONS, FailpointCase, all_cases, run_case
from benchmarks.fault_journal import Journal, Report, sources_sha256
from benchmarks.fault_site import Site
from benchmarks.faults import plan, summarize
from tests.end_to_end.processes import ROOT
from worker.failpoints import POINTS

SAMPLE = (
    FailpointCase("submit.spec_stored", "kill"),
    FailpointCase("submit.recorded", "raise"),
    FailpointCase("trainer.snapshot_written", "eio"),
    FailpointCase("checkpoint.blob_stored", "enospc"),
    FailpointCase("snapshot.manifest_stored", "kill"),
)


pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time to heal


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stack to be hurt."""
    with Site(tmp_path_factory.mktemp("faults") / "site") as running:
        running.undisturbed(0)
        yield running


def test_the_plan_has_every_point_with_every_action() -> None:
    cases = {(case.point, case.action) for case in all_cases()}
    assert cases == {(point, action) for point in POINTS for action in ACTIONS}
    assert set(SAMPLE) <= set(all_cases())


def test_what_a_machine_cannot_run_is_named_with_the_reason() -> None:
    everything = plan(is_root=True, has_faketime=True)
    assert [fault.name for fault in everything if fault.lacks] == []
    poor = plan(is_root=False, has_faketime=False)
    assert [fault.name for fault in poor] == [fault.name for fault in everything], "nothing is left out in silence"
    skipped = [fault for fault in poor if fault.lacks]
    assert {(fault.group, fault.lacks) for fault in skipped} == {
        ("F5", "libfaketime is not installed: apt-get install libfaketime"),
        ("F7", "only root may mount the small file system: run it as root"),
    }
    figures = summarize([Report("a=kill", "F2", 1.0, [])], skipped, sources="")
    assert figures["faults"] == 1
    assert {"fault": "artifacts disk full", "group": "F7", "why": skipped[0].lacks} in figures["skipped"]
    assert len(figures["skipped"]) == 6


def test_the_page_of_the_fault_plan_has_every_fault_and_names_what_exists() -> None:
    page = ROOT / "docs" / "fault-plan.md"
    text = page.read_text()
    rows = {row[1]: row[2] for row in re.finditer(r"^\| (F\d+) (\|.*\|)$", text, re.MULTILINE)}
    assert list(rows) == [f"F{number}" for number in range(1, 19)]
    assert {row.count("|") for row in rows.values()} == {5}
    assert [target for target in re.findall(r"\]\(([^)]+)\)", text) if not (page.parent / target).exists()] == []
    for fault in plan():
        assert f'--only {fault.group}"`' in rows[fault.group], f"the command that runs {fault.name}"


def test_a_campaign_in_parts_counts_what_held_on_the_same_sources(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    source = tmp_path / "worker" / "jobs.py"
    source.write_text("1")
    before = sources_sha256(tmp_path)
    journal = Journal(tmp_path / "journal", sources=before)
    assert journal.held() == {}
    held, violated = Report("a", "F2", 1.0, []), Report("b", "F3", 2.0, ["I1: lost"])
    for report in (held, violated, Report("c", "F2", 1.0, []), Report("c", "F2", 1.0, ["I2: later"])):
        journal.add(report)
    assert Journal(tmp_path / "journal", sources=sources_sha256(tmp_path)).held() == {"a": held}
    source.write_text("2")
    assert Journal(tmp_path / "journal", sources=sources_sha256(tmp_path)).held() == {}


@pytest.mark.slow
@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_a_job_goes_through_a_failure_with_every_invariant_kept(site: Site, case: FailpointCase) -> None:
    assert run_case(site, case) == []


@pytest.mark.slow
def test_a_server_whose_memory_is_full_refuses_in_words_and_loses_nothing(site: Site) -> None:
    assert fault_server.memory_full(site) == []


@pytest.mark.slow
def test_jobs_that_a_server_lost_with_the_end_of_its_log_are_back(site: Site) -> None:
    assert fault_server.log_cut(site) == []
