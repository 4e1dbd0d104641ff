"""What one sender may hold of what all share: bodies of predictions, uploads, event streams."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest

from service.allowances import Allowance
from service.errors import Problem
from service.predictor import MAX_UNDER_WAY
from service.principals import ANYONE, Principal, Scope
from service.receiving import BYTES_PER_SECOND, SMALL_BYTES
from service.upload_admission import MAX_TENANT_UPLOADS, MAX_UPLOADS, RESERVE_BYTES, DatasetQuota, UploadGate, check_disk
from tests.service.conftest import TRAINING, Server, Trained, make_settings, npz_bytes, problem, upload, wait_until
from tests.service.keyed_service import KeyedService, keyed_service
from tests.service.raw_answers import Answers
from worker.valkey_server import ValkeyServer

MIB = 1 << 20
GIB = 1 << 30
QUOTA = 20 * MIB


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    limits = {"rate_burst": 10_000, "rate_limit": 10_000.0, "max_tenant_dataset_bytes": QUOTA, "max_connections": 512}
    with keyed_service(tmp_path_factory.mktemp("allowances"), trained, **limits) as running:
        yield running


def key_of(name: str, tenant: str = "a") -> Principal:
    return Principal(tenant, frozenset(Scope), name)


def test_an_allowance_is_bounded_for_a_key_a_tenant_and_all() -> None:
    allowance = Allowance("things", total=10, of_tenant=6, of_key=4, remedy="wait")
    with ExitStack() as stack:

        def take(principal: Principal, amount: int) -> None:
            stack.enter_context(allowance.holding(principal))(amount)

        take(key_of("a1"), 4)
        for principal, amount, who in (
            (key_of("a1"), 1, "API key a1 may have at most 4 things at a time in this process, there are 4 and this request makes 1 more"),
            (key_of("a2"), 3, "tenant a may have at most 6"),
            (ANYONE, 7, "all senders may have at most 10"),
        ):
            with pytest.raises(Problem, match=who) as refused:
                take(principal, amount)
            assert (refused.value.code, refused.value.headers["Retry-After"]) == ("overloaded", "1")
        take(key_of("a2"), 2)
        take(key_of("b1", "b"), 4)
    with allowance.holding(key_of("a1")) as again:
        again(2)
        again(2)
        with pytest.raises(Problem):
            again(1)


@contextmanager
def begun(
    service: KeyedService, key: str, path: str, length: int | None, sent: bytes = b"", kind: str = "application/octet-stream"
) -> Iterator[socket.socket]:
    """A request whose body does not end."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n{size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.server.port), timeout=10) as connection:
        connection.sendall(head.encode() + sent)
        yield connection


def answer_of(connection: socket.socket) -> str:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        part = connection.recv(65_536)
        if not part:
            break
        received += part
    return received.decode()


def predict_path(service: KeyedService, name: str = "a") -> str:
    return f"/v1/ensembles/{service.tenants[name].ensemble_id}/predict"


@pytest.mark.parametrize("route", ["/v1/ensembles/{}/predict", "/v2/models/{}/infer"])
def test_bodies_that_do_not_end_take_no_places_of_predictions(service: KeyedService, route: str) -> None:
    a, b = service.tenants["a"], service.tenants["b"]
    length = SMALL_BYTES + 1000
    with ExitStack() as stack:
        key = service.key("a", Scope.PREDICT)
        for _ in range(MAX_UNDER_WAY):
            stack.enter_context(begun(service, key, route.format(a.ensemble_id), length))
        wait_until(lambda: service.server.services.bodies._taken["all senders"] == MAX_UNDER_WAY * length)
        response = b.api.post(predict_path(service, "b") + "?top_k=1", json={"inputs": [[0, 0, 0, 0]]})
        assert response.status_code == 200, response.text
    wait_until(lambda: not service.server.services.bodies._taken)


