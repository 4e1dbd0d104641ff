"""Which snapshots share a basin: the loss along the straight line between two, and the barrier on it (1704.00109, section 4.4).

Batch-norm statistics belong to one set of weights, so they are estimated anew at every point of a line, its ends included. Two
snapshots that share a basin may be averaged in weight space (1803.05407); across basins only predictions may be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clr.inference import network_outputs
from clr.loss_surface import CHUNK_ROWS, Rows
from clr.preprocessing import Preprocessing
from clr.snapshots import Snapshot
from clr.targets import Task

LEARNED = 0.95
"""A snapshot whose loss is at least this share of a constant prediction's has learned nothing worth averaging."""


@dataclass(frozen=True)
class PointLoss:
    """Loss at one point of weight space, and the share of wrong classes there (None for regression)."""

    loss: float
    error: float | None


@dataclass(frozen=True)
class Line:
    """The straight line between two snapshots.

    Attributes:
        first: Index of the snapshot at lambda 0.
        second: Index of the snapshot at lambda 1.
        lambdas: From 0 to 1, both included.
        points: The losses at them.
        threshold: The barrier up to which the two count as sharing a basin.
    """

    first: int
    second: int
    lambdas: tuple[float, ...]
    points: tuple[PointLoss, ...]
    threshold: float

    @property
    def barrier(self) -> float:
        """max over lambda of L - ((1 - lambda) L_first + lambda L_second); infinite where a loss is not finite."""
        losses = [point.loss for point in self.points]
        if not all(math.isfinite(loss) for loss in losses):
            return math.inf
        rise = losses[-1] - losses[0]
        return max(loss - (losses[0] + position * rise) for position, loss in zip(self.lambdas, losses, strict=True))

    @property
    def is_one_basin(self) -> bool:
        """Whether the barrier is within the threshold."""
        return math.isfinite(self.barrier) and self.barrier <= self.threshold


@dataclass(frozen=True)
class BasinMap:
    """Which snapshots share a basin.

    Attributes:
        lines: Every line that was measured.
        barriers: M x M, symmetric, 0 on the diagonal; None for pairs that were not measured.
        basins: Snapshot indices, each in exactly one basin, ascending.
        coverage: Which pairs were measured, in words.
        advice: What to average, in words that count snapshots from 1.
    """

    lines: tuple[Line, ...]
    barriers: tuple[tuple[float | None, ...], ...]
    basins: tuple[tuple[int, ...], ...]
    coverage: str
    advice: str


def chosen_pairs(num_snapshots: int, max_pairs: int) -> list[tuple[int, int]]:
    """All pairs if they are at most ``max_pairs``, else neighbours in time and the first with the last."""
    pairs = [(first, second) for first in range(num_snapshots) for second in range(first + 1, num_snapshots)]
    if len(pairs) <= max_pairs:
        return pairs
    along = [(first, first + 1) for first in range(num_snapshots - 1)]
    return along if num_snapshots == 2 else [*along, (0, num_snapshots - 1)]


def interpolate(first: Snapshot, second: Snapshot, position: float) -> Snapshot:
    """The snapshot at lambda = ``position``: weights, buffers and the scale of the rows, which differs between splits of the data.

    Counters (``num_batches_tracked``) stay the first one's. Exact at both ends, and everywhere between equal snapshots.
    """
    a, b = first.preprocessing, second.preprocessing
    preprocessing = Preprocessing(
        a.layout,
        torch.lerp(a.mean, b.mean, position),
        torch.lerp(a.std, b.std, position),
        _between(a.target_mean, b.target_mean, position),
        _between(a.target_std, b.target_std, position),
    )
    tensors = {
        name: torch.lerp(tensor, second.tensors[name], position) if tensor.is_floating_point() else tensor
        for name, tensor in first.tensors.items()
    }
    return replace(first, tensors=tensors, preprocessing=preprocessing)


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, preprocessing: Preprocessing, inputs: Tensor) -> None:
    """Sets the network's running statistics to averages over ``inputs``, in which every row counts the same.

    After n rows a batch of b enters with momentum b / (n + b); ``torch.optim.swa_utils.update_bn`` counts batches instead, so a
    short last batch weighs too much there. All else stays in evaluation mode: no dropout.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    num_rows = 0
    for batch in torch.split(inputs, CHUNK_ROWS):
        num_rows += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / num_rows
        network(preprocessing(batch.to(preprocessing.mean.device)))
    network.eval()


def point_loss(snapshot: Snapshot, rows: Rows, train_inputs: Tensor, device: torch.device) -> PointLoss:
    """The snapshot's loss on ``rows`` with batch-norm statistics estimated anew on ``train_inputs``, summed in float64."""
    network, preprocessing = snapshot.build_network(device), snapshot.preprocessing.to(device)
    reestimate_batch_norm(network, preprocessing, train_inputs)
    outputs = network_outputs(network, preprocessing, rows.inputs).double()
    targets = rows.targets.cpu()
    loss = rows.summed_loss(outputs, targets, preprocessing).item() / len(rows)
    error = (outputs.argmax(1) != targets).double().mean().item() if rows.task is Task.CLASSIFICATION else None
    return PointLoss(loss, error)


