"""The textbook loop and torchensemble's snapshot ensemble, timed; run by the python of the peers' own virtual environment."""

import copy
import resource
import time
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torchensemble import SnapshotEnsembleClassifier

from benchmarks.peers.training_rows import Shared, TimedLoader, loader, read_shared, report

SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

_shared: dict[str, Shared] = {}


def peer_versions() -> dict[str, str]:
    """Of what is compared here."""
    return {name: version(name) for name in ("torch", "torchensemble", "numpy")}


def read(network: str, directory: str) -> None:
    """Reads the rows and weights for the next runs."""
    _shared["now"] = read_shared(network, directory)


def first_loss() -> float:
    """The loss of the first mini-batch before any step: that of the weights and rows that all arms share."""
    shared = _shared["now"]
    inputs, targets = next(iter(loader(shared, workers=0)))
    return nn.CrossEntropyLoss()(shared.model().train()(inputs), targets).item()  # type: ignore[no-any-return]


def textbook(*, cycles: int, workers: int = 0) -> dict[str, Any]:
    """The loop of PyTorch's tutorials with its own scheduler of warm restarts, and a copy of the weights at each end of a cycle."""
    shared = _shared["now"]
    rows, model = loader(shared, workers=workers), shared.model()
    epochs = len(shared.order)
    began = time.perf_counter()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=epochs * len(rows) // cycles)
    criterion = nn.CrossEntropyLoss()
    members: list[nn.Module] = []
    rates: list[float] = []
    model.train()
    for epoch in range(epochs):
        for inputs, targets in rows:
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
        if (epoch + 1) * cycles % epochs == 0:
            members.append(copy.deepcopy(model))
    ended = time.perf_counter()
    _check_rates(rates, shared)
    return _with_memory(report(members, shared, began=began, epochs=rows.began, ended=ended))


def torchensemble(
    *,
    cycles: int,
    workers: int = 0,
    pin: bool = False,
    batched: bool = False,
    pictures: bool = False,
    fused: bool = False,
    channels_last: bool = False,
    epochs: int | None = None,
    rows: int | None = None,
) -> dict[str, Any]:
    """``SnapshotEnsembleClassifier.fit`` without an evaluation and without writing files, its faster way.

    ``epochs`` and ``rows`` make a shorter run, to choose the other settings by.
    """
    shared = _shared["now"]
    batches = loader(shared, workers=workers, pin=pin, batched=batched, pictures=pictures, rows=rows)
    ensemble = _ensemble(shared, cycles, channels_last=channels_last)
    ensemble.set_optimizer("SGD", **SGD, **({"fused": True} if fused else {}))
    is_short = epochs is not None
    epochs = epochs or len(shared.order)
    began = time.perf_counter()
    ensemble.fit(batches, epochs=epochs, save_model=False)
    ended = time.perf_counter()
    if is_short:
        return {"epoch_ends": [end - began for end in (*batches.began[1:], ended)]}
    _check_rates(_own_rates(ensemble, batches, epochs), shared)
    return _with_memory(report(list(ensemble.estimators_), shared, began=began, epochs=batches.began, ended=ended))


def _ensemble(shared: Shared, cycles: int, *, channels_last: bool) -> Any:
    model = shared.model()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    return SnapshotEnsembleClassifier(estimator=model, n_estimators=cycles, cuda=False)


def _own_rates(ensemble: Any, rows: TimedLoader, epochs: int) -> list[float]:
    """The rates that its scheduler sets, made again with an optimizer of the same kind, since ``fit`` does not tell."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=SGD["lr"])
    scheduler = ensemble._set_scheduler(optimizer, epochs * len(rows))
    rates = []
    for _ in range(epochs * len(rows)):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def _check_rates(rates: list[float], shared: Shared) -> None:
    """The learning rates are part of the comparison: they must be ours, step by step."""
    if len(rates) != len(shared.rates):
        raise ValueError(f"the run must have {len(shared.rates)} steps, got {len(rates)}")
    worst = max(abs(own - other) for own, other in zip(shared.rates, rates, strict=True))
    if worst > 1e-6:  # torchensemble's are float32
        raise ValueError(f"the learning rates must agree within 1e-6, got a difference of {worst:.3g}")


def _with_memory(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
