"""The bare tuned loop: what a careful user gets out of the same steps with no service and no report around them.

All rows as one uint8 tensor, one gather per batch, fused SGD, channels_last for convolutions, bf16 autocast where asked for.
"""

import resource
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.networks import build
from benchmarks.peers.training_rows import BATCH_ROWS, Shared, read_shared, report

EVALUATED_ROWS = 1024
_read: dict[str, Any] = {}


def read(network: str, directory: str) -> None:
    """Reads the rows and weights for the next runs."""
    _read["shared"] = read_shared(network, directory)
    _read["bytes"] = torch.from_numpy(np.load(f"{directory}/train_x.npy", allow_pickle=False))
    names = ("validation_x", "test_x")
    _read["held_out"] = [torch.from_numpy(np.load(f"{directory}/{name}.npy", allow_pickle=False)) for name in names]
    _read["moments"] = [float(value) for value in np.load(f"{directory}/moments.npy", allow_pickle=False)]


def run(*, cycles: int, bf16: bool, epochs: int | None = None, rows: int | None = None) -> dict[str, Any]:
    """Trains, with a copy of the weights at the end of each cycle; ``epochs`` and ``rows`` make a shorter run."""
    shared: Shared = _read["shared"]
    images, targets, (mean, std) = _read["bytes"], shared.train_targets, _read["moments"]
    num_rows, total = rows or len(targets), epochs or len(shared.order)
    began = time.perf_counter()
    model = shared.model().train()
    if shared.network != "mlp":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    group = optimizer.param_groups[0]
    step, ends, members = 0, [began], []
    for epoch in range(total):
        order = torch.from_numpy(shared.order[epoch])
        for start in range(0, num_rows, BATCH_ROWS):
            chosen = order[start : min(start + BATCH_ROWS, num_rows)]
            group["lr"] = shared.rates[step]
            inputs = images[chosen].unsqueeze(1).float().sub_(mean).div_(std)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(model(inputs), targets[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            optimizer.step()
            step += 1
        if (epoch + 1) * cycles % total == 0:
            members.append(_copy(model, shared.network))
        ends.append(time.perf_counter())
    if epochs is not None:
        return {"epoch_ends": [end - began for end in ends[1:]]}
    figures = report(members, shared, began=began, epochs=ends[:-1], ended=ends[-1])
    figures["seconds_with_evaluation"] = figures["seconds"] + _evaluating_seconds(members)
    return {**figures, "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


@torch.inference_mode()
def _evaluating_seconds(members: list[nn.Module]) -> float:
    """How long each member takes for the validation and the test rows, in batches as our own evaluation has them."""
    (mean, std), began = _read["moments"], time.perf_counter()
    for member in members:
        member.eval()
        for images in _read["held_out"]:
            for some in torch.split(images, EVALUATED_ROWS):
                member(some.unsqueeze(1).float().sub_(mean).div_(std)).softmax(1)
    return time.perf_counter() - began


def _copy(model: nn.Module, network: str) -> nn.Module:
    copy = build(network)
    copy.load_state_dict(model.state_dict())
    return copy if network == "mlp" else copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as above
