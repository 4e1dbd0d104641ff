"""Fixtures for the tests of the worker."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_trainer() -> Iterator[None]:
    """Gives trainers one thread each: on a busy machine two that wait for each other at every step take many times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
