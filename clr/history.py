"""The learning curve of a run: at most so many points, the same ones whether or not the run was interrupted."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

Row = list[float | None]
"""Values of COLUMNS; a loss that is no finite number is None, since JSON has no NaN."""

COLUMNS = ("step", "epoch", "cycle", "learning_rate", "train_loss")

GROWTH = 100
"""While the length of a run is unknown, a row stands for one step, or for one in so many of the steps before it."""

OPEN_SHARE = 2
"""One in so many points may be used up while the length is unknown."""


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


class History:
    """Averages the mini-batch losses between the points of an even grid over the steps; the last step is always a point.

    A run whose length is still to be found (``num_steps`` None) begins with a row a step, later ones further apart. When the run gets
    a length, or another one, the points that are left are spread evenly over the steps that are left. Means stay on the device until
    someone reads them, so recording never waits for it.
    """

    def __init__(self, num_steps: int | None, max_points: int = 1000) -> None:
        self._num_steps = num_steps
        self._max_points = max_points
        self._grid_start = 0
        self._grid_points = 0 if num_steps is None else min(max_points, num_steps)
        self._rows: list[Row] = []
        self._unread: list[tuple[list[float], Tensor]] = []
        self._sum: Tensor | None = None
        self._count = 0
        self._num_handed_out = 0

    @property
    def rows(self) -> list[Row]:
        """All rows of ``COLUMNS`` so far; waits for the device."""
        if self._unread:
            means = torch.stack([mean for _, mean in self._unread]).tolist()
            self._rows += [[*row, mean if math.isfinite(mean) else None] for (row, _), mean in zip(self._unread, means, strict=True)]
            self._unread = []
        return self._rows

    def record(self, report: Step) -> None:
        """Adds a step; a step that is a point of the grid ends a row."""
        loss = report.loss.double()
        self._sum = loss if self._sum is None else self._sum + loss
        self._count += 1
        if self._ends_row(report.step):
            self._unread.append(([report.step, report.epoch, report.cycle, report.learning_rate], self._sum / self._count))
            self._sum, self._count = None, 0

    def replan(self, step: int, num_steps: int) -> None:
        """Spreads the points that are left over the steps after ``step`` of a run that now has ``num_steps``."""
        points = max(1, self._max_points - len(self._rows) - len(self._unread))
        self._num_steps, self._grid_start = num_steps, step
        self._grid_points = min(points, num_steps - step)

    def extend(self, step: int, num_steps: int) -> None:
        """Lays out the longer curve of a run that has got more steps: these get as many points as the others had."""
        assert self._num_steps is not None, "only a run of a known length is extended"
        self._max_points = self._max_points * num_steps // self._num_steps
        self.replan(step, num_steps)

    def rewind(self, step: int) -> None:
        """Forgets all that came after ``step``, to which the run has gone back; what is left counts as handed out."""
        self._rows = [row for row in self.rows if (row[0] or 0) <= step]
        self._sum, self._count = None, 0
        self._num_handed_out = len(self._rows)
        if self._num_steps is not None and step < self._grid_start:
            self.replan(step, self._num_steps)

    def new_rows(self) -> list[Row]:
        """The rows that ended since the last call; waits for the device."""
        rows = self.rows[self._num_handed_out :]
        self._num_handed_out = len(self.rows)
        return rows

    def state(self) -> dict[str, Any]:
        """The whole history as JSON, exact."""
        total = 0.0 if self._sum is None else self._sum.item()
        return {
            "num_steps": self._num_steps,
            "max_points": self._max_points,
            "grid_start": self._grid_start,
            "grid_points": self._grid_points,
            "rows": [list(row) for row in self.rows],
            "sum": total if math.isfinite(total) else None,
            "count": self._count,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: str = "cpu") -> "History":
        """The history that ``state`` describes; its rows count as handed out."""
        history = cls(state["num_steps"], state["max_points"])
        history._grid_start, history._grid_points = state["grid_start"], state["grid_points"]
        history._rows = [list(row) for row in state["rows"]]
        history._num_handed_out = len(history._rows)
        history._count = state["count"]
        if history._count:
            total = math.nan if state["sum"] is None else state["sum"]
            history._sum = torch.tensor(total, dtype=torch.float64, device=device)
        return history

    def _ends_row(self, step: int) -> bool:
        if self._num_steps is None:
            has_room = len(self._rows) + len(self._unread) < max(1, self._max_points // OPEN_SHARE)
            return has_room and self._count >= step // GROWTH
        return self._points_until(step, self._num_steps) > self._points_until(step - 1, self._num_steps)

    def _points_until(self, step: int, num_steps: int) -> int:
        return (step - self._grid_start) * self._grid_points // (num_steps - self._grid_start)
