"""Settings of all tests of ``clr``."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread: the machine is shared, and tiny kernels gain nothing from more."""
    torch.set_num_threads(1)
