"""The store in a bucket: against moto's S3 server, by obstore's own requests."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import obstore
import pytest
from moto import server as moto_server
from obstore.store import S3Store

from worker import artifacts as module
from worker.artifacts import AlreadyExists, ArtifactDamaged, ArtifactMissing, ArtifactStore, ArtifactUnavailable
from worker.file_cache import FileCache


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of an empty bucket, with the environment that leads to it."""
    name = f"bucket-{abs(hash(request.node.name))}"
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(variable, value)
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(f"s3://{bucket}/a/prefix", cache_dir=tmp_path / "cache")


def test_an_object_reads_back_under_the_prefix(store: ArtifactStore, bucket: str, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(b"abc" * 4_000_000)
    store.create("jobs/x/spec.json", b"{}")
    digest = store.create("jobs/x/weights", staged)
    assert store.read("jobs/x/weights", digest) == staged.read_bytes()
    assert store.list_names("jobs") == ["x"]
    assert store.list_names("jobs/x") == ["spec.json", "weights"]
    assert bytes(obstore.get(S3Store(bucket), "a/prefix/jobs/x/spec.json").bytes()) == b"{}"
    store.delete_prefix("jobs/x")
    assert store.list_names("jobs") == []
    store.delete("jobs/x/spec.json")


def test_an_object_is_created_once(store: ArtifactStore) -> None:
    store.probe()
    store.create("a/b", b"first")
    with pytest.raises(AlreadyExists) as caught:
        store.create("a/b", b"second")
    assert caught.value.sha256 == sha256(b"first")
    assert store.create_or_same("a/b", b"first") == sha256(b"first")


def test_of_racing_creators_one_wins(store: ArtifactStore) -> None:
    barrier = threading.Barrier(4)

    def create(writer: int) -> str | None:
        barrier.wait()
        try:
            return store.create("key", f"writer {writer}".encode())
        except AlreadyExists:
            return None

    with ThreadPoolExecutor(4) as threads:
        [winner] = [digest for digest in threads.map(create, range(4)) if digest]
    store.read("key", winner)


def test_big_files_go_up_in_parts(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SINGLE_PUT_BYTES", 2**20)
    staged = tmp_path / "staged"
    staged.write_bytes(os.urandom(2**24))
    digest = store.create("big", staged)
    assert store.local_path("big", digest, 2**24).read_bytes() == staged.read_bytes()
    with pytest.raises(AlreadyExists):
        store.create("big", staged)


def test_a_download_is_verified_and_kept(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.create("a/b", b"x" * 1000)
    path = store.local_path("a/b", digest, 1000)
    assert path.read_bytes() == b"x" * 1000
    store.delete("a/b")
    assert store.local_path("a/b", digest, 1000) == path
    with pytest.raises(ArtifactMissing):
        store.local_path("a/b", sha256(b""), 0)
    store.create("a/b", b"y" * 1000)
    for wanted, size in ((sha256(b"z" * 1000), 1000), (sha256(b"y" * 1000), 999)):
        with pytest.raises(ArtifactDamaged, match="a/b has"):
            store.local_path("a/b", wanted, size)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [digest]


def test_a_server_that_falls_silent_is_given_up(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(module.TIMES, "read_timeout", "500ms")
    monkeypatch.setitem(module.RETRIES, "max_retries", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = ArtifactStore.open(f"s3://{bucket}", cache_dir=tmp_path / "cache")
        began = time.monotonic()
        with pytest.raises(ArtifactUnavailable, match="the artifact store failed at a"):
            store.read("a")
        assert time.monotonic() - began < 10


def test_a_bucket_that_is_away_is_unavailable(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = {"endpoint": "http://127.0.0.1:9", "allow_http": "true"}
    away = ArtifactStore(
        S3Store(bucket, config=config, retry_config={"max_retries": 0}),  # type: ignore[arg-type]  # the stubs know fewer keys
        root=None,
        cache=FileCache(tmp_path),
    )
    assert not away.available()
    for attempt in (lambda: away.create("a", b""), lambda: away.read("a"), lambda: away.list_names("a"), lambda: away.delete("a")):
        with pytest.raises(ArtifactUnavailable, match="the artifact store failed at a"):
            attempt()
