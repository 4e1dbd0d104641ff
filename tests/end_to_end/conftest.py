"""One ``snapcycle up`` for all tests of this folder; tests that need another one start it themselves."""

from collections.abc import Iterator

import pytest

from service.client import Client
from tests.end_to_end.processes import Up

QUICK_RECOVERY = {"SNAPCYCLE_LEASE_SECONDS": "4", "SNAPCYCLE_BEAT_SECONDS": "0.5", "SNAPCYCLE_CHECKPOINT_SECONDS": "0.5"}


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The running service."""
    with Up(tmp_path_factory.mktemp("up") / "data", environment=QUICK_RECOVERY) as running:
        yield running


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    """A client of the running service."""
    with Client(up.url) as connected:
        yield connected
