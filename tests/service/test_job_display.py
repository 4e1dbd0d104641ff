"""What a person sees of a running job."""

import io

import pytest
from rich.console import Console

from service.client_core import Json
from service.job_display import JobDisplay, cycle_bounds, cycle_ends, duration


def job_of(schedule: Json, *, steps: int, cycles: int, epochs: float) -> Json:
    return {"progress": {"steps": steps, "cycles": cycles, "epochs": epochs}, "config": {"schedule": schedule}}


def progress_at(step: int, **fields: object) -> Json:
    numbers = {"steps": 60, "fraction": step / 60, "eta_seconds": 75.0, "train_loss": 0.25, "learning_rate": 0.05}
    return {"type": "progress", "step": step, **numbers, **fields}


def snapshot_of(cycle: int, members: int) -> Json:
    metrics = {"validation": {"accuracy": 0.9}}
    return {"type": "snapshot", "cycle": cycle, "metrics": metrics, "ensemble": {"members": members, "validation": {"accuracy": 0.95}}}


THREE_CYCLES = job_of({"type": "warm_restarts", "cycles": 3, "epochs_per_cycle": 2}, steps=60, cycles=3, epochs=6)


def test_cycle_ends_are_those_of_the_job_schedule() -> None:
    growing = {"type": "warm_restarts", "cycles": 3, "epochs_per_cycle": 1, "cycle_mult": 2}
    assert cycle_ends(job_of(growing, steps=70, cycles=3, epochs=7)) == (10, 30, 70)


def test_a_schedule_of_a_newer_service_gets_cycles_of_one_length() -> None:
    assert cycle_ends(job_of({"type": "from_the_future"}, steps=60, cycles=3, epochs=6)) == (20, 40, 60)


@pytest.mark.parametrize(("completed", "bounds"), [(0, (0, 20)), (1, (0, 20)), (20, (0, 20)), (21, (20, 40)), (60, (40, 60))])
def test_a_cycle_counts_as_running_up_to_its_last_step(completed: int, bounds: tuple[int, int]) -> None:
    assert cycle_bounds((20, 40, 60), completed) == bounds


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (3660, "1:01 h")])
def test_durations_are_as_precise_as_a_reader_needs(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_only_the_snapshots_are_printed() -> None:
    output = io.StringIO()
    with JobDisplay(THREE_CYCLES, console=Console(file=output, width=80)) as display:
        display.show({"type": "state", "status": "running", "phase": "training"})
        display.show(progress_at(30))
        display.show(snapshot_of(1, 2))
        display.show({"type": "from_the_future"})
    assert output.getvalue() == "snapshot 2 of 3: validation 90.00%; ensemble of 2 members: 95.00%\n"


def test_in_a_terminal_two_bars_show_the_job_and_the_cycle() -> None:
    output = io.StringIO()
    with JobDisplay(THREE_CYCLES, console=Console(file=output, width=80, force_terminal=True, color_system=None)) as display:
        display.show(progress_at(30))
    shown = output.getvalue()
    assert "step 30 of 60, 1:15 min left" in shown
    assert "cycle 2 of 3" in shown
    assert "loss 0.2500, learning rate 0.05" in shown
