"""Plans that change while they are carried out: a run's schedule is a pure function of its document and of decisions.

A decision says from which step on which cycle ends hold. No end that lies in the past ever moves, and where the end of a cycle
that has begun moves, its annealing goes on from where it is at another pace: the rate has no jump, and its minimum is at the new
end. The decisions belong to a run's checkpoint, so a resumed run has the same rates, bit for bit. This module doesn't import torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from clr.config import ScheduleConfig, WarmRestartsSchedule
from clr.cycle_rule import CyclePlan, Evidence, Look, decide, look_steps
from clr.errors import ScheduleError
from clr.rate_shapes import rate_shape
from clr.schedules import Arc, Schedule, has_cycles, lay_out

LEAST_CYCLE_STEPS = 10
"""Steps that a new length leaves to a cycle, unless it was planned shorter: the last rate is then 2.4 % of the range above the minimum."""


HARDLY_BEGUN = 0.99
"""Of an annealing: while so much is left, its rate is within 0.03 % of the first."""


@dataclass(frozen=True)
class Decision:
    """A change of plan.

    Attributes:
        step: Completed steps when it was made; the rates of the steps before are what they were.
        subject: ``cycles``: how many, where "auto" was asked for. ``length``: how long the run is.
        cycle_ends: Exclusive ends of all cycles from now on, the past ones included.
        peaks: The share of max_lr at which each cycle starts; None: as the schedule's document says.
        reason: Why, in words.
        evidence: The figures that the reason rests on.
    """

    step: int
    subject: Literal["cycles", "length"]
    cycle_ends: tuple[int, ...]
    peaks: tuple[float, ...] | None
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Replanned:
    """The plan has changed; ``schedule`` holds from now on."""

    decision: Decision
    schedule: Schedule

    @property
    def step(self) -> int:
        """Completed steps when it was decided."""
        return self.decision.step


def changed(config: ScheduleConfig, schedule: Schedule, decision: Decision) -> Schedule:
    """The schedule under one more decision.

    Raises:
        ScheduleError: The decision moves an end that lies in the past, or has ends or peaks that are none.
    """
    _check(schedule, decision)
    if not has_cycles(config):
        (run,) = schedule.arcs
        arcs: tuple[Arc, ...] = (run.bent(decision.step, decision.cycle_ends[-1]),)
    else:
        spans = pairwise((0, *decision.cycle_ends))
        arcs = tuple(_changed_arc(schedule, cycle, start, end, decision.step) for cycle, (start, end) in enumerate(spans))
    return lay_out(decision.cycle_ends, arcs, rate_shape(config, arcs[0].length, decision.peaks))


def _changed_arc(schedule: Schedule, cycle: int, start: int, end: int, step: int) -> Arc:
    """A cycle that is over stays, one that has begun is bent, one that is to come is laid out anew."""
    old = schedule.arcs[cycle] if cycle < len(schedule.arcs) else None
    if old is not None and old.start == start and (old.end == end or start < step):
        return old.bent(step, end)
    return Arc(start, end, end - start)


def _check(schedule: Schedule, decision: Decision) -> None:
    ends, step = decision.cycle_ends, decision.step
    past = tuple(end for end in schedule.cycle_ends if end <= step)
    if not 0 < step < schedule.num_steps:
        raise ScheduleError(f"a plan can change after 1 to {schedule.num_steps - 1} steps, got {step}: decide before the run is over")
    if ends[: len(past)] != past or len(ends) == len(past):
        raise ScheduleError(f"the ends {list(past)} lie in the past at step {step}, got {list(ends)}: change only what is to come")
    if any(start >= end for start, end in pairwise((step, *ends[len(past) :]))):
        raise ScheduleError(f"cycle ends after step {step} must ascend, got {list(ends)}: give each cycle steps of its own")
    if decision.peaks is not None and (len(decision.peaks) != len(ends) or not all(0 < peak <= 1 for peak in decision.peaks)):
        raise ScheduleError(f"peaks must be one share of max_lr in (0, 1] for each of {len(ends)} cycles, got {list(decision.peaks)}")


def least_steps(schedule: Schedule, step: int) -> int:
    """The shortest length that a run may still be given after ``step`` completed steps: the current cycle anneals to its end."""
    arc = next(arc for arc in schedule.arcs if step < arc.end)
    if arc.start >= step:
        return step + min(arc.end - step, LEAST_CYCLE_STEPS)
    return step + max(1, min(arc.end - step, math.ceil(LEAST_CYCLE_STEPS * arc.left(step) / arc.length)))


def stretched_ends(config: ScheduleConfig, schedule: Schedule, step: int, num_steps: int) -> tuple[int, ...]:
    """Cycle ends for a new length: what is left of each cycle keeps its share of what is left of the run.

    A cycle that has hardly begun to anneal counts as a whole one, so that a run whose length is found out after a short stretch at
    the first rate gets cycles of equal length. No cycle gets fewer than ``LEAST_CYCLE_STEPS`` unless it had fewer; the last cycles
    are dropped where there is no room for them, and the run becomes no shorter than ``least_steps``.
    """
    past = tuple(end for end in schedule.cycle_ends if end <= step)
    coming = schedule.cycle_ends[len(past) :]
    num_steps = max(num_steps, least_steps(schedule, step))
    if has_cycles(config):
        planned = [end - start for start, end in pairwise((step, *coming))]
        least = [least_steps(schedule, step) - step, *(min(steps, LEAST_CYCLE_STEPS) for steps in planned[1:])]
    else:
        least = [1] * len(coming)  # snapshots of one annealing, not cycles
    while sum(least) > num_steps - step:
        least.pop()
    if not has_cycles(config):
        coming = (*coming[: len(least) - 1], coming[-1])
    coming = coming[: len(least)]
    arc = next(arc for arc in schedule.arcs if step < arc.end)
    origin = arc.start if arc.left(step) >= HARDLY_BEGUN * arc.length else step
    ends: list[int] = []
    for index, end in enumerate(coming):
        proportional = origin + (end - origin) * (num_steps - origin) // (coming[-1] - origin)
        earliest = (ends[-1] if ends else step) + least[index]
        latest = num_steps - sum(least[index + 1 :])
        ends.append(min(max(proportional, earliest), latest))
    return (*past, *ends)


class RunPlan:
    """How a run goes on.

    Invariant: ``schedule`` is the first layout under all decisions, in the order in which they were made.
    """

    def __init__(self, config: ScheduleConfig, first: Schedule, *, steps_per_epoch: int, num_train_rows: int, num_validation: int) -> None:
        self._config = config
        self._first = first
        self._steps_per_epoch = steps_per_epoch
        self._num_train_rows = num_train_rows
        self._num_validation = num_validation
        self._is_auto = isinstance(config, WarmRestartsSchedule) and config.cycles == "auto"
        self._decisions: list[Decision] = []
        self._looks: list[Look] = []
        self._num_announced = 0
        self.schedule = first

    @property
    def decides_cycles(self) -> bool:
        """Whether the run is to find out by itself how many cycles pay."""
        return self._is_auto

    @property
    def decisions(self) -> Sequence[Decision]:
        """All changes so far."""
        return self._decisions

    def is_look_due(self, step: int) -> bool:
        """Whether the network after ``step`` completed steps is to be measured for the choice of cycles."""
        if not self._is_auto or self._has_cycles_decided() or not 0 < step < self.schedule.num_steps:
            return False
        latest = self._looks[-1].step if self._looks else 0
        return any(latest < due <= step for due in look_steps(self.schedule.num_steps))

    def add_look(self, look: Look) -> None:
        """Takes a measurement in, and decides if it suffices."""
        self._looks.append(look)
        num_steps = self.schedule.num_steps
        is_last = look.step >= look_steps(num_steps)[-1]
        plan = decide(
            Evidence(num_steps, self._steps_per_epoch, self._num_train_rows, self._num_validation, tuple(self._looks), is_last=is_last)
        )
        if plan is None:
            assert not is_last, "the rule must answer at the last look"
            return
        self._decide(_cycles_decided(look, plan))

    def replan(self, step: int, num_steps: int, reason: str, evidence: Mapping[str, float]) -> None:
        """Changes the length of the run.

        Raises:
            ScheduleError: The run is over, or has cycles that may be cut.
        """
        if isinstance(self._config, WarmRestartsSchedule) and self._config.boundaries == "paper":
            raise ScheduleError("the length of a run with boundaries 'paper' must stay, since its last cycle may be cut: take 'balanced'")
        if step >= self.schedule.num_steps:
            raise ScheduleError(f"the run is over after {self.schedule.num_steps} steps, got a new length at step {step}: decide before")
        ends = stretched_ends(self._config, self.schedule, step, num_steps)
        if ends == self.schedule.cycle_ends:
            return
        if (dropped := self.schedule.num_cycles - len(ends)) > 0:
            reason += f"; there is no room for the last {dropped} of {self.schedule.num_cycles} snapshots"
        peaks = next((each.peaks for each in reversed(self._decisions) if each.peaks is not None), None)
        self._decide(Decision(step, "length", ends, peaks[: len(ends)] if peaks else None, reason, dict(evidence)))

    def announce(self) -> Iterator[Replanned]:
        """The changes that nobody was told of yet."""
        schedule = self._first
        for index, decision in enumerate(self._decisions):
            schedule = changed(self._config, schedule, decision)
            if index >= self._num_announced:
                self._num_announced += 1
                yield Replanned(decision, schedule)

    def rewind(self, step: int) -> None:
        """Forgets measurements after ``step``, to which the run has gone back, unless the choice was made; the plan stays."""
        if not self._has_cycles_decided():
            self._looks = [look for look in self._looks if look.step <= step]

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as JSON."""
        return {
            "decisions": [asdict(decision) for decision in self._decisions],
            "looks": [asdict(look) for look in self._looks],
            "announced": self._num_announced,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Makes the decisions of a checkpoint again.

        Raises:
            KeyError, TypeError, ScheduleError: They are none of this run.
        """
        self._looks = [Look(**look) for look in state["looks"]]
        for document in state["decisions"]:
            peaks = document["peaks"]
            ends = tuple(document["cycle_ends"])
            self._decide(Decision(**document | {"cycle_ends": ends, "peaks": tuple(peaks) if peaks is not None else None}))
        self._num_announced = state["announced"]

    def _decide(self, decision: Decision) -> None:
        self.schedule = changed(self._config, self.schedule, decision)
        self._decisions.append(decision)

    def _has_cycles_decided(self) -> bool:
        return any(decision.subject == "cycles" for decision in self._decisions)


def _cycles_decided(look: Look, plan: CyclePlan) -> Decision:
    figures = asdict(look)
    return Decision(
        look.step, "cycles", plan.cycle_ends, plan.peaks, plan.reason, {name: figures[name] for name in figures if name != "step"}
    )
