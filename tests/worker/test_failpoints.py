"""Failpoints: they stand where the registry says, fail as they are told, once, and cost nothing while nobody arms them."""

import errno
import re
import subprocess
import sys
import timeit
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker import failpoints
from worker.artifacts import ArtifactStore, ArtifactUnavailable, StoreFull
from worker.failpoints import POINTS, InjectedError, Seam, arm, failpoint
from worker.redis_connection import StoreUnavailable
from worker.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm(None)


def test_every_point_of_the_registry_stands_once_in_the_source_and_no_other_does() -> None:
    sources = [path for package in ("worker", "service", "clr") for path in (ROOT / package).rglob("*.py")]
    found = Counter(name for path in sources for name in re.findall(r'\bfailpoint\("([^"]+)"\)', path.read_text()))
    assert found == Counter(list(POINTS))
    assert len(POINTS) >= 30


def test_nothing_happens_where_nothing_is_armed() -> None:
    failpoint("claim.claimed")
    arm("claim.before=raise")
    failpoint("claim.claimed")


def test_a_point_that_is_off_costs_no_more_than_a_few_calls() -> None:
    off, call = (
        min(timeit.repeat(function, number=1000, repeat=20)) for function in (lambda: failpoint("claim.claimed"), lambda: bool(""))
    )
    assert off < 10 * call


def test_a_shot_falls_at_its_passing_and_only_then() -> None:
    arm("claim.claimed=raise@3; claim.before=raise")
    failpoint("claim.claimed")
    failpoint("claim.claimed")
    with pytest.raises(InjectedError, match=r"claim\.claimed"):
        failpoint("claim.claimed")
    for _ in range(5):
        failpoint("claim.claimed")


@pytest.mark.parametrize(("word", "number"), [("eio", errno.EIO), ("enospc", errno.ENOSPC)])
def test_a_disk_fails_as_the_call_beside_the_point_would(word: str, number: int) -> None:
    by_seam = {seam: next(name for name, its in POINTS.items() if its is seam) for seam in Seam}
    arm(";".join(f"{name}={word}" for name in by_seam.values()))
    with pytest.raises(OSError, match="failpoint") as raised:
        failpoint(by_seam[Seam.FILE])
    assert raised.value.errno == number
    with pytest.raises(StoreFull if word == "enospc" else ArtifactUnavailable):
        failpoint(by_seam[Seam.ARTIFACTS])
    with pytest.raises(StoreUnavailable):
        failpoint(by_seam[Seam.REDIS])


def test_a_full_disk_below_the_artifact_store_is_its_own_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path)
    arm("file.draft_written=enospc")
    with pytest.raises(StoreFull):
        store.create("jobs/a", b"content")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    store.create("jobs/a", b"content")
    assert store.read("jobs/a") == b"content"


def test_an_object_whose_link_was_made_before_the_disk_failed_is_whole(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path)
    arm("file.linked=eio")
    with pytest.raises(ArtifactUnavailable):
        store.create("jobs/a", b"content")
    assert store.create_or_same("jobs/a", b"content") == store.stored_sha256("jobs/a")


def test_a_kill_is_a_sigkill_of_the_process() -> None:
    program = "from worker.failpoints import *; arm('claim.claimed=kill'); failpoint('claim.claimed'); print('survived')"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-9, "")
    assert "failpoint claim.claimed: kill" in ended.stderr


def test_a_file_arms_a_point_of_running_processes_once_in_all_of_them(tmp_path: Path) -> None:
    arm(f"dir:{tmp_path}")
    failpoint("claim.claimed")
    (tmp_path / "claim.claimed").write_text("raise@2")
    failpoint("claim.claimed")
    with pytest.raises(InjectedError):
        failpoint("claim.claimed")
    failpoint("claim.claimed")
    assert [path.name for path in tmp_path.iterdir()] == ["claim.claimed.fired"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("claim.clamed=kill", r"there is no failpoint 'claim\.clamed': known are submit\.checked"),
        ("claim.claimed=explode", "'explode' is no action of a failpoint: write one of kill, eio"),
        ("claim.claimed=kill@0", "'kill@0' is no action"),
        ("claim.claimed=sleep", "'sleep' is no action"),
        ("claim.claimed=sleep:soon", "'sleep:soon' has no number of seconds"),
        ("dir:/there/is/no/such/place", "must be a directory that exists"),
    ],
)
def test_what_cannot_be_armed_is_refused_at_the_start_in_words(text: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Settings(failpoints=text)
    with pytest.raises(ValueError, match=reason):
        failpoints.arm(text)


def test_a_sleep_lasts_as_long_as_it_says() -> None:
    arm("claim.claimed=sleep:0.05")
    assert timeit.timeit(lambda: failpoint("claim.claimed"), number=1) >= 0.05
