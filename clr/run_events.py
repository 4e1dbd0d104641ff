"""What a run tells beside its steps: the end of a cycle, and a return to its start."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clr.checkpoints import Checkpoint
from clr.held_out import EnsembleMetrics
from clr.schedules import Schedule
from clr.snapshots import Snapshot

if TYPE_CHECKING:
    from clr.runs import Run


@dataclass(frozen=True, eq=False)
class CycleEnd:
    """A cycle is over: its snapshot, and the ensemble that it joined."""

    step: int
    epoch: float
    cycle: int
    snapshot: Snapshot
    ensemble: EnsembleMetrics
    _run: "Run"

    @property
    def schedule(self) -> Schedule:
        """The learning rates as they are planned now."""
        return self._run.schedule

    def checkpoint(self) -> Checkpoint:
        """A copy on the CPU of all that is needed to go on after this cycle; only until the generator goes on."""
        return self._run.checkpoint(self.step)


@dataclass(frozen=True)
class Rollback:
    """The run had diverged and is back at the last snapshot, or at its start; the cycle begins again with lower rates.

    Attributes:
        step: Completed steps from now on.
        cycle: The cycle that begins again, from 0.
        diverged_at: Completed steps when it was noticed.
        peak_scale: The cycle's rates are this share of the schedule's, above the schedule's minimum.
        attempt: Rollbacks of this cycle so far.
    """

    step: int
    cycle: int
    diverged_at: int
    peak_scale: float
    attempt: int
