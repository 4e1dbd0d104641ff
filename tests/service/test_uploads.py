"""What an API process tidies up when it starts, while others may be in the middle of uploads."""

import os
import time
from pathlib import Path

from service.uploads import ABANDONED_SECONDS, remove_abandoned_uploads, uploads_directory


def upload(staging_dir: Path, name: str, *, begun_seconds_ago: float, written_seconds_ago: float) -> Path:
    directory = uploads_directory(staging_dir) / name
    directory.mkdir()
    file = directory / "upload"
    file.write_bytes(b"half of it")
    now = time.time()
    os.utime(file, times=(now, now - written_seconds_ago))
    os.utime(directory, times=(now, now - begun_seconds_ago))
    return directory


def test_only_what_nobody_has_written_to_for_a_day_is_removed(tmp_path: Path) -> None:
    long = 2 * ABANDONED_SECONDS
    young = upload(tmp_path, "young", begun_seconds_ago=1, written_seconds_ago=1)
    slow = upload(tmp_path, "slow", begun_seconds_ago=long, written_seconds_ago=60)
    dead = upload(tmp_path, "dead", begun_seconds_ago=long, written_seconds_ago=long)
    remove_abandoned_uploads(tmp_path)
    assert young.exists()
    assert slow.exists(), "a sibling's upload over a thin line goes on"
    assert not dead.exists()
