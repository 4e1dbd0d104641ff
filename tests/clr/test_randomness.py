"""Random draws are functions of the seed and of what they are for."""

import torch

from clr.randomness import generator, mix


def test_seeds_are_the_same_on_every_machine() -> None:
    assert mix(0, "order") == 3471081512423777433
    assert mix(2**63 - 1, "dropout", 12) == 3023703471269726560


def test_seed_purpose_and_index_each_matter() -> None:
    seeds = {mix(seed, purpose, index) for seed in range(10) for purpose in ("order", "weights") for index in range(10)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    one, two = (torch.rand(5, generator=generator(3, "order", 1)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
