"""The learning curve of a run: at most so many points, the same ones whether or not the run was interrupted."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

COLUMNS = ("step", "epoch", "cycle", "learning_rate", "train_loss")


class Step(Protocol):
    """What a history reads from a step report."""

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> float: ...
    @property
    def cycle(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def loss(self) -> Tensor: ...


@dataclass
class History:
    """Averages the mini-batch losses between the points of an even grid over the steps; the last step is always a point.

    Losses are summed on their device, so only a point of the grid waits for it.
    """

    num_steps: int
    max_points: int = 1000
    rows: list[list[float]] = field(default_factory=list)
    _sum: Tensor | None = None
    _count: int = 0
    _num_handed_out: int = 0

    def record(self, report: Step) -> None:
        """Adds a step; appends a row of ``COLUMNS`` where the step is a point of the grid."""
        if self._sum is None:
            self._sum = torch.zeros((), dtype=torch.float64, device=report.loss.device)
        self._sum += report.loss
        self._count += 1
        points = min(self.max_points, self.num_steps)
        if report.step * points // self.num_steps > (report.step - 1) * points // self.num_steps:
            self.rows.append([report.step, report.epoch, report.cycle, report.learning_rate, self._sum.item() / self._count])
            self._sum.zero_()
            self._count = 0

    def new_rows(self) -> list[list[float]]:
        """The rows appended since the last call."""
        rows = self.rows[self._num_handed_out :]
        self._num_handed_out = len(self.rows)
        return rows

    def state(self) -> dict[str, Any]:
        """The whole history as JSON, exact."""
        total = 0.0 if self._sum is None else self._sum.item()
        return {
            "num_steps": self.num_steps,
            "max_points": self.max_points,
            "rows": [_null_for_nan(row) for row in self.rows],
            "sum": total if math.isfinite(total) else None,
            "count": self._count,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: str = "cpu") -> "History":
        """The history that ``state`` describes; its rows count as handed out."""
        total = math.nan if state["sum"] is None else state["sum"]
        rows = [[math.nan if value is None else value for value in row] for row in state["rows"]]
        history = cls(state["num_steps"], state["max_points"], rows, _count=state["count"], _num_handed_out=len(rows))
        history._sum = torch.tensor(total, dtype=torch.float64, device=device)
        return history


def _null_for_nan(row: list[float]) -> list[float | None]:
    """JSON has no NaN: the loss of a diverged run is null."""
    return [value if math.isfinite(value) else None for value in row]
