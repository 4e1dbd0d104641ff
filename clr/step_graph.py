"""Training steps as a CUDA graph: the step of a full mini-batch is recorded once, and from then on launched as a whole.

A small network's step is hundreds of kernels of a few microseconds each, and the CPU takes longer to launch them than the device to run
them; a graph is one launch. It repeats kernels with the addresses and numbers of its capture, so that what changes from step to step is
copied into tensors that stay: the mini-batch, and the learning rate. What a graph cannot do goes kernel by kernel (``suits_graph``), and
so does the short last batch of an epoch. Which step goes which way is a function of config, data and device, never of the past.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from clr.config import TrainingConfig
from clr.datasets import Dataset
from clr.memory import training_bytes
from clr.models import has_dropout
from clr.optimizers import complete_state
from clr.preprocessing import Preprocessing
from clr.training_step import Batch, StepForm, TrainingStep

WARM_UP_STEPS = 3
"""Before a capture, on its stream: in them libraries load kernels and take workspaces, which a capture forbids. As in torch's notes."""

MEMORY_SHARE = 0.3
"""Of the device's memory that training may take, as ``clr.memory`` estimates: a graph keeps gradients and activations of its own beside
those of steps that go kernel by kernel. A network that large keeps a device busy without a graph."""

Replay = Callable[[], Tensor]
"""Does the recorded step; returns the loss, in a tensor that the next replay may overwrite."""

Capture = Callable[[TrainingStep, Batch], Replay]
"""Records the step for mini-batches in these tensors; the network and the optimizer may be changed meanwhile."""


def build_step(
    config: TrainingConfig, dataset: Dataset, model: nn.Module, optimizer: torch.optim.Optimizer, preprocessing: Preprocessing
) -> "TrainingStep | GraphedStep":
    """The training step of the network where it lies: by graph on a CUDA device if that suits, else kernel by kernel."""
    step = TrainingStep(config, dataset.task, model, optimizer, preprocessing)
    device = preprocessing.mean.device
    if device.type == "cuda" and suits_graph(config, dataset, torch.cuda.get_device_properties(device).total_memory):
        return GraphedStep(step)
    return step


def suits_graph(config: TrainingConfig, dataset: Dataset, device_bytes: int) -> bool:
    """Whether steps can go by graph, and gain, on a CUDA device with so much memory.

    Dropout is seeded anew before each step, which a graph would not see. Accumulation is for mini-batches that fill the device, and up
    to 1,024 of them would make a graph of hundreds of thousands of kernels.
    """
    if has_dropout(config.model) or config.accumulation > 1:
        return False
    needed = training_bytes(
        config.model, config.optimizer, input_shape=dataset.input_shape, num_outputs=dataset.num_outputs, batch_size=config.batch_size
    )
    return needed <= MEMORY_SHARE * device_bytes


def capture(step: TrainingStep, batch: Batch) -> Replay:
    """Records the step on its device.

    Raises:
        RuntimeError: The device cannot record it, or has no memory left.
    """
    device = batch.targets.device
    stream, current = _capture_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):  # left also where torch.cuda.graph fails, which doesn't leave its own
            for _ in range(WARM_UP_STEPS):
                step(batch)
            graph = torch.cuda.CUDAGraph()
            with _capturable(step.optimizer), torch.cuda.graph(graph, stream=stream):
                loss = step(batch)
    finally:
        current.wait_stream(stream)
        step.optimizer.zero_grad()  # these gradients' memory is the graph's, or the stream's

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


class GraphedStep:
    """Full mini-batches by one recorded step, others kernel by kernel.

    Invariant: from the first full mini-batch on, network and optimizer keep their state in the tensors that they had then. Who replaces
    one makes a new GraphedStep.
    """

    def __init__(self, step: TrainingStep, *, capture: Capture = capture) -> None:
        """Gives the optimizer a learning rate in a tensor, float32 as torch's fused kernels want it on CUDA, for all steps alike."""
        self.form: StepForm = "graph"
        self._step, self._capture = step, capture
        self._recorded: tuple[Batch, Replay] | None = None
        for group in step.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def __call__(self, batch: Batch) -> Tensor:
        """As ``TrainingStep``."""
        if len(batch.targets) < self._step.config.batch_size:
            return self._step(batch)
        if self._recorded is None:
            self._recorded = self._record(batch)
        kept, replay = self._recorded
        for tensor, new in zip(kept, batch, strict=True):
            if tensor is not None and new is not None:
                tensor.copy_(new)
        return replay().clone()

    def _record(self, batch: Batch) -> tuple[Batch, Replay]:
        """Captures the step on tensors like the batch's, and leaves network and optimizer as they were."""
        kept = Batch(batch.inputs.clone(), batch.targets.clone(), None if batch.moves is None else batch.moves.clone())
        complete_state(self._step.config.optimizer, self._step.optimizer)  # else the graph would hold a first step's special case
        state = self._step.state()
        before = [tensor.clone() for tensor in state]
        try:
            replay = self._capture(self._step, kept)
        except RuntimeError as error:
            reason = error.__context__ or error  # where a capture breaks off, its end fails as well
            warnings.warn(f"training goes kernel by kernel, since its step could not be captured as a CUDA graph: {reason}", stacklevel=2)
            self.form = "kernels"
            replay = partial(self._step, kept)
        for tensor, earlier in zip(state, before, strict=True):
            tensor.copy_(earlier)
        return kept, replay


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures on a device: cuBLAS keeps a workspace of up to 32 MiB for every stream that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Says of an AdamW what holds of all fused ones, that it can be captured; outside of a capture it would warn about that."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False
