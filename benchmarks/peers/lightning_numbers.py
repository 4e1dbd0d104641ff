"""Numbers of Lightning's range test: Tuner.lr_find on scripted losses, and its suggestion on a given curve."""

import logging
import tempfile
from importlib.metadata import version

import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.tuner.lr_finder import _LRFinder
from torch.utils.data import DataLoader

from benchmarks.peers.scripted import Echo, rows


class Scripted(pl.LightningModule):  # type: ignore[misc]  # Lightning is not installed where mypy runs
    """The scripted network in Lightning's clothes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Echo()
        self.lr = 0.1

    def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
        """The scripted loss of this step."""
        return self.network(batch[0]).mean()  # type: ignore[no-any-return]  # torch types calls of modules as Any

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def peer() -> str:
    """Name and version."""
    return f"Lightning {version('pytorch-lightning')}"


def range_test(*, losses: list[float], start: float, end: float, mode: str = "exponential") -> dict[str, list[float] | float | None]:
    """Rates, smoothed losses and the suggestion of Tuner.lr_find, as long as it ran."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, max_epochs=1,
        )  # fmt: skip
        finder = Tuner(trainer).lr_find(
            Scripted(), train_dataloaders=DataLoader(rows(losses)), min_lr=start, max_lr=end, num_training=len(losses), mode=mode
        )
        assert finder is not None
        return {
            "rates": [float(rate) for rate in finder.results["lr"]],
            "losses": [float(loss) for loss in finder.results["loss"]],
            "suggestion": finder.suggestion(),
        }


def suggestion(*, rates: list[float], losses: list[float]) -> float | None:
    """What Lightning reads off a curve."""
    finder = _LRFinder("exponential", rates[0], rates[-1], len(rates))
    finder.results = {"lr": rates, "loss": losses}
    rate = finder.suggestion()
    return None if rate is None else float(rate)
