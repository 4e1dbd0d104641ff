"""How many steps fit into a budget of minutes: pure arithmetic over what the trainer's clock says. It doesn't import torch.

The first estimate follows a short stretch at the first rates; later ones follow when the measured speed leads elsewhere, and after
each cycle. Time for the snapshots to come is kept back, so that the last cycle ends, measured and saved, before the budget does.
"""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from clr.planning import least_steps
from clr.schedules import Schedule

STRETCH_SECONDS = 1.0
"""The first estimate comes after so much training, or after ``STRETCH_SHARE`` of the budget where that is less."""

STRETCH_SHARE = 0.05

MIN_STRETCH_STEPS = 3
"""After the first step, which pays for what is done once."""

DEVIATION = 0.05
"""Of the steps that are left: a plan that is off by less stays."""

PLANS_SECONDS = 0.5
"""Between two changes of plan, or ``PLANS_SHARE`` of the budget where that is more."""

PLANS_SHARE = 0.02

MARGIN_SHARE = 0.02
"""Of the budget, kept free for what is not measured, such as the last words to the supervisor; at most ``MARGIN_SECONDS``."""

MARGIN_SECONDS = 5.0

STALL = 5.0
"""An interval so many times as slow per step as the median says nothing about the speed; its time is gone all the same."""

LOOK_SECONDS = 0.25
"""Between two looks at the clock, or ``LOOK_SHARE`` of the budget where that is less; each waits for the device."""

LOOK_SHARE = 0.01

CHANGE = 2.0
"""Two intervals in a row that are slower or faster by this factor are a new speed."""

INTERVALS = 16
"""Latest intervals between two looks at the clock that make up the speed."""


class BudgetError(ValueError):
    """Not one cycle fits into the budget."""


@dataclass(frozen=True)
class PacedLength:
    """A length that the clock suggests, why, and the figures behind it."""

    num_steps: int
    reason: str
    evidence: dict[str, float]