def test_bodies_of_one_sender_hold_a_part_of_the_memory_and_others_have_theirs(service: KeyedService) -> None:
    largest = service.server.settings.max_predict_bytes
    with ExitStack() as stack:
        keys = [service.key("a", Scope.PREDICT) for _ in range(3)]
        for key in keys[:2]:
            for _ in range(2):
                stack.enter_context(begun(service, key, predict_path(service), largest))
        wait_until(lambda: service.server.services.bodies._taken["tenant a"] == 4 * largest)
        for key, who in ((keys[0], f"API key {keys[0][3:11]}"), (keys[2], "tenant a")):
            with begun(service, key, predict_path(service), SMALL_BYTES + 1) as connection:
                answer = answer_of(connection)
            assert answer.startswith("HTTP/1.1 503 "), answer
            assert "retry-after: 1" in answer.lower()
            assert '"code":"overloaded"' in answer
            assert who in answer
        small = service.tenants["a"].api.post(predict_path(service) + "?top_k=1", json={"inputs": [[0, 0, 0, 0]]})
        assert small.status_code == 200, "a small body takes nothing"
        rows = np.zeros((10_000, 4), np.float32)
        headers = {"X-Shape": "10000,4", "X-Dtype": "float32", "Content-Type": "application/octet-stream", "Accept": "application/x-npy"}
        other = service.tenants["b"].api.post(predict_path(service, "b"), content=rows.tobytes(), headers=headers)
        assert other.status_code == 200
    wait_until(lambda: not service.server.services.bodies._taken)


def test_a_body_without_a_length_is_counted_as_it_comes(service: KeyedService) -> None:
    largest = service.server.settings.max_predict_bytes
    piece = b"%x\r\n" % SMALL_BYTES + b"x" * SMALL_BYTES + b"\r\n"
    key = service.key("a", Scope.PREDICT)
    taken = service.server.services.bodies._taken
    with ExitStack() as stack:
        for length in (largest, largest - SMALL_BYTES):
            stack.enter_context(begun(service, key, predict_path(service), length))
        wait_until(lambda: taken["tenant a"] == 2 * largest - SMALL_BYTES)
        connection = stack.enter_context(begun(service, key, predict_path(service), None, piece + piece))
        wait_until(lambda: service.server.services.bodies._taken["tenant a"] == 2 * largest)
        connection.sendall(piece)
        assert answer_of(connection).startswith("HTTP/1.1 503 ")


def test_a_prediction_s_body_that_trickles_is_ended(valkey: ValkeyServer, tmp_path: Path, server: Server, finished_job: str) -> None:
    settings = make_settings(valkey, tmp_path, artifacts=server.settings.artifacts_url, body_stall_seconds=0.5, min_body_bytes=1)
    with Server(settings) as impatient:
        head = f"POST /v1/ensembles/ens_{finished_job[4:]}/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", impatient.port), timeout=0.1) as connection:
            connection.sendall(head.encode())
            begun_at = time.monotonic()
            received = b""
            while not received and time.monotonic() - begun_at < 5:
                connection.sendall(b"x" * 100)  # it never stalls
                try:
                    received = connection.recv(65_536)
                except TimeoutError:
                    continue
            ended_at = time.monotonic()
            connection.settimeout(5)
            status, _, body = Answers(connection, received).next()
        assert status == 408, body
        assert b'"code":"request_timeout"' in body
        assert str(BYTES_PER_SECOND).encode() in body
        assert ended_at - begun_at > 0.4


FORM = "multipart/form-data; boundary=x"


def scratch_files(service: KeyedService) -> list[Path]:
    return [path for path in (service.server.settings.staging_dir / "uploads").rglob("*") if path.is_file()]


