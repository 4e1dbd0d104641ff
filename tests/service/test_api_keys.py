"""API keys: made, kept, presented, ended; and when the service asks for them."""

import json
import logging
import re
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from service.api_keys import KEY_PATTERN, REVOCATIONS, ApiKey, KeyStore, PepperError, read_pepper
from service.cli import app
from service.client import ApiError, Client
from service.key_ring import KeyRing
from service.principals import Principal, Scope
from service.routes.api_keys import MAX_USABLE_KEYS
from tests.service.conftest import Server, make_settings, problem, wait_until
from worker.artifacts import ArtifactStore, ArtifactUnavailable, StoreFull
from worker.records import write_document
from worker.settings import Settings
from worker.valkey_server import ValkeyServer

PEPPER = b"p" * 32


@pytest.fixture
def keys(artifacts: ArtifactStore) -> KeyStore:
    return KeyStore(artifacts, PEPPER)


def make(keys: KeyStore, *scopes: Scope, tenant: str = "default", expires_in_days: float | None = None) -> tuple[str, str]:
    """The id and the text of a new key."""
    key, text = keys.create(scopes=scopes or (Scope.READ,), tenant=tenant, name=None, expires_in_days=expires_in_days)
    return key.id, text


def ring_of(keys: KeyStore) -> KeyRing:
    ring = KeyRing(keys)
    ring.refresh()
    return ring


def test_a_key_is_kept_as_its_hmac_alone(keys: KeyStore, artifacts: ArtifactStore) -> None:
    key_id, text = make(keys, Scope.READ, Scope.TRAIN, tenant="lab")
    match = KEY_PATTERN.fullmatch(text)
    assert match is not None
    assert match[1] == key_id
    (name,) = artifacts.list_keys("keys")
    assert name == f"keys/{key_id}.json"
    stored = artifacts.read(name).decode()
    assert match[2] not in stored
    assert text not in stored
    assert ring_of(keys).verdict(text).principal == Principal("lab", frozenset({Scope.READ, Scope.TRAIN}), key_id)


