"""Seeds made of seeds: a fixed mapping, so that equal requests draw equal numbers. This module doesn't import torch."""

from hashlib import blake2b


def mix(seed: int, purpose: str, index: int = 0) -> int:
    """A seed in [0, 2**63) for one purpose; unrelated for any other seed, purpose or index."""
    digest = blake2b(b"%d/%s/%d" % (seed, purpose.encode(), index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
