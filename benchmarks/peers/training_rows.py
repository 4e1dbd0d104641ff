"""The rows, weights and order of a tier as the peers take them; ``benchmarks.training_tiers_data`` writes the files."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from benchmarks.peers.networks import build, scores

BATCH_ROWS = 128
EVALUATED_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Shared:
    """What the arms of a tier share; inputs are standardised float32 (N, 1, 28, 28) already, which costs the peers no time."""

    network: str
    train_bytes: np.ndarray[Any, Any]
    moments: tuple[float, float]
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    order: np.ndarray[Any, Any]
    rates: list[float]
    weights: dict[str, Tensor]

    def model(self) -> nn.Module:
        """The network with the initial weights that all arms have."""
        model = build(self.network)
        model.load_state_dict(self.weights)
        return model


def read_shared(network: str, directory: str) -> Shared:
    """Reads what ``write_shared`` wrote."""
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in Path(directory).glob("*.npy")}
    mean, std = (float(value) for value in arrays["moments"])
    return Shared(
        network,
        arrays["train_x"],
        (mean, std),
        _standardised(arrays["train_x"], mean, std),
        torch.from_numpy(arrays["train_y"]),
        _standardised(arrays["test_x"], mean, std),
        torch.from_numpy(arrays["test_y"]),
        arrays["order"],
        arrays["rates"].tolist(),
        {name.removeprefix("weight."): torch.from_numpy(array) for name, array in arrays.items() if name.startswith("weight.")},
    )


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """One row at a time, as torchvision's data sets are read; ``classes`` spares torchensemble a walk through the loader."""

    classes = tuple(range(10))

    def __init__(self, shared: Shared) -> None:
        self.inputs, self.targets = shared.train_inputs, shared.train_targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """A row with its class; for a list of indices a whole batch."""
        return self.inputs[index], self.targets[index]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Rows as ``torchvision.datasets.FashionMNIST`` gives them through ``ToTensor`` and ``Normalize``, which is what torchensemble's
    examples train on. Transcribed from torchvision 0.25, which does not install beside every build of torch.
    """

    classes = tuple(range(10))

    def __init__(self, shared: Shared) -> None:
        self.data, self.targets = torch.from_numpy(shared.train_bytes), shared.train_targets
        self.mean, self.std = ([moment / 255] for moment in shared.moments)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A row with its class."""
        picture, target = Image.fromarray(self.data[index].numpy(), mode="L"), int(self.targets[index])
        image = torch.from_numpy(np.array(picture, np.uint8, copy=True))  # ToTensor
        image = image.view(picture.size[1], picture.size[0], 1).permute((2, 0, 1)).contiguous()
        image = image.to(dtype=torch.get_default_dtype()).div(255).clone()  # Normalize copies before it changes anything
        mean, std = (torch.as_tensor(values, dtype=image.dtype, device=image.device) for values in (self.mean, self.std))
        if (std == 0).any():
            raise ValueError("std evaluated to zero, leading to division by zero.")
        return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), target


class ReplayedOrder(Sampler[int]):
    """The order of our run, epoch by epoch, in place of a random one."""

    def __init__(self, order: np.ndarray[Any, Any]) -> None:
        self._order, self._epoch = order, 0

    def __len__(self) -> int:
        return int(self._order.shape[1])

    def __iter__(self) -> Iterator[int]:
        rows: list[int] = self._order[self._epoch % len(self._order)].tolist()
        self._epoch += 1
        return iter(rows)


class TimedLoader(DataLoader[Any]):
    """A data loader that remembers when each epoch began; nothing is added to a step."""

    began: list[float]

    def __iter__(self) -> Any:
        self.began = [*getattr(self, "began", []), time.perf_counter()]
        return super().__iter__()


def loader(
    shared: Shared, *, workers: int, pin: bool = False, batched: bool = False, pictures: bool = False, rows: int | None = None
) -> TimedLoader:
    """The rows in our order, one by one or, as torch's documentation describes under automatic batching, batch by batch.

    ``pictures``: each from a picture, as torchvision's data sets make them.
    """
    order = ReplayedOrder(shared.order[:, :rows])
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin, "persistent_workers": workers > 0}
    if batched:
        return TimedLoader(Rows(shared), sampler=BatchSampler(order, BATCH_ROWS, drop_last=False), batch_size=None, **options)
    return TimedLoader(Pictures(shared) if pictures else Rows(shared), sampler=order, batch_size=BATCH_ROWS, **options)


@torch.inference_mode()
def ensemble_scores(members: Sequence[nn.Module], shared: Shared) -> tuple[list[float], list[float]]:
    """Accuracy and negative log-likelihood on the test rows of the first 1, 2, … members."""
    total: Tensor | None = None
    accuracies, nlls = [], []
    for count, member in enumerate(members, 1):
        member.eval()
        logits = torch.cat([member(rows) for rows in torch.split(shared.test_inputs, EVALUATED_ROWS)])
        total = logits.double().softmax(1) + (0 if total is None else total)
        accuracy, nll = scores(total / count, shared.test_targets)
        accuracies.append(accuracy)
        nlls.append(nll)
    return accuracies, nlls


def report(members: Sequence[nn.Module], shared: Shared, *, began: float, epochs: Sequence[float], ended: float) -> dict[str, Any]:
    """A run's figures: the clock of each epoch's and snapshot's end, and what the ensembles are worth; evaluating is not timed."""
    ends = [*epochs[1:], ended]
    accuracies, nlls = ensemble_scores(members, shared)
    per_cycle = len(ends) // len(members)
    return {
        "seconds": ended - began,
        "epoch_ends": [end - began for end in ends],
        "snapshot_seconds": [end - began for end in ends[per_cycle - 1 :: per_cycle]],
        "accuracies": accuracies,
        "nlls": nlls,
    }


def _standardised(images: np.ndarray[Any, Any], mean: float, std: float) -> Tensor:
    return torch.from_numpy(images).float().sub_(mean).div_(std).unsqueeze(1)
