"""Redis loses everything in the middle of a job, and nobody who waits for the job notices more than a pause."""

from pathlib import Path

import pytest
import redis

from service.client import Client
from tests.end_to_end.conftest import QUICK_RECOVERY
from tests.end_to_end.processes import Up
from tests.end_to_end.test_up import sha256s, submit


def wipe(data_dir: Path) -> None:
    (socket,) = data_dir.rglob("*.sock")
    with redis.Redis(unix_socket_path=str(socket)) as client:
        client.flushall()


@pytest.mark.slow
def test_a_wipe_in_the_middle_changes_no_snapshot(tmp_path: Path) -> None:
    with Up(tmp_path / "data", environment=QUICK_RECOVERY) as up, Client(up.url) as client:
        first = submit(client)
        undisturbed = sha256s(first.wait())
        job = submit(client)
        seen = []
        for event in job.follow():
            seen.append(event)
            if event["type"] == "snapshot" and event["cycle"] == 1 and event["seq"] < 10**9:
                assert job.refresh().status == "running"
                wipe(tmp_path / "data")
        ended = job.refresh()
        assert sha256s(ended) == undisturbed
        assert [one["to"] for one in ended.data["transitions"]] == ["queued", "running", "queued", "running", "succeeded"]
        assert ended.data["transitions"][2]["reason"] == "restored from the artifact store"
        assert seen[-1]["type"] == "end"
        assert {event["cycle"] for event in seen if event["type"] == "snapshot"} == {0, 1, 2, 3}
        assert sorted(one["id"] for one in client.jobs.list()) == sorted([first.id, job.id])
        assert sha256s(client.jobs.get(first.id)) == undisturbed