def test_an_upload_over_the_quota_is_refused_before_it_is_read(service: KeyedService) -> None:
    key = service.key("a")
    with begun(service, key, "/v1/datasets", QUOTA, kind=FORM) as connection:
        answer = answer_of(connection)
    assert answer.startswith("HTTP/1.1 429 "), answer
    assert '"code":"quota_exceeded"' in answer
    assert f'"limit_stored_bytes":{QUOTA}' in answer
    gate = service.server.services.uploads
    with begun(service, key, "/v1/datasets", QUOTA // 2, kind=FORM):
        wait_until(lambda: gate._under_way["a"] == QUOTA // 2)
        with begun(service, key, "/v1/datasets", QUOTA // 2, kind=FORM) as second:
            assert "uploads under way" in answer_of(second), "those under way count"
    wait_until(lambda: not gate._under_way)


def test_an_upload_without_a_length_ends_at_the_quota(service: KeyedService) -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'
        for _ in range(2 * QUOTA // MIB):
            yield b"x" * MIB

    response = service.tenants["b"].api.post("/v1/datasets", content=body(), headers={"Content-Type": FORM})
    problem(response, 429, "quota_exceeded")
    wait_until(lambda: not scratch_files(service))


def test_an_upload_that_was_made_is_answered_again_although_the_quota_is_used_up(trained: Trained, tmp_path: Path) -> None:
    content = npz_bytes(x=trained.x, y=trained.y)
    with keyed_service(tmp_path, trained, max_tenant_dataset_bytes=6000) as tight, tight.client(tight.key("c")) as api:
        api.headers["Idempotency-Key"] = "once"
        made = upload(api, content)
        assert made.status_code == 201, made.text
        again = upload(api, content)
        assert (again.status_code, again.json()["id"]) == (201, made.json()["id"])


def test_a_tenant_has_so_many_uploads_at_a_time_and_others_theirs(service: KeyedService) -> None:
    key = service.key("a")
    with ExitStack() as stack:
        for _ in range(MAX_TENANT_UPLOADS):
            stack.enter_context(begun(service, key, "/v1/datasets", MIB, kind=FORM))
        wait_until(lambda: service.server.services.uploads._places._taken["tenant a"] == MAX_TENANT_UPLOADS)
        refused = upload(service.tenants["a"].api, b"")
        problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "5"
        made = upload(service.tenants["b"].api, npz_bytes(x=service.trained.x, y=service.trained.y))
        assert made.status_code == 201, made.text
        assert service.tenants["b"].api.delete(f"/v1/datasets/{made.json()['id']}").status_code == 204
    gate = service.server.services.uploads
    wait_until(lambda: not gate._places._taken)
    assert (gate._to_be_written, dict(gate._under_way)) == (0, {})


def test_all_together_have_so_many_uploads(tmp_path: Path) -> None:
    gate = UploadGate(lambda _: (GIB * 100, 0, GIB * 100))
    quota = DatasetQuota(0, GIB)
    with ExitStack() as stack:
        for number in range(MAX_UPLOADS):
            stack.enter_context(gate.admitted(key_of(f"k{number}", f"t{number}"), 10, quota, tmp_path))
        with pytest.raises(Problem, match=f"all senders may have at most {MAX_UPLOADS} uploads"):
            stack.enter_context(gate.admitted(key_of("k", "t"), 10, quota, tmp_path))


def test_an_upload_that_the_disk_cannot_hold_is_refused(service: KeyedService) -> None:
    gate = service.server.services.uploads
    usage, gate.usage = gate.usage, lambda _: (100 * GIB, 0, RESERVE_BYTES + 1000)
    try:
        response = upload(service.tenants["a"].api, b"x" * 1000)
    finally:
        gate.usage = usage
    document = problem(response, 503, "storage_full")
    assert str(RESERVE_BYTES) in document["detail"]
    assert response.headers["retry-after"] == "60"


def test_the_disk_holds_what_all_uploads_under_way_still_need(tmp_path: Path) -> None:
    free = RESERVE_BYTES + 1000
    gate = UploadGate(lambda _: (100 * GIB, 0, free))
    quota = DatasetQuota(0, GIB)
    with gate.admitted(ANYONE, 600, quota, tmp_path) as note:
        with pytest.raises(Problem, match="need 1100 more"), gate.admitted(ANYONE, 500, quota, tmp_path):
            pass
        note(500)
        free -= 500
        with gate.admitted(ANYONE, 400, quota, tmp_path):
            pass
        free = RESERVE_BYTES
        with pytest.raises(Problem, match="stay free"):
            note(100)
    check_disk(tmp_path, 950, lambda _: (1000, 0, 1000))
    with pytest.raises(Problem, match="of which 50 stay free"):
        check_disk(tmp_path, 951, lambda _: (1000, 0, 1000))


SSE = {"Accept": "text/event-stream"}


def running_job(service: KeyedService, name: str) -> str:
    tenant = service.tenants[name]
    job_id = str(tenant.api.post("/v1/jobs", json={"dataset_id": tenant.dataset_id, **TRAINING}).json()["id"])
    service.worker.claim(job_id)
    return job_id


@pytest.mark.parametrize("accept", ["text/event-stream", "application/jsonl"])
@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_stream_ends_within_two_seconds_of_its_key(service: KeyedService, accept: str, end: str) -> None:
    job_id = running_job(service, "a")
    key = service.key("a", Scope.READ, expires_in_days=4 / 86_400 if end == "expired" else None)
    ends_at = time.monotonic() + 4
    with service.client(key) as api, api.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": accept}, timeout=10) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        assert any("running" in line for line in lines)
        if end == "revoked":
            service.server.services.door.ring.store.revoke(key[3:11])
            ends_at = time.monotonic()
        for _ in lines:
            pass
        assert -1.5 < time.monotonic() - ends_at < 4, "2 and the machine's own delays"
    with service.client(key) as api:
        problem(api.get("/v1/jobs"), 401, "unauthenticated")
    service.worker.finish(job_id)


def test_nothing_that_happened_after_the_revocation_is_told(service: KeyedService) -> None:
    job_id = running_job(service, "a")
    key = service.key("a", Scope.READ)
    ring = service.server.services.door.ring
    with service.client(key) as api, api.stream("GET", f"/v1/jobs/{job_id}/events", headers=SSE, timeout=10) as response:
        lines = response.iter_lines()
        assert any("training" in line for line in lines)
        ring.store.revoke(key[3:11])
        ring.refresh()
        for step in range(1, 20):
            service.worker.progress(job_id, step)
        assert not [line for line in lines if "progress" in line]
    service.worker.finish(job_id)


def test_a_stream_without_a_key_ends_when_keys_are_asked_for(valkey: ValkeyServer, tmp_path: Path, server: Server, submit: object) -> None:
    assert callable(submit)
    job_id = submit()
    with (
        Server(make_settings(valkey, tmp_path, artifacts=server.settings.artifacts_url)) as own,
        httpx2.stream("GET", f"{own.url}/v1/jobs/{job_id}/events", headers=SSE, timeout=10, trust_env=False) as response,
    ):
        lines = response.iter_lines()
        assert any("queued" in line for line in lines)
        own.services.door._auth = "on"
        begun_at = time.monotonic()
        for _ in lines:
            pass
        assert time.monotonic() - begun_at < 5


def test_a_key_and_a_tenant_have_so_many_streams_and_others_theirs(service: KeyedService) -> None:
    jobs = {name: running_job(service, name) for name in ("a", "b")}
    total = 512 // 2
    keys = [service.key("a", Scope.READ) for _ in range(5)]
    with ExitStack() as stack:

        def open_stream(key: str, name: str) -> httpx2.Response:
            api = stack.enter_context(service.client(key))
            return stack.enter_context(api.stream("GET", f"/v1/jobs/{jobs[name]}/events", headers=SSE))

        for key in keys[:4]:
            assert {open_stream(key, "a").status_code for _ in range(total // 16)} == {200}
        for key, who in ((keys[0], f"API key {keys[0][3:11]}"), (keys[4], "tenant a")):
            refused = open_stream(key, "a")
            refused.read()
            assert who in problem(refused, 503, "overloaded")["detail"]
            assert refused.headers["retry-after"] == "5"
        assert open_stream(service.key("b"), "b").status_code == 200
        page = service.tenants["a"].api.get(f"/v1/jobs/{jobs['a']}/events")
        assert page.status_code == 200, "a page is no stream"
    wait_until(lambda: not service.server.services.streams._taken)
    for job_id in jobs.values():
        service.worker.finish(job_id)
