from datetime import UTC, datetime, timedelta

import pytest

from service.errors import Problem
from service.idempotency import Made, once
from worker.artifacts import ArtifactStore
from worker.jobs import key_sha256
from worker.records import create_document, read_document


class Shelf:
    """Objects with numbers."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self.artifacts = artifacts
        self.objects: set[str] = set()
        self.count = 0
        self.tenant = "default"

    def make(self) -> str:
        self.count += 1
        self.objects.add(str(self.count))
        return str(self.count)

    def once(self, body: str = "body") -> Made:
        return once(
            self.artifacts,
            "things",
            "key",
            body,
            tenant=self.tenant,
            make=self.make,
            discard=self.objects.remove,
            exists=lambda made: made in self.objects,
        )


@pytest.fixture
def shelf(artifacts: ArtifactStore) -> Shelf:
    return Shelf(artifacts)


FOLDER = f"idempotency/things/{key_sha256('key')}"


def age(artifacts: ArtifactStore, record: str, hours: int) -> None:
    document = read_document(artifacts, f"{FOLDER}/{record}")
    assert document is not None
    document["created_at"] = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    artifacts.delete(f"{FOLDER}/{record}")
    create_document(artifacts, f"{FOLDER}/{record}", document)


def test_a_key_makes_one_object(shelf: Shelf) -> None:
    assert [shelf.once(), shelf.once()] == [Made("1", replayed=False), Made("1", replayed=True)]
    with pytest.raises(Problem, match="another body"):
        shelf.once("other")


def test_a_key_is_free_again_when_its_object_is_gone(shelf: Shelf, artifacts: ArtifactStore) -> None:
    shelf.once()
    shelf.objects.clear()
    assert [shelf.once("other"), shelf.once("other")] == [Made("2", replayed=False), Made("2", replayed=True)]
    assert artifacts.list_names(FOLDER) == ["2.json"]


def test_a_key_is_free_again_after_a_day(shelf: Shelf, artifacts: ArtifactStore) -> None:
    shelf.once()
    age(artifacts, "1.json", 23)
    assert shelf.once() == Made("1", replayed=True)
    age(artifacts, "1.json", 24)
    assert shelf.once("other") == Made("2", replayed=False)


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_two_requests_at_once_the_later_gives_its_object_up(shelf: Shelf, is_stale: bool) -> None:
    if is_stale:
        shelf.once()
        shelf.objects.clear()
    make = shelf.make

    def make_slowly() -> str:
        shelf.make = make  # type: ignore[method-assign]  # the other request comes in between
        assert not shelf.once().replayed
        return make()

    shelf.make = make_slowly  # type: ignore[method-assign]
    answer = shelf.once()
    assert answer.replayed
    assert shelf.objects == {answer.id}


def test_the_same_key_of_another_tenant_makes_another_object(shelf: Shelf) -> None:
    assert shelf.once() == Made("1", replayed=False)
    shelf.tenant = "other"
    assert [shelf.once("another body"), shelf.once("another body")] == [Made("2", replayed=False), Made("2", replayed=True)]
