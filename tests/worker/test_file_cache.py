import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from worker.file_cache import FileCache


def test_what_was_unused_for_longest_makes_room(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, max_bytes=250)
    for number, name in enumerate("abc"):
        path = cache.path(name, lambda file: file.write(bytes(100)))
        os.utime(path, (number, number))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "c"]
    cache.path("b", lambda _file: pytest.fail("it is there"))
    cache.path("d", lambda file: file.write(bytes(100)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "d"]


def test_what_another_process_takes_away_meanwhile_hurts_nobody(tmp_path: Path) -> None:
    """A name without a file stands for one that is gone between the listing and the look at it."""
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert FileCache(tmp_path, max_bytes=10).path("a", lambda file: file.write(b"x")).read_bytes() == b"x"


def test_a_file_larger_than_the_cache_is_kept_while_it_is_the_newest(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, max_bytes=10)
    assert cache.path("a", lambda file: file.write(bytes(100))).stat().st_size == 100
    cache.path("b", lambda file: file.write(bytes(100)))
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("cut")

    cache = FileCache(tmp_path)
    with pytest.raises(ValueError, match="cut"):
        cache.path("a", fail)
    assert list(tmp_path.iterdir()) == []


def test_threads_that_want_the_same_file_download_it_once(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    downloads: list[int] = []
    barrier = threading.Barrier(4)

    def fetch() -> None:
        barrier.wait()
        cache.path("a", lambda file: downloads.append(file.write(b"x")))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [1]


def test_a_copy_that_was_damaged_on_this_disk_is_downloaded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By a process that has just started: what an earlier one has verified may have changed since."""
    name = hashlib.sha256(b"weights").hexdigest()
    FileCache(tmp_path).path(name, lambda file: file.write(b"weights"))
    FileCache(tmp_path).path(name, lambda _file: pytest.fail("it is there, and sound"))
    (tmp_path / name).write_bytes(b"weighty")
    restarted = FileCache(tmp_path)
    downloads: list[int] = []
    for _ in range(2):
        path = restarted.path(name, lambda file: downloads.append(file.write(b"weights")))
        assert path.read_bytes() == b"weights"
    assert downloads == [7]
    assert f"{path} has sha256 {hashlib.sha256(b'weighty').hexdigest()}" in caplog.text
    path.write_bytes(b"cut")
    assert restarted.path(name, lambda file: downloads.append(file.write(b"weights"))).read_bytes() == b"weights"
