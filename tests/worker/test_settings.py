from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.settings import Settings, broker_url, unknown_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SNAPCYCLE_{name.upper()}", raising=False)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPCYCLE_REDIS_URL", "redis://example:6379/1")
    monkeypatch.setenv("SNAPCYCLE_PORT", "9000")
    monkeypatch.setenv("SNAPCYCLE_HOST", "")
    settings = Settings()
    assert (settings.redis_url, settings.port, settings.host) == ("redis://example:6379/1", 9000, "127.0.0.1")


def test_data_lives_in_the_users_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = Settings()
    assert settings.data_dir == tmp_path / "snapcycle"
    assert settings.artifacts_url == str(tmp_path / "snapcycle" / "artifacts")
    assert settings.staging_dir == tmp_path / "snapcycle" / "scratch"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert Settings().data_dir == Path("/home/ada/.local/share/snapcycle")


def test_a_lease_that_one_late_beat_would_lose_is_refused() -> None:
    assert Settings(lease_seconds=10, beat_seconds=5).lease_seconds == 10
    with pytest.raises(ValidationError, match=r"at least twice beat_seconds \(5\), got 9: .*raise lease_seconds"):
        Settings(lease_seconds=9, beat_seconds=5)


@pytest.mark.parametrize(("name", "value"), [("redis_url", "http://x"), ("port", 70_000), ("device", "tpu"), ("max_crashes", 0)])
def test_values_out_of_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_refusals_say_what_is_expected_in_words() -> None:
    with pytest.raises(ValidationError, match=r"must be auto, cpu, cuda, or cuda: and the number of a GPU"):
        Settings(device="tpu")
    with pytest.raises(ValidationError, match=r"must begin with redis://"):
        Settings(redis_url="http://x")


def test_unpacked_uploads_may_be_as_large_as_packed_ones_unless_told() -> None:
    assert Settings(max_upload_bytes=5000).dataset_bytes == 5000
    assert Settings(max_upload_bytes=5000, max_dataset_bytes=7000).dataset_bytes == 7000


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_unknown_variables_are_named_with_the_likely_one() -> None:
    environ = {"SNAPCYCLE_PORT": "1", "SNAPCYCLE_REDIS": "x", "SNAPCYCLE_QQQ": "1", "OTHER": "1"}
    unrelated, near = unknown_settings(environ)
    assert unrelated.startswith("SNAPCYCLE_QQQ is not a setting and has no effect: known are SNAPCYCLE_REDIS_URL, ")
    assert near == "SNAPCYCLE_REDIS is not a setting and has no effect: did you mean SNAPCYCLE_REDIS_URL?"


@pytest.mark.parametrize(
    ("redis_url", "expected"),
    [
        ("redis://example:6379/1", "redis://example:6379/1"),
        ("rediss://u:p@example/0", "rediss://u:p@example/0"),
        ("unix:///run/v.sock?db=0", "redis+socket:///run/v.sock?virtual_host=0"),
        ("unix:///with%20space/v.sock", "redis+socket:///with%20space/v.sock"),
    ],
)
def test_celery_gets_the_url_in_its_own_notation(redis_url: str, expected: str) -> None:
    assert broker_url(Settings(redis_url=redis_url)) == expected


def test_a_broker_needs_a_server() -> None:
    with pytest.raises(ValueError, match="set SNAPCYCLE_REDIS_URL, or use `snapcycle up`"):
        broker_url(Settings())