class Pacing:
    """Invariant: ``seconds_used`` counts this attempt from ``began_at`` on, and all attempts whose checkpoints it goes on from.

    Args:
        budget_seconds: For the whole job, without its wait in the queue.
        used_before: Seconds that earlier attempts had used at the checkpoint.
        began_at: The clock when this attempt began.
        snapshot_steps: The rows that are measured for each snapshot, in steps.
        is_planned: Whether an earlier attempt has given the run a length; it then ends with whole cycles even if time runs out.
    """

    def __init__(
        self, budget_seconds: float, *, used_before: float, began_at: float, snapshot_steps: float, is_planned: bool = False
    ) -> None:
        self._is_planned = is_planned
        self._budget = budget_seconds
        self._used_before = used_before
        self._began_at = began_at
        self._snapshot_steps = snapshot_steps
        self._first: tuple[int, float] | None = None  # the step and the time that the stretch begins with
        self._latest: tuple[int, float] | None = None
        self._intervals: deque[tuple[int, float]] = deque(maxlen=INTERVALS)
        self._snapshot_seconds: list[float] = []
        self._snapshot_began_at: float | None = None
        self._planned_at: float | None = None
        self._is_cycle_new = False

    def seconds_used(self, now: float) -> float:
        """Of the budget, up to now."""
        return self._used_before + now - self._began_at

    def check_search(self, now: float) -> None:
        """Raises ``BudgetError`` once the search for a rate has used up the budget."""
        if self.seconds_used(now) >= self._budget:
            raise BudgetError(
                f"the range test for max_lr alone needs more than the budget of {self._budget / 60:g} minutes: "
                "raise budget.minutes, or give max_lr a number"
            )

    def is_due(self, now: float) -> bool:
        """Whether enough time has passed to look at the clock again."""
        return self._latest is None or now - self._latest[1] >= min(LOOK_SECONDS, LOOK_SHARE * self._budget)

    def observe(self, step: int, now: float) -> None:
        """Takes in that ``step`` steps were completed now, and that the device has nothing left to do."""
        if self._latest is not None and step > self._latest[0]:
            self._intervals.append((step - self._latest[0], now - self._latest[1]))
            self._forget_another_speed()
        if self._first is None:
            self._first = (step, now)
        self._latest = (step, now)

    def begin_snapshot(self, now: float) -> None:
        """A cycle's last step is done: measuring and saving begin."""
        self._snapshot_began_at = now

    def end_snapshot(self, now: float) -> None:
        """The snapshot is saved; the next cycle begins."""
        if self._snapshot_began_at is not None:
            self._snapshot_seconds.append(now - self._snapshot_began_at)
        self._snapshot_began_at = None
        self._latest = None
        self._is_cycle_new = True

    def interrupt(self) -> None:
        """The steps have been taken back, or something else than training was done: the interval that it lies in tells nothing."""
        self._latest = None

    def length(self, schedule: Schedule, step: int, now: float) -> PacedLength | None:
        """The length that fits, if it is time to change the plan and it differs enough.

        Raises:
            BudgetError: Not even the first cycle fits, which the first estimate tells.
        """
        is_first = self._planned_at is None
        if not self._intervals or (is_first and not self._has_stretched(step, now)):
            return None
        if (
            self._planned_at is not None
            and now - self._planned_at < max(PLANS_SECONDS, PLANS_SHARE * self._budget)
            and not self._is_cycle_new
        ):
            return None
        num_snapshots = sum(end > step for end in schedule.cycle_ends)
        per_step = self._seconds_per_step()
        per_snapshot = self._snapshot_estimate(per_step)
        margin = min(MARGIN_SHARE * self._budget, MARGIN_SECONDS)
        left = self._budget - self.seconds_used(now)
        fitting = math.floor((left - margin - num_snapshots * per_snapshot) / per_step)
        least = least_steps(schedule, step) - step
        if not self._is_planned and fitting < least:
            self._refuse(left, per_step, per_snapshot, fitting, least)
        planned = schedule.num_steps - step
        fitting = max(fitting, least)
        self._is_cycle_new = False
        if not is_first and abs(fitting - planned) <= DEVIATION * planned:
            return None
        self._planned_at, self._is_planned = now, True
        evidence = {"seconds_per_step": per_step, "seconds_left": left, "seconds_per_snapshot": per_snapshot}
        reason = (
            f"at {per_step:.3g} s per step {fitting} more steps fit into the {left:.3g} s that are left of {self._budget / 60:g} minutes"
        )
        return PacedLength(step + fitting, reason, evidence)

    def _has_stretched(self, step: int, now: float) -> bool:
        assert self._first is not None, "there are intervals"
        first_step, first_at = self._first
        if step - first_step < MIN_STRETCH_STEPS and self.seconds_used(now) < self._budget / 2:
            return False
        return now - first_at >= min(STRETCH_SECONDS, STRETCH_SHARE * self._budget) or self.seconds_used(now) >= self._budget / 2

    def _forget_another_speed(self) -> None:
        """Once two intervals in a row differ much from those before, these tell nothing any more."""
        *earlier, before, latest = [seconds / steps for steps, seconds in self._intervals] if len(self._intervals) > 2 else [0.0, 0.0]
        if earlier and (min(before, latest) > CHANGE * median(earlier) or max(before, latest) < median(earlier) / CHANGE):
            for _ in earlier:
                self._intervals.popleft()

    def _seconds_per_step(self) -> float:
        """The mean over the latest intervals that were no stalls."""
        speeds = [seconds / steps for steps, seconds in self._intervals]
        usual = STALL * median(speeds)
        kept = [(steps, seconds) for steps, seconds in self._intervals if seconds / steps <= usual]
        return max(sum(seconds for _, seconds in kept) / sum(steps for steps, _ in kept), 1e-9)

    def _snapshot_estimate(self, per_step: float) -> float:
        """Before one was measured: as if the held-out rows were trained on, which costs more than what is done to them."""
        if self._snapshot_seconds:
            return median(self._snapshot_seconds)
        return self._snapshot_steps * per_step

    def _refuse(self, left: float, per_step: float, per_snapshot: float, fitting: int, least: int) -> None:
        needed = self._budget - left + per_snapshot + least * per_step
        minutes = math.ceil(1.2 * needed / 0.6) / 100
        raise BudgetError(
            f"the budget of {self._budget / 60:g} minutes is too small for one cycle: {max(left, 0):.3g} s are left, "
            f"a step takes {per_step:.3g} s and a snapshot about {per_snapshot:.3g} s, so {max(fitting, 0)} steps fit "
            f"and a cycle needs {least}: raise budget.minutes to {minutes:g} or more, or take a smaller network"
        )
