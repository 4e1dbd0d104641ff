import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactError, ArtifactMissing, ArtifactStore, ArtifactUnavailable, StoreFull
from worker.durable_files import DurableFiles


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_object_reads_back(artifacts: ArtifactStore, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(b"abc" * 1_000_000)
    assert artifacts.create("jobs/job_x/spec.json", b"{}") == sha256(b"{}")
    assert artifacts.create("jobs/job_x/big", staged) == sha256(b"abc" * 1_000_000)
    assert artifacts.read("jobs/job_x/spec.json") == b"{}"
    assert artifacts.read("jobs/job_x/big", sha256(b"abc" * 1_000_000)) == staged.read_bytes()
    assert artifacts.exists("jobs/job_x/big")
    assert not artifacts.exists("jobs/job_x/small")
    assert files(tmp_path / "artifacts") == ["jobs/job_x/big", "jobs/job_x/spec.json"]


def test_an_object_is_created_once(artifacts: ArtifactStore) -> None:
    artifacts.create("a/b", b"first")
    with pytest.raises(AlreadyExists, match="a/b exists with sha256") as caught:
        artifacts.create("a/b", b"second")
    assert caught.value.sha256 == sha256(b"first")
    assert artifacts.read("a/b") == b"first"
    assert artifacts.create_or_same("a/b", b"first") == sha256(b"first")
    with pytest.raises(AlreadyExists):
        artifacts.create_or_same("a/b", b"second")


def test_of_racing_creators_one_wins(artifacts: ArtifactStore, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def create_all(writer: int) -> list[str | None]:
        barrier.wait()
        shas: list[str | None] = []
        for key in range(100):
            try:
                shas.append(artifacts.create(f"keys/{key // 10}/{key}", f"{writer} {key}".encode() * 100))
            except AlreadyExists:
                shas.append(None)
        return shas

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(create_all, range(8)))
    for key, shas in enumerate(zip(*answers, strict=True)):
        [winner] = [sha for sha in shas if sha is not None]
        artifacts.read(f"keys/{key // 10}/{key}", winner)
    assert len(files(tmp_path / "artifacts")) == 100  # no drafts are left


def test_readers_never_see_half_an_object(artifacts: ArtifactStore, tmp_path: Path) -> None:
    content = os.urandom(2**24)
    seen: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(sha256(artifacts.read("big")))
            except ArtifactMissing:
                continue
            break

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    artifacts.create("big", content)
    for reader in readers:
        reader.join(10)
    done.set()
    assert seen == 3 * [sha256(content)]


def test_missing_objects_are_missing(artifacts: ArtifactStore) -> None:
    artifacts.create("folder/name", b"x")
    for key in ("nothing", "folder/other", "folder/name/below"):
        with pytest.raises(ArtifactMissing, match=f"{key} is not in the artifact store"):
            artifacts.read(key)
        with pytest.raises(ArtifactMissing):
            artifacts.local_path(key, sha256(b""), 0)
        assert not artifacts.exists(key)
    artifacts.delete("nothing")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", "a/.", "a#b", "a\\b", "a\0b"])
def test_keys_cannot_lead_out_of_the_store(artifacts: ArtifactStore, key: str) -> None:
    attempts = (
        lambda: artifacts.create(key, b"x"),
        lambda: artifacts.read(key),
        lambda: artifacts.local_path(key, "", 0),
        lambda: artifacts.delete(key),
        lambda: artifacts.delete_prefix(key),
        lambda: artifacts.list_names(key),
    )
    for attempt in attempts:
        with pytest.raises(ValueError, match="must be words between slashes"):
            attempt()


def test_damage_is_detected(artifacts: ArtifactStore, tmp_path: Path) -> None:
    digest = artifacts.create("a/b", b"x" * 1000)
    path = tmp_path / "artifacts" / "a" / "b"
    assert artifacts.local_path("a/b", digest, 1000) == path
    for damage in (b"x" * 500 + b"y" + b"x" * 499, b"x" * 999, b"x" * 1001, b""):
        path.write_bytes(damage)
        with pytest.raises(ArtifactDamaged, match=r"a/b has sha256 .* restore it from a backup"):
            artifacts.read("a/b", digest)
        with pytest.raises(ArtifactDamaged, match="a/b has"):
            artifacts.local_path("a/b", digest, 1000)
    path.write_bytes(b"x" * 1000)
    assert artifacts.local_path("a/b", digest, 1000) == path


def test_a_verified_file_is_not_read_again(artifacts: ArtifactStore, tmp_path: Path) -> None:
    digest = artifacts.create("a", b"x" * 1000)
    path = artifacts.local_path("a", digest, 1000)
    before = path.stat()
    path.write_bytes(b"y" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert artifacts.local_path("a", digest, 1000) == path  # nothing shows the change: it was not read
    with pytest.raises(ArtifactDamaged):
        ArtifactStore.open(tmp_path / "artifacts").local_path("a", digest, 1000)


def test_names_are_listed_by_folder(artifacts: ArtifactStore, tmp_path: Path) -> None:
    for key in ("jobs/a/spec.json", "jobs/a/snapshots/0/weights", "jobs/a/snapshots/10/weights", "jobs/a/snapshots/2/weights", "jobs/ab/x"):
        artifacts.create(key, b"")
    assert artifacts.list_names("jobs") == ["a", "ab"]
    assert artifacts.list_names("jobs/a") == ["snapshots", "spec.json"]
    assert artifacts.list_names("jobs/a/snapshots") == ["0", "10", "2"]
    assert artifacts.list_names("nothing") == []
    assert artifacts.list_names("jobs/a/spec.json") == []
    (tmp_path / "artifacts" / "jobs" / "a" / "spec.json#123").write_bytes(b"being written")
    assert artifacts.list_names("jobs/a") == ["snapshots", "spec.json"]


def test_a_folder_is_deleted_with_what_is_in_it(artifacts: ArtifactStore, tmp_path: Path) -> None:
    for key in ("jobs/a/spec.json", "jobs/a/snapshots/0/weights", "jobs/ab/x"):
        artifacts.create(key, b"")
    artifacts.delete_prefix("jobs/a")
    artifacts.delete_prefix("jobs/a")
    assert artifacts.list_names("jobs") == ["ab"]
    assert not (tmp_path / "artifacts" / "jobs" / "a").exists()
    artifacts.delete("jobs/ab/x")
    artifacts.create("jobs/ab/x", b"again")


def test_drafts_of_dead_processes_are_removed_when_they_are_old(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifacts.create("jobs/a/weights", b"x")
    old, young = (tmp_path / "artifacts" / "jobs" / "a" / f"weights#{name}" for name in ("1", "2"))
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert artifacts.list_names("jobs/a") == ["weights"]
    assert artifacts.remove_drafts(older_than_seconds=60) == 1
    assert files(tmp_path / "artifacts") == ["jobs/a/weights", "jobs/a/weights#2"]


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Files of this process end at 64 KiB, as on a full disk (the kernel answers EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_nothing(artifacts: ArtifactStore, tmp_path: Path, small_files_only: None) -> None:
    with pytest.raises(ArtifactUnavailable, match="File too large"):
        artifacts.create("a/big", b"x" * 100_000)
    assert files(tmp_path / "artifacts") == []
    artifacts.create("a/small", b"x")


class FullDisk(DurableFiles):
    def create(self, name: str, data: bytes | Path) -> str:  # noqa: ARG002 (the signature it stands in for)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifacts._files = FullDisk(tmp_path)
    with pytest.raises(StoreFull, match=r"no room for a/b \(No space left on device\): delete jobs or datasets, or add space"):
        artifacts.create("a/b", b"x")


def test_a_store_that_works_passes_its_probe(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifacts.probe()
    assert artifacts.available()
    assert files(tmp_path / "artifacts") == []


def test_a_probe_finds_a_store_that_overwrites(artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "create", lambda _key, data: sha256(data))
    monkeypatch.setattr(artifacts, "read", lambda _key, _digest: b"")
    with pytest.raises(ArtifactError, match="lets an object be created twice"):
        artifacts.probe()


def test_a_store_that_is_gone_is_unavailable(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    assert not artifacts.available()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactUnavailable):
        ArtifactStore.open(tmp_path / "file")


def test_a_big_file_is_streamed(tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    with staged.open("wb") as file:
        file.truncate(2**28)
    code = (
        "import resource, sys; from pathlib import Path; from worker.artifacts import ArtifactStore\n"
        "store = ArtifactStore.open(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sha256 = store.create('big', Path(sys.argv[2]))\n"
        "store.local_path('big', sha256, 2**28)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    answer = subprocess.run([sys.executable, "-c", code, tmp_path / "artifacts", staged], capture_output=True, check=True, text=True)
    assert int(answer.stdout) < 20_000, "KiB of memory"


def test_content_and_names_are_on_the_disk_before_create_returns(tmp_path: Path) -> None:
    """strace: fsync of the draft, then the link, then fsync of every directory up to the store's root (F6)."""
    trace = tmp_path / "trace"
    code = (
        "import os, sys; from worker.artifacts import ArtifactStore\n"
        "store = ArtifactStore.open(sys.argv[1])\n"
        "store.create('jobs/job_x/spec.json', b'{}')\n"
        "os.write(1, b'RETURNED')"
    )
    try:
        subprocess.run(
            [
                "strace",
                "-f",
                "-y",
                "-o",
                trace,
                "-e",
                "trace=fsync,link,linkat,unlink,write",
                sys.executable,
                "-c",
                code,
                tmp_path / "store",
            ],
            capture_output=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("strace is not installed or may not trace here")
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    returned = next(i for i, call in enumerate(calls) if "RETURNED" in call)
    link = next(i for i, call in enumerate(calls) if call.startswith("link") and "spec.json" in call)
    fsynced = [(i, call) for i, call in enumerate(calls[:returned]) if call.startswith("fsync")]
    assert any(i < link and "spec.json#" in call for i, call in fsynced)
    for directory in ("store", "store/jobs", "store/jobs/job_x"):
        assert any(i > link and f"<{tmp_path / directory}>" in call for i, call in fsynced), directory


def test_files_are_private_as_the_umask_says(artifacts: ArtifactStore, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        artifacts.create("a/b", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "artifacts" / "a" / "b").stat().st_mode) == 0o600
