"""Formulas of two projects that cannot run here: one is Lua for Torch 7, the other a callback of a Keras of 2017.

Each is written down from its repository's newest commit in our own words; everything else in this directory runs a peer's code.
"""

import math


def gaohuang_rate(epoch: int, iteration: int, *, epochs: int, cycles: int, batches: int, max_lr: float) -> float:
    """gaohuang/SnapshotEnsemble, train.lua: epochs and iterations from 1; the last cycle has another length, but not another start."""
    usual = epochs // cycles
    is_last = epoch > (cycles - 1) * usual
    length = epochs - (cycles - 1) * usual if is_last else usual
    done = (epoch - 1) % length * batches + iteration
    return 0.5 * max_lr * (1 + math.cos(math.pi * done / (length * batches)))


def titu1994_rate(epoch: int, *, epochs: int, cycles: int, max_lr: float) -> float:
    """titu1994/Snapshot-Ensembles, snapshot.py: one rate per epoch, from 0."""
    length = epochs // cycles
    return max_lr / 2 * (math.cos(math.pi * (epoch % length) / length) + 1)


def titu1994_snapshots(*, epochs: int, cycles: int) -> list[int]:
    """titu1994/Snapshot-Ensembles, snapshot.py: the epochs, from 1, after which weights are saved."""
    return [epoch for epoch in range(2, epochs + 1) if epoch % (epochs // cycles) == 0]
