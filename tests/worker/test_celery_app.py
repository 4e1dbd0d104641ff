"""Sending job ids: what a message is, and what happens without a broker."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from worker.celery_app import TASK_NAME, create_celery, publish
from worker.settings import Settings
from worker.valkey_server import ValkeyServer

JOB_ID = "job_00000000000000000000000000"


def test_a_message_carries_a_job_id_and_nothing_else(settings: Settings, redis_client: redis.Redis) -> None:
    assert publish(create_celery(settings), JOB_ID)
    (message,) = redis_client.lrange("snapcycle:snapcycle", 0, -1)
    headers, body = json.loads(message)["headers"], json.loads(base64.b64decode(json.loads(message)["body"]))
    assert headers["task"] == TASK_NAME
    assert body[:2] == [[JOB_ID], {}]


def test_without_a_server_publishing_says_no(tmp_path: Path) -> None:
    app = create_celery(Settings(redis_url=f"unix://{tmp_path}/no.sock", data_dir=tmp_path))
    began_at = time.monotonic()
    assert not publish(app, JOB_ID)
    assert time.monotonic() - began_at < 3


def test_a_frozen_server_holds_publishing_up_for_a_bounded_time(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        app = create_celery(Settings(redis_url=server.url, data_dir=tmp_path))
        assert publish(app, JOB_ID)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        began_at = time.monotonic()
        try:
            assert not publish(app, JOB_ID)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert time.monotonic() - began_at < 10


def test_no_server_configured_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SNAPCYCLE_REDIS_URL"):
        create_celery(Settings(redis_url=None, data_dir=tmp_path))


@pytest.mark.parametrize("module", ["worker.celery_app", "worker.tasks", "worker.supervisor", "worker.trainer_process"])
def test_the_workers_side_does_without_torch(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sys, {module}; assert 'torch' not in sys.modules"], check=True)
