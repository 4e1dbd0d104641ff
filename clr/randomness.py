"""Stateless randomness: every random draw is a function of the run's seed and of what it is for.

There is no stream to save or restore, so a resumed run draws what the undisturbed one would have drawn.
"""

import torch

from clr.seeds import mix

__all__ = ["generator", "mix"]


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for one purpose. Draws are made on the CPU, so that a GPU run sees the same ones."""
    return torch.Generator().manual_seed(mix(seed, purpose, index))
