"""Numbers of torchensemble's snapshot ensemble and its fast geometric one."""

from importlib.metadata import version

import torch
from torch.utils.data import DataLoader, TensorDataset
from torchensemble import FastGeometricClassifier, SnapshotEnsembleClassifier

from benchmarks.peers.scripted import optimizer


class Constant(torch.nn.Module):
    """Returns fixed logits for any row."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits_C = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The same logits for every row."""
        return self.logits_C.expand(len(inputs), -1)


def peer() -> str:
    """Name and version."""
    return f"torchensemble {version('torchensemble')}"


def rates(*, num_steps: int, cycles: int, max_lr: float) -> dict[str, list[float] | str]:
    """The rates that the snapshot ensemble's own scheduler sets, and their type in the optimizer."""
    own = optimizer(max_lr)
    ensemble = SnapshotEnsembleClassifier(estimator=Constant([0.0, 0.0]), n_estimators=cycles, cuda=False)
    scheduler = ensemble._set_scheduler(own, num_steps)
    values = []
    for _ in range(num_steps):
        values.append(float(own.param_groups[0]["lr"]))
        own.step()
        scheduler.step()
    kind = own.param_groups[0]["lr"]
    return {"rates": values, "type": str(kind.dtype) if isinstance(kind, torch.Tensor) else type(kind).__name__}


def fit(*, epochs: int, cycles: int) -> int:
    """Trains a snapshot ensemble; returns its number of members."""
    ensemble = SnapshotEnsembleClassifier(estimator=Constant([0.0, 0.0]), n_estimators=cycles, cuda=False)
    ensemble.set_optimizer("SGD", lr=0.1)
    loader = DataLoader(TensorDataset(torch.zeros(8, 1), torch.tensor([0, 1] * 4)), batch_size=2)
    ensemble.fit(loader, epochs=epochs, save_model=False)
    return len(ensemble.estimators_)


def averaged(*, logits: list[list[float]], kind: str) -> list[float]:
    """The probabilities that an ensemble of constant members predicts: kind is snapshot or fast_geometric."""
    classifier = {"snapshot": SnapshotEnsembleClassifier, "fast_geometric": FastGeometricClassifier}[kind]
    ensemble = classifier(estimator=Constant(logits[0]), n_estimators=len(logits), cuda=False)
    ensemble.estimators_ = torch.nn.ModuleList(Constant(one) for one in logits)
    return [float(value) for value in ensemble.forward(torch.zeros(1, 1))[0]]
