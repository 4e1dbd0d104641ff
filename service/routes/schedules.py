"""Schedules, laid out before there is a job."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from clr.schedule_config import is_rate_known
from clr.schedule_linter import lint_schedule
from clr.schedules import Schedule, build_schedule
from service.errors import invalid_field
from service.json_bodies import json_document, validated
from service.openapi import json_body
from service.request_schemas import MAX_PREVIEW_STEPS, SchedulePreviewRequest
from service.schemas import SchedulePreview

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])


@router.post(
    "/preview",
    summary="Lay a schedule out",
    openapi_extra=json_body(
        SchedulePreviewRequest,
        {"schedule": {"type": "warm_restarts", "max_lr": 0.1, "cycles": 5, "epochs_per_cycle": 4}, "steps_per_epoch": 100},
    ),
)
def preview_schedule(document: Annotated[Any, Depends(json_document)]) -> SchedulePreview:
    """The learning rate of every step and the exclusive cycle ends, exactly as a job would take them."""
    request = validated(SchedulePreviewRequest, document)
    schedule = build_schedule(request.schedule, steps_per_epoch=request.steps_per_epoch, epochs=request.epochs)
    if schedule.num_steps > MAX_PREVIEW_STEPS and request.max_points == MAX_PREVIEW_STEPS:
        raise invalid_field(
            f"must be given for runs of more than {MAX_PREVIEW_STEPS} steps, and this one has {schedule.num_steps}",
            pointer="#/max_points",
            hint="1000 is enough for a picture",
        )
    warnings = lint_schedule(request.schedule, schedule, steps_per_epoch=request.steps_per_epoch)
    if not is_rate_known(request.schedule):
        warnings.append("max_lr is still to be measured: the rates are shares of it")
    return SchedulePreview(**curve(schedule, max_points=request.max_points), num_steps=schedule.num_steps, warnings=warnings)


def curve(schedule: Schedule, *, max_points: int) -> dict[str, Any]:
    """Steps with their rates: all of them, or ``max_points`` evenly spaced ones and both ends of each cycle."""
    return {
        "step": (steps := _steps(schedule, max_points)),
        "learning_rate": [schedule(step) for step in steps],
        "cycle_ends": list(schedule.cycle_ends),
    }


def _steps(schedule: Schedule, max_points: int) -> list[int]:
    if schedule.num_steps <= max_points:
        return list(range(schedule.num_steps))
    last = schedule.num_steps - 1
    edges = {step for end in schedule.cycle_ends for step in (end - 1, end) if step <= last}
    return sorted(edges | {index * last // (max_points - 1) for index in range(max_points)})