def find_basins(num_snapshots: int, lines: Sequence[Line]) -> tuple[tuple[int, ...], ...]:
    """Clusters by complete linkage: two join while every measured barrier between their snapshots is within its threshold.

    A single low barrier must not chain snapshots whose own barrier is high, since weights are averaged over a whole basin. The
    lowest barriers join first; a pair that was not measured does not object.
    """
    apart = {frozenset((line.first, line.second)) for line in lines if not line.is_one_basin}
    basins = [{index} for index in range(num_snapshots)]
    for line in sorted((line for line in lines if line.is_one_basin), key=lambda line: line.barrier):
        one, other = (next(basin for basin in basins if index in basin) for index in (line.first, line.second))
        if one is not other and not any(frozenset((a, b)) in apart for a in one for b in other):
            one |= other
            basins.remove(other)
    return tuple(sorted(tuple(sorted(basin)) for basin in basins))


def map_basins(ends: Sequence[PointLoss], lines: Sequence[Line], constant_loss: float) -> BasinMap:
    """The matrix of barriers, the basins, and what follows from them.

    Args:
        ends: The snapshots' own losses.
        lines: Between them.
        constant_loss: Of the best prediction that is the same for every row.
    """
    size = len(ends)
    barriers: list[list[float | None]] = [[0.0 if row == column else None for column in range(size)] for row in range(size)]
    for line in lines:
        barriers[line.first][line.second] = barriers[line.second][line.first] = line.barrier
    basins = find_basins(size, lines)
    num_pairs = size * (size - 1) // 2
    if not num_pairs:
        coverage = "there is no pair to measure"
    elif len(lines) == num_pairs:
        coverage = "the one pair was measured" if num_pairs == 1 else f"all {num_pairs} pairs were measured"
    else:
        coverage = (
            f"{len(lines)} of {num_pairs} pairs were measured: neighbours, and the first with the last; the others may hide a barrier"
        )
    advice = "; ".join([*_untrained(ends, constant_loss), _advice(basins, lines)])
    return BasinMap(tuple(lines), tuple(map(tuple, barriers)), basins, coverage, advice)


def _untrained(ends: Sequence[PointLoss], constant_loss: float) -> list[str]:
    """A warning about snapshots, counted from 1, that learned nothing: what lies between those is no basin worth having."""
    indices = [str(index + 1) for index, end in enumerate(ends) if constant_loss > 0 and not end.loss < LEARNED * constant_loss]
    if not indices:
        return []
    return [f"leave out snapshots {', '.join(indices)}: they predict hardly better than a constant (loss {constant_loss:.3g}), or worse"]


def _advice(basins: tuple[tuple[int, ...], ...], lines: Sequence[Line]) -> str:
    num_snapshots = sum(len(basin) for basin in basins)
    if num_snapshots == 1:
        return "one snapshot: there is nothing to average"
    if len(basins) == 1:
        return (
            f"{'both' if num_snapshots == 2 else f'all {num_snapshots}'} snapshots share one basin: their weights may be averaged, "
            "with batch-norm statistics estimated anew where there are any, "
            "into one network that costs as much as one; what averaging their predictions gains instead is their diversity"
        )
    shared = [f"snapshots {', '.join(str(index + 1) for index in basin)}" for basin in basins if len(basin) > 1]
    across = max((line.barrier for line in lines if not line.is_one_basin), default=0.0)
    height = f"the loss between them rises by up to {across:.3g}" if math.isfinite(across) else "a loss between them is not finite"
    predictions = f"average predictions across the {len(basins)} basins, never weights: {height}"
    if not shared:
        return f"every snapshot has a basin of its own; {predictions}"
    inside = f"inside a basin ({'; '.join(shared)}) average weights, with batch-norm statistics estimated anew where there are any"
    return f"{inside}; {predictions}"


def _between(first: float, second: float, position: float) -> float:
    """Linear interpolation that is exact at both ends and between equal numbers."""
    return first + position * (second - first) if position < 0.5 else second - (1 - position) * (second - first)
