"""How a running job looks in a terminal: a bar for the job, a bar for the cycle, a line for every snapshot that stays."""

from itertools import pairwise
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from clr.config import ScheduleConfig
from clr.schedules import ScheduleError, build_schedule
from service.cli_output import left_out_text, score
from service.client_core import Json


class JobDisplay:
    """Draws a job's events while it is open. Without a terminal there are no bars, only the lines."""

    def __init__(self, job: Json, *, console: Console | None = None) -> None:
        self.console = console or Console()
        self._ends = cycle_ends(job) if job["progress"]["cycles"] and job["progress"]["steps"] else ()
        # A budget of minutes is planned anew every other second: the first plan of a cycle is told, and each that has other cycles.
        self._is_plan_new = True
        self._bars = Progress(
            TextColumn("[bold]{task.description}", justify="left"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", justify="left"),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
        )
        self._job_bar = self._bars.add_task("job", total=1.0, note="waiting for a worker")
        self._cycle_bar = self._bars.add_task(f"cycle 1 of {len(self._ends)}" if self._ends else job["kind"], total=1.0, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, event: Json) -> None:
        """Takes one event of the job; types that it doesn't know are left out."""
        match event["type"]:
            case "state":
                self._show_state(event)
            case "progress":
                self._show_progress(event)
            case "snapshot":
                self._is_plan_new = True
                self.console.print(snapshot_line(event, num_cycles=max(len(self._ends), event["cycle"] + 1)))
            case "learning_rate":
                self.console.print(f"max_lr {event['max_lr']:.3g}: {event['result']['reason']}", highlight=False)
            case "plan":
                is_news = self._is_plan_new or len(event["cycle_ends"]) != len(self._ends)
                self._ends, self._is_plan_new = tuple(event["cycle_ends"]), False
                if is_news:
                    self.console.print(f"plan from step {event['step']:,} on: {event['reason']}", highlight=False)
            case "warning":
                self.console.print(f"warning: {event['message']}", highlight=False)

    def _show_state(self, state: Json) -> None:
        match state["status"]:
            case "succeeded":
                self._bars.update(self._job_bar, completed=1.0, note="done")
                self._bars.update(self._cycle_bar, completed=1.0)
            case "queued":
                runs_come_first = state["phase"] == "waiting_for_runs"
                self._bars.update(self._job_bar, note="waiting for its runs" if runs_come_first else "waiting for a worker")
            case "running" if state["phase"] != "training":
                self._bars.update(self._job_bar, note=state["phase"].replace("_", " "))
            case "failed" | "cancelled" | "paused" as status:
                self._bars.update(self._job_bar, note=status)

    def _show_progress(self, progress: Json) -> None:
        if (share := progress.get("phase_fraction")) is not None:
            self._bars.update(self._cycle_bar, completed=share)
            return
        eta = progress["eta_seconds"]
        left = "" if eta is None else f", {duration(eta)} left"
        of_all = "" if progress["steps"] is None else f" of {progress['steps']:,}"  # a budget of minutes is planned once its speed is known
        self._bars.update(self._job_bar, completed=progress["fraction"], note=f"step {progress['step']:,}{of_all}{left}")
        loss, rate = progress["train_loss"], progress["learning_rate"]
        measured = {"loss": loss and f"{loss:.4f}", "learning rate": rate and f"{rate:.2g}"}
        note = ", ".join(f"{name} {value}" for name, value in measured.items() if value)
        if "runs" in progress:
            note = f"{progress['runs_ended']} of {progress['runs']} runs have ended"
        if not self._ends:
            self._bars.update(self._cycle_bar, completed=progress["fraction"], note=note)
            return
        start, end = cycle_bounds(self._ends, progress["step"])
        self._bars.update(
            self._cycle_bar,
            description=f"cycle {self._ends.index(end) + 1} of {len(self._ends)}",
            completed=(progress["step"] - start) / (end - start),
            note=note,
        )


def cycle_ends(job: Json) -> tuple[int, ...]:
    """The exclusive ends of a job's cycles, from its own schedule; cycles of one length where a newer service has an unknown one."""
    steps, cycles, epochs = job["progress"]["steps"], job["progress"]["cycles"], job["progress"]["epochs"]
    try:
        config: ScheduleConfig = TypeAdapter[ScheduleConfig](ScheduleConfig).validate_python(job["config"]["schedule"])
        schedule = build_schedule(config, steps_per_epoch=round(steps / epochs))
    except (ValidationError, ScheduleError):
        schedule = None
    if schedule is not None and schedule.num_steps == steps:
        return schedule.cycle_ends
    return tuple(steps * (cycle + 1) // cycles for cycle in range(cycles))


def cycle_bounds(ends: tuple[int, ...], completed: int) -> tuple[int, int]:
    """The half-open range of the cycle that ``completed`` steps have reached; after a cycle's last step still that cycle."""
    return next(((start, end) for start, end in pairwise((0, *ends)) if completed <= end), ((0, *ends)[-2], ends[-1]))


def snapshot_line(snapshot: Json, *, num_cycles: int) -> str:
    """One snapshot in words: its own score and the ensemble's so far, on the validation rows."""
    ensemble = snapshot["ensemble"]
    alone = score(snapshot["metrics"]["validation"])
    together = score(ensemble["validation"])
    members = f"{ensemble['members']} member{'s' if ensemble['members'] > 1 else ''}"
    left_out = left_out_text(ensemble, snapshot["cycle"] + 1)
    line = f"snapshot {snapshot['cycle'] + 1} of {num_cycles}: validation {alone}; ensemble of {members}: {together}"
    return f"{line} ({left_out})" if left_out else line


def duration(seconds: float) -> str:
    """A time span at the precision that a reader needs: 42 s, 3:05 min, 2:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
