"""A running service for the tutorial."""

from collections.abc import Iterator

import pytest

from service.client import Client
from service.embedded import Stack
from worker.settings import Settings


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service that runs for as long as the tutorial does."""
    directory = tmp_path_factory.mktemp("walkthrough")
    with (
        (directory / "log").open("wb") as log,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("OMP_NUM_THREADS", "1")  # the tutorial's networks are tiny
        settings = Settings(redis_url=None, artifacts=None, data_dir=directory, host="127.0.0.1", port=0)
        with Stack(settings, num_workers=1, log=log) as stack, Client(stack.url) as connected:
            yield connected
