"""Settings of all tests of ``clr``."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # the machine is shared: a slow example is no failure
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread: the machine is shared, and tiny kernels gain nothing from more."""
    torch.set_num_threads(1)
