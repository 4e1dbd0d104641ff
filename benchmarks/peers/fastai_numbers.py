"""Numbers of fastai: its Learner trained on scripted losses, and its suggestions on a given curve."""

import tempfile
from importlib.metadata import version

import torch
from fastai.callback import schedule
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import SGD

from benchmarks.peers.scripted import Echo, mean_output, rows


def peer() -> str:
    """Name and version."""
    return f"fastai {version('fastai')}"


def one_cycle(*, num_steps: int, max_lr: float) -> list[float]:
    """The rate of every step of Learner.fit_one_cycle with its defaults."""
    with tempfile.TemporaryDirectory() as folder:
        learner = _learner([1.0] * num_steps, folder)
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1, max_lr)
        return _floats(learner.recorder.lrs)


def sgdr(*, steps_per_epoch: int, cycles: int, epochs_per_cycle: int, cycle_mult: int, max_lr: float) -> list[float]:
    """The rate of every step of Learner.fit_sgdr."""
    with tempfile.TemporaryDirectory() as folder:
        learner = _learner([1.0] * steps_per_epoch, folder)
        with learner.no_bar(), learner.no_logging():
            learner.fit_sgdr(cycles, epochs_per_cycle, lr_max=max_lr, cycle_mult=cycle_mult)
        return _floats(learner.recorder.lrs)


def range_test(*, losses: list[float], start: float, end: float) -> dict[str, list[float]]:
    """Rates and smoothed losses of Learner.lr_find, as long as it ran."""
    with tempfile.TemporaryDirectory() as folder:
        learner = _learner(losses, folder)
        with learner.no_bar():
            learner.lr_find(start_lr=start, end_lr=end, num_it=len(losses), show_plot=False, suggest_funcs=None)
        return {"rates": _floats(learner.recorder.lrs), "losses": _floats(learner.recorder.losses)}


def suggestion(*, rates: list[float], losses: list[float], method: str) -> float:
    """What one of fastai's suggestion functions (valley, steep, minimum, slide) reads off a curve."""
    function = getattr(schedule, method)
    rate, _ = function(torch.tensor(rates), torch.tensor(losses), len(rates))
    return float(rate)


def _learner(losses: list[float], folder: str) -> Learner:
    train = DataLoader(rows(losses), bs=1, shuffle=False, num_workers=0)
    loaders = DataLoaders(train, DataLoader(rows(losses[:1]), bs=1, num_workers=0), device=torch.device("cpu"))
    return Learner(loaders, Echo(), loss_func=mean_output, opt_func=SGD, path=folder)


def _floats(values: object) -> list[float]:
    return [float(value) for value in values]  # type: ignore[attr-defined]  # fastai's own list type
