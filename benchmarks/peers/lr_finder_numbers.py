"""Numbers of pytorch-lr-finder: its range test on scripted losses, and the answer of its plot on a given curve."""

from importlib.metadata import version

from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from torch_lr_finder import LRFinder

from benchmarks.peers.scripted import Echo, mean_output, optimizer, rows


def peer() -> str:
    """Name and version."""
    return f"pytorch-lr-finder {version('torch-lr-finder')}"


def range_test(*, losses: list[float], start: float, end: float, mode: str = "exp") -> dict[str, list[float]]:
    """Rates and smoothed losses, as long as it ran."""
    finder = LRFinder(Echo(), optimizer(), mean_output)
    finder.range_test(DataLoader(rows(losses)), start_lr=start, end_lr=end, num_iter=len(losses), step_mode=mode)
    return {"rates": finder.history["lr"], "losses": finder.history["loss"]}


def suggestion(*, rates: list[float], losses: list[float]) -> float:
    """What its plot, the only way to an answer, suggests."""
    finder = LRFinder(Echo(), optimizer(), mean_output)
    finder.history = {"lr": rates, "loss": losses}
    _, rate = finder.plot(ax=Figure().add_subplot())
    return float(rate)
