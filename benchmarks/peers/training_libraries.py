"""Lightning's and fastai's loops over the same rows, timed; run by the python of the peers' own virtual environment.

Neither has a snapshot ensemble: both train the network of the tier at the tier's learning rates, and their last weights are judged.
"""

import logging
import time
from importlib.metadata import version
from typing import Any

import pytorch_lightning as lightning
import torch
from fastai.callback import progress  # noqa: F401  # gives Learner its no_bar
from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn

from benchmarks.peers.training_peers import SGD
from benchmarks.peers.training_rows import Shared, loader, read_shared, report

_shared: dict[str, Shared] = {}


def peer_versions() -> dict[str, str]:
    """Of what is compared here."""
    return {name: version(name) for name in ("pytorch-lightning", "fastai")}


def read(network: str, directory: str) -> None:
    """Reads the rows and weights for the next runs."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    _shared["now"] = read_shared(network, directory)


class Module(lightning.LightningModule):  # type: ignore[misc]  # without types where the peers are not installed
    """The network with its optimizer and its rate by the step, as Lightning's documentation writes them."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.network, self.rates = shared.model(), shared.rates

    def training_step(self, batch: Any, _: int) -> Any:
        """The loss of a batch."""
        inputs, targets = batch
        return nn.functional.cross_entropy(self.network(inputs), targets)

    def configure_optimizers(self) -> Any:
        """SGD with the tier's rates."""
        optimizer = torch.optim.SGD(self.parameters(), **SGD)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rates[min(step, len(self.rates) - 1)] / SGD["lr"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def run_lightning(*, workers: int = 0) -> dict[str, Any]:
    """``Trainer.fit`` with everything switched off that is not training."""
    shared = _shared["now"]
    rows, module = loader(shared, workers=workers), Module(shared)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    began = time.perf_counter()
    trainer = lightning.Trainer(max_epochs=len(shared.order), accelerator="cpu", barebones=False, **quiet)
    trainer.fit(module, rows)
    ended = time.perf_counter()
    return report([module.network], shared, began=began, epochs=rows.began[-len(shared.order) :], ended=ended)


class Rates(Callback):  # type: ignore[misc]  # as above
    """Sets the tier's rate before each step, and skips validation."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.rates, self.step = rates, 0

    def before_batch(self) -> None:
        """One step further."""
        self.learn.opt.set_hyper("lr", self.rates[self.step])
        self.step += 1

    def before_validate(self) -> None:
        """Leaves the validation out, as all arms but our own do."""
        raise CancelValidException


def run_fastai(*, workers: int = 0) -> dict[str, Any]:
    """``Learner.fit`` with torch's SGD and without a progress bar."""
    from fastai.optimizer import OptimWrapper

    shared = _shared["now"]
    rows, model = loader(shared, workers=workers), shared.model()

    def optimizer(parameters: Any, lr: float, **_: Any) -> Any:
        return OptimWrapper(parameters, torch.optim.SGD, **(SGD | {"lr": lr}))

    began = time.perf_counter()
    learner = Learner(DataLoaders(rows, rows), model, loss_func=nn.CrossEntropyLoss(), opt_func=optimizer)
    with learner.no_bar(), learner.no_logging():
        learner.fit(len(shared.order), lr=SGD["lr"], cbs=[Rates(shared.rates)])
    ended = time.perf_counter()
    return report([model], shared, began=began, epochs=rows.began[-len(shared.order) :], ended=ended)