def test_a_list_reads_only_the_keys_that_are_new(keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {make(keys)[0] for _ in range(3)}
    ring = ring_of(keys)
    read: list[str] = []
    original = KeyStore.read

    def spied(store: KeyStore, key_id: str) -> ApiKey | None:
        read.append(key_id)
        return original(store, key_id)

    monkeypatch.setattr(KeyStore, "read", spied)
    assert {key.id for key in ring.all_keys()} == made
    assert read == []
    new, _ = make(keys)
    assert {key.id for key in ring.all_keys()} == made | {new}
    assert read == [new]
    keys.revoke(new)
    read.clear()
    assert {key.id for key in ring.all_keys() if key.revoked_at is not None} == {new}
    assert {key.id for key in ring.all_keys()} == made | {new}
    assert read == [new]


def test_what_a_ring_has_learnt_of_a_key_is_compared_with_the_store(keys: KeyStore, artifacts: ArtifactStore) -> None:
    (key, text), (gone, lost) = ((keys.create(scopes=(Scope.READ,), tenant="default", name=None, expires_in_days=None)) for _ in range(2))
    ring = KeyRing(keys)
    assert not ring.has_keys
    for made in (key, gone):
        ring.learn(made)
    assert ring.has_keys
    assert ring.verdict(text).principal is not None
    artifacts.delete(f"keys/{gone.id}.json")
    ring.refresh()
    assert ring.verdict(text).principal is not None
    assert ring.verdict(lost).principal is None
    revoked = keys.revoke(key.id)
    assert revoked is not None
    ring.learn(revoked)
    assert ring.verdict(text).reason == f"was revoked at {revoked.revoked_at}"
    artifacts.delete_prefix("keys")
    keys.create(scopes=(Scope.READ,), tenant="default", name=None, expires_in_days=None)
    ring.refresh()
    assert ring.verdict(text).reason == "is unknown"


def test_a_revocation_that_is_known_outlives_its_objects_where_the_key_is_still_there(keys: KeyStore, artifacts: ArtifactStore) -> None:
    key_id, text = make(keys)
    content = artifacts.read(f"keys/{key_id}.json")
    keys.revoke(key_id)
    ring = ring_of(keys)
    for end in REVOCATIONS:
        artifacts.delete(f"keys/{key_id}{end}")
    artifacts.create(f"keys/{key_id}.json", content)
    ring.refresh()
    assert "was revoked" in ring.verdict(text).reason


def test_a_key_that_could_not_be_read_is_tried_again(keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = make(keys)
    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "read", lambda *_: None)
        ring = ring_of(keys)
    assert ring.verdict(text).principal is None
    ring.refresh()
    assert ring.verdict(text).principal is not None


def test_a_revocation_that_lacked_the_room_is_completed_later(
    keys: KeyStore, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, _ = make(keys)
    write_document(artifacts, f"keys/{key_id}.revoked.json", {"at": "2026-01-01T00:00:00.000Z"})

    def refuse(*_: object) -> None:
        raise StoreFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "revoke", refuse)
        ring = ring_of(keys)
    assert f"{key_id}.json" in artifacts.list_names("keys")
    ring.refresh()
    assert artifacts.list_names("keys") == [f"{key_id}.revoked.json", f"{key_id}.revoked.twin.json"]


def test_every_character_of_a_key_counts(keys: KeyStore) -> None:
    _, text = make(keys)
    ring = ring_of(keys)
    for index in range(len(text)):
        other = "B" if text[index] == "A" else "A"
        assert ring.verdict(text[:index] + other + text[index + 1 :]).principal is None
    for wrong in ("", text[:-1], text + "A", f" {text}", text.upper(), f"{text}\n"):
        assert ring.verdict(wrong).principal is None


def test_who_has_a_part_of_a_key_learns_nothing_of_its_state(keys: KeyStore) -> None:
    key_id, text = make(keys)
    keys.revoke(key_id)
    ring = ring_of(keys)
    assert "was revoked" in ring.verdict(text).reason
    assert ring.verdict(f"sk_{key_id}_{'A' * 43}") == ring.verdict("sk_zzzzzzzz_" + "A" * 43)


def test_expiry_and_revocation_end_a_key(keys: KeyStore) -> None:
    key_id, text = make(keys, expires_in_days=2)
    key = keys.read(key_id)
    assert key is not None
    now = datetime.now(UTC)
    assert key.why_unusable(now + timedelta(days=1.99)) is None
    assert "expired" in (key.why_unusable(now + timedelta(days=2.01)) or "")
    ring = ring_of(keys)
    revoked = keys.revoke(key_id)
    assert revoked is not None
    assert keys.revoke(key_id) == revoked, "repeating it changes nothing"
    ring.refresh()
    assert ring.verdict(text).principal is None
    assert keys.revoke("zzzzzzzz") is None


def test_another_pepper_opens_nothing_and_is_told(keys: KeyStore, artifacts: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    key_id, text = make(keys)
    ring = ring_of(KeyStore(artifacts, b"q" * 32))
    assert ring.verdict(text).principal is None
    assert f"API key {key_id} was made with another pepper" in caplog.text


def test_a_damaged_key_opens_nothing_and_hurts_no_other(keys: KeyStore, artifacts: ArtifactStore, tmp_path: Path) -> None:
    (damaged, lost), (_, whole) = make(keys), make(keys)
    path = tmp_path / "artifacts" / "keys" / f"{damaged}.json"
    path.write_bytes(path.read_bytes().replace(b"read", b"reed"))
    ring = ring_of(keys)
    assert ring.verdict(lost).principal is None
    assert ring.verdict(whole).principal is not None


def test_a_damaged_revocation_revokes(keys: KeyStore, tmp_path: Path) -> None:
    key_id, text = make(keys)
    keys.revoke(key_id)
    for name in ("revoked", "revoked.twin"):
        (tmp_path / "artifacts" / "keys" / f"{key_id}.{name}.json").write_bytes(b"{")
        assert ring_of(keys).verdict(text).principal is None


@pytest.mark.parametrize("lost", [["revoked"], ["revoked.twin"], ["revoked", "revoked.twin"]])
def test_a_lost_revocation_revives_no_key(keys: KeyStore, artifacts: ArtifactStore, lost: list[str]) -> None:
    key_id, text = make(keys)
    watching = ring_of(keys)
    keys.revoke(key_id)
    for name in lost:
        artifacts.delete(f"keys/{key_id}.{name}.json")
    watching.refresh()
    fresh = ring_of(keys)
    for ring in (watching, fresh):
        assert ring.verdict(text).principal is None
    assert ("was revoked at" in fresh.verdict(text).reason) == (len(lost) == 1)
    assert watching.has_keys


@pytest.mark.parametrize("completed_by", ["another process", "a repetition"])
def test_a_revocation_that_was_interrupted_is_completed(keys: KeyStore, artifacts: ArtifactStore, completed_by: str) -> None:
    """Also those of a version that left the key's own object where it was."""
    key_id, text = make(keys)
    write_document(artifacts, f"keys/{key_id}.revoked.json", {"at": "2026-01-01T00:00:00.000Z"})
    if completed_by == "another process":
        assert "was revoked at 2026-01-01" in ring_of(keys).verdict(text).reason
    else:
        keys.revoke(key_id)
    assert artifacts.list_names("keys") == [f"{key_id}.revoked.json", f"{key_id}.revoked.twin.json"]
    artifacts.delete(f"keys/{key_id}.revoked.json")
    found = ring_of(keys).verdict(text)
    assert (found.principal, found.reason) == (None, "was revoked at 2026-01-01T00:00:00.000Z")


def test_a_ring_whose_store_is_away_trusts_its_keys_for_a_while(keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(keys)
    assert not ring.is_current
    ring.refresh()
    assert ring.is_current

    def away(prefix: str) -> list[str]:
        raise ArtifactUnavailable("away")

    monkeypatch.setattr(keys._artifacts, "list_names", away)
    with pytest.raises(ArtifactUnavailable):
        ring.refresh()
    assert ring.is_current
    monkeypatch.setattr("service.key_ring.STALE_SECONDS", 0.0)
    assert not ring.is_current


def test_keys_that_vanish_do_not_open_the_door(keys: KeyStore, artifacts: ArtifactStore) -> None:
    make(keys)
    ring = ring_of(keys)
    artifacts.delete_prefix("keys")
    ring.refresh()
    assert ring.has_keys


def test_those_that_start_together_make_one_pepper(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def start(directory: Path) -> bytes:
        barrier.wait()
        return read_pepper(directory, None)

    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            directory = tmp_path / str(number)
            assert set(pool.map(start, [directory] * 8)) == {read_pepper(directory, None)}
            assert [file.name for file in directory.iterdir()] == ["key_pepper"]


def test_the_pepper_is_made_once_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    pepper = read_pepper(tmp_path / "data", None)
    assert len(pepper) == 32
    assert read_pepper(tmp_path / "data", None) == pepper
    (file,) = (tmp_path / "data").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_pepper(tmp_path / "data", "given in the environment") == b"given in the environment"
    with pytest.raises(PepperError, match="at least 16 characters, got 5"):
        read_pepper(tmp_path, "short")
    file.write_bytes(b"cut")
    with pytest.raises(PepperError, match="32 bytes, got 3"):
        read_pepper(tmp_path / "data", None)


@pytest.fixture
def fresh(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Server]:
    """A service on loopback for which nobody has made a key."""
    with Server(make_settings(valkey, tmp_path / "data")) as running:
        yield running


def run(*arguments: str, data_dir: Path) -> str:
    done = CliRunner().invoke(app, [*arguments, "--data-dir", str(data_dir)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_first_key_closes_the_door_and_a_revocation_takes_seconds(fresh: Server, tmp_path: Path) -> None:
    def status(key: str | None) -> int:
        headers = {"X-API-Key": key} if key else {}
        return httpx2.get(f"{fresh.url}/v1/jobs", headers=headers, trust_env=False).status_code

    assert status(None) == 200
    text = run("keys", "create", "--scope", "read,predict", "--expires", "1", data_dir=tmp_path / "data").strip()
    wait_until(lambda: status(None) == 401, seconds=3)
    assert status(text) == 200
    with Client(fresh.url, api_key=text) as client:
        assert client.queue()["depth"] >= 0
        with pytest.raises(ApiError) as refused:
            client.datasets.builtin("digits")
        assert (refused.value.status, refused.value.code) == (403, "forbidden")
        assert text not in repr(vars(client)) + repr(client.http.headers) + str(refused.value)
    (listed,) = json.loads(run("keys", "list", "--json", data_dir=tmp_path / "data"))
    assert (listed["id"], listed["scopes"], listed["tenant"]) == (text[3:11], ["read", "predict"], "default")
    assert "hmac_sha256" not in listed
    assert "was revoked" in run("keys", "revoke", listed["id"], data_dir=tmp_path / "data")
    wait_until(lambda: status(text) == 401, seconds=3)
    assert status(None) == 401, "the door stays closed"


def test_the_first_key_can_be_made_over_http(fresh: Server) -> None:
    with httpx2.Client(base_url=fresh.url, trust_env=False) as api:
        made = api.post("/v1/api-keys", json={"scopes": ["admin"], "name": "first", "expires_in_days": 30})
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert made.headers["location"] == f"/v1/api-keys/{made.json()['id']}"
        problem(api.get("/v1/api-keys"), 401, "unauthenticated")
        api.headers["Authorization"] = f"Bearer {made.json()['key']}"
        listed = api.get("/v1/api-keys").json()["data"]
        assert [(key["name"], key["tenant"], "key" in key) for key in listed] == [("first", "default", False)]


def test_a_tenant_has_so_many_usable_keys(fresh: Server) -> None:
    keys = fresh.services.door.ring.store
    with httpx2.Client(base_url=fresh.url, trust_env=False) as api:
        api.headers["Authorization"] = f"Bearer {api.post('/v1/api-keys', json={'scopes': ['admin']}).json()['key']}"
        expired, _ = make(keys, expires_in_days=1e-9)
        others = [make(keys)[0] for _ in range(MAX_USABLE_KEYS - 2)]
        assert api.post("/v1/api-keys", json={"scopes": ["read"]}).status_code == 201, "what has expired does not count"
        refused = problem(api.post("/v1/api-keys", json={"scopes": ["read"]}), 429, "quota_exceeded")
        assert (refused["usable_keys"], refused["limit_usable_keys"]) == (MAX_USABLE_KEYS, MAX_USABLE_KEYS)
        assert "revoke those that are not needed" in refused["detail"]
        assert len(keys.read_all()) == MAX_USABLE_KEYS + 1, "nothing was made"
        assert expired in keys.read_all()
        assert api.post("/v1/api-keys", json={"scopes": ["read"], "tenant": "lab"}).status_code == 201
        assert api.delete(f"/v1/api-keys/{others[0]}").status_code == 200
        assert api.post("/v1/api-keys", json={"scopes": ["read"]}).status_code == 201


def test_keys_that_ended_long_ago_are_forgotten_and_open_nothing(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.api_keys.MAX_ENDED_KEYS", 3)
    ring = fresh.services.door.ring
    keys = ring.store
    made = [make(keys) for _ in range(5)]
    foreign, _ = make(keys, tenant="lab")
    for key_id, _ in made:
        keys.revoke(key_id)
        time.sleep(0.002)  # the order of their ends is told by milliseconds
    keys.revoke(foreign)
    _, admin = make(keys, Scope.ADMIN)
    ring.refresh()
    with httpx2.Client(base_url=fresh.url, trust_env=False, headers={"Authorization": f"Bearer {admin}"}) as api:
        made_now = api.post("/v1/api-keys", json={"scopes": ["read"]}).json()["id"]
        listed = {key["id"] for key in api.get("/v1/api-keys").json()["data"]}
        assert listed == {admin[3:11], made_now, foreign, *(key_id for key_id, _ in made[2:])}
        assert set(ring._listing.keys) == listed
        forgotten, text = made[0]
        assert [name for name in keys._artifacts.list_names("keys") if forgotten in name] == []
        problem(api.get(f"/v1/api-keys/{forgotten}"), 404, "not_found")
        problem(api.delete(f"/v1/api-keys/{forgotten}"), 404, "not_found")
        api.headers["Authorization"] = f"Bearer {text}"
        assert "is unknown" in problem(api.get("/v1/jobs"), 401, "unauthenticated")["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/scopes"),
        ({"scopes": []}, "#/scopes"),
        ({"scopes": ["write"]}, "#/scopes/0"),
        ({"scopes": ["read"], "tenant": "No Name"}, "#/tenant"),
        ({"scopes": ["read"], "tenant": "a\n"}, "#/tenant"),
        ({"scopes": ["read"], "expires_in_days": 0}, "#/expires_in_days"),
        ({"scopes": ["read"], "key": "sk_"}, "#/key"),
    ],
)
def test_requests_for_keys_are_strict(fresh: Server, body: object, pointer: str) -> None:
    response = httpx2.post(f"{fresh.url}/v1/api-keys", json=body, trust_env=False)
    assert pointer in [error["pointer"] for error in problem(response, 422, "validation_error")["errors"]]


def test_several_keys_in_one_request_are_refused(fresh: Server) -> None:
    store = fresh.services.door.ring.store
    texts = [make(store)[1] for _ in range(2)]
    fresh.services.door.ring.refresh()
    for headers in ({"Authorization": f"Bearer {texts[0]}", "X-API-Key": texts[1]}, {"X-API-Key": f"{texts[0]},{texts[1]}"}):
        problem(httpx2.get(f"{fresh.url}/v1/jobs", headers=headers, trust_env=False), 401, "unauthenticated")
    same = {"Authorization": f"bearer {texts[0]}", "X-API-Key": texts[0]}
    assert httpx2.get(f"{fresh.url}/v1/jobs", headers=same, trust_env=False).status_code == 200


@pytest.mark.parametrize("command", [["api"], ["up"]])
def test_listening_beyond_this_machine_without_keys_is_refused_in_words(command: list[str], tmp_path: Path) -> None:
    environment = {"SNAPCYCLE_DATA_DIR": str(tmp_path), "SNAPCYCLE_REDIS_URL": "redis://127.0.0.1:9"}
    done = CliRunner().invoke(app, [*command, "--host", "0.0.0.0", "--port", "0"], env=environment)
    assert done.exit_code == 1
    assert "0.0.0.0 can be reached from other machines, and there is no API key" in done.stderr
    assert "`snapcycle keys create --scope read,predict,train,admin`" in done.stderr
    off = CliRunner().invoke(app, [*command, "--host", "0.0.0.0"], env={**environment, "SNAPCYCLE_AUTH": "off"})
    assert off.exit_code == 1
    assert "SNAPCYCLE_AUTH is off" in off.stderr


def test_listening_beyond_this_machine_always_asks_for_keys(tmp_path: Path) -> None:
    from service.cli_processes import guarded

    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    store = KeyStore.open(settings, ArtifactStore.open(settings.artifacts_url))
    key_id, _ = make(store)
    assert guarded(settings, is_insecure=False).auth == "on"
    assert guarded(settings, is_insecure=True).auth == "auto"
    assert guarded(settings.model_copy(update={"host": "127.0.0.1"}), is_insecure=False).auth == "auto"
    store.revoke(key_id)
    refused = CliRunner().invoke(app, ["api", "--host", "0.0.0.0"], env={"SNAPCYCLE_DATA_DIR": str(tmp_path)})
    assert "there is no API key" in refused.stderr


def test_a_whole_key_in_place_of_an_id_is_not_repeated(tmp_path: Path) -> None:
    text = "sk_00000000_" + "x" * 43
    done = CliRunner().invoke(app, ["keys", "revoke", text, "--data-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "x" * 43 not in done.output


@pytest.mark.parametrize(
    "arguments", [["--scope", "read,write"], ["--scope", "read", "--tenant", "A"], ["--scope", "read", "--expires", "-1"]]
)
def test_wrong_options_of_keys_create_are_refused(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["keys", "create", *arguments, "--data-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert arguments[-2] in done.stderr


def test_logs_have_no_key(fresh: Server, caplog: pytest.LogCaptureFixture) -> None:
    from service.log_secrets import WithoutKeys

    text = make(fresh.services.door.ring.store, *Scope)[1]
    fresh.services.door.ring.refresh()
    with caplog.at_level(logging.DEBUG), httpx2.Client(base_url=fresh.url, trust_env=False) as api:
        logging.getLogger("httpx2").setLevel(logging.CRITICAL)  # the client's own log is not the service's
        api.get("/v1/jobs", headers={"X-API-Key": text})
        api.get(f"/v1/jobs/{text}", params={"api_key": text}, headers={"Authorization": f"Bearer {text}"})
        api.post("/v1/jobs", json={"name": text, "key": text}, headers={"Authorization": f"Bearer {text}"})
        logging.getLogger("service").error("a defect that repeats %s", text)
    lines = [WithoutKeys(None).format(record) for record in caplog.records if not record.name.startswith(("httpx2", "httpcore"))]
    assert any(f"a defect that repeats sk_{text[3:11]}_…" in line for line in lines)
    assert not [line for line in lines if text[12:] in line]
    assert not [line for line in lines if re.search(r"sk_\w{8}_[\w-]{43}", line)]
