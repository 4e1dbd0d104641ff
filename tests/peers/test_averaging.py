"""Averaging members and batch statistics: where a peer averages something else than ours."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from clr.basins import reestimate_batch_norm
from clr.combination import combine_probabilities
from clr.loss_surface import CHUNK_ROWS
from clr.preprocessing import Preprocessing
from tests.peers.conftest import Peers, Record
from tests.peers.measuring import listed, power, widest_gap

LOGITS = [[0.0, 4.0], [0.0, -1.0]]


def mean_probs() -> list[float]:
    """Our ensemble of two members with fixed logits."""
    probs_BC = combine_probabilities(torch.tensor([one]).softmax(1) for one in LOGITS).probs_BC
    return [float(value) for value in probs_BC[0]]


def test_torchensemble_averages_probabilities_in_its_snapshot_ensemble(record: Record, peers: Peers) -> None:
    gap = widest_gap(mean_probs(), peers("torchensemble", "averaged", logits=LOGITS, kind="snapshot"))
    assert gap < 1e-6
    record("average of the members", peers("torchensemble", "peer"), "agrees", f"`SnapshotEnsembleClassifier`: to {power(gap)}")


def test_torchensemble_averages_logits_in_its_fast_geometric_ensemble(record: Record, peers: Peers) -> None:
    theirs = peers("torchensemble", "averaged", logits=LOGITS, kind="fast_geometric")
    assert theirs == pytest.approx(torch.tensor(LOGITS).mean(0).softmax(0).tolist(), rel=1e-6)
    assert abs(theirs[0] - mean_probs()[0]) > 0.1
    finding = f"`FastGeometricClassifier` averages logits: {listed(theirs)}, where the mean of the probabilities is {listed(mean_probs())}"
    record("average of the members", peers("torchensemble", "peer"), "defect", finding)


def test_torch_counts_a_short_batch_as_a_whole_one(record: Record, torch_version: str) -> None:
    inputs = torch.cat([torch.zeros(CHUNK_ROWS, 1), torch.full((2, 1), 10.0)])
    torchs, ours = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    update_bn(torch.split(inputs, CHUNK_ROWS), torchs)
    reestimate_batch_norm(ours, Preprocessing("features", torch.zeros(1), torch.ones(1), 0.0, 1.0), inputs)
    true, theirs, own = float(inputs.mean()), float(torchs.running_mean), float(ours.running_mean)  # type: ignore[arg-type]  # buffers may be None
    assert own == pytest.approx(true, rel=1e-5)
    assert theirs == pytest.approx(5.0)
    finding = f"`update_bn`, batches of {CHUNK_ROWS} and 2 rows with a mean of {true:.3g}: {theirs:.3g}; ours {own:.3g}"
    record("batch-norm statistics", torch_version, "defect", finding)
