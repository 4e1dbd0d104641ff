"""Stateless randomness: every random draw is a function of the run's seed and of what it is for.

There is no stream to save or restore, so a resumed run draws what the undisturbed one would have drawn.
"""

from hashlib import blake2b

import torch


def mix(seed: int, purpose: str, index: int = 0) -> int:
    """A seed in [0, 2**63) for one purpose; unrelated for any other seed, purpose or index."""
    digest = blake2b(b"%d/%s/%d" % (seed, purpose.encode(), index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for one purpose. Draws are made on the CPU, so that a GPU run sees the same ones."""
    return torch.Generator().manual_seed(mix(seed, purpose, index))
