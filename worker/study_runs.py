"""The runs of a study as jobs: functions of the study's spec, so that whoever makes them makes the same ones."""

from clr.schedules import build_schedule
from clr.studies import StudyRun, plan_study
from worker.ids import derived_id
from worker.job_specs import StudySpec, TrainSpec


def run_ids(spec: StudySpec) -> dict[str, str]:
    """The job id of each run, by the run's key."""
    return {run.key: derived_id(spec.id, run.key) for run in plan_study(spec.config).runs}


def run_spec(study: StudySpec, run: StudyRun) -> TrainSpec:
    """The spec of one run: the same each time."""
    schedule = build_schedule(run.config.schedule, steps_per_epoch=study.steps_per_epoch)
    return TrainSpec(
        id=derived_id(study.id, run.key),
        name=run.key,
        dataset_id=study.dataset_id,
        metadata={},
        created_at=study.created_at,
        tenant=study.tenant,
        priority=study.priority,
        max_seconds=study.max_seconds,
        parent_id=study.id,
        config=run.config,
        max_lr_from=study.max_lr_from if run.config.schedule.max_lr == study.config.max_lr else None,
        num_steps=schedule.num_steps,
        num_cycles=schedule.num_cycles,
        epochs=schedule.num_steps / study.steps_per_epoch,
        steps_per_epoch=study.steps_per_epoch,
    )
