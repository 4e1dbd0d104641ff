"""What a trainer is given to do a job: its spec, and local, verified files of all that it needs."""

from worker.attempt_documents import without_gap
from worker.failpoints import failpoint
from worker.job_artifacts import JobArtifacts
from worker.job_specs import JobSpec, TrainSpec
from worker.protocol import TrainerJob


def hand_over(artifacts: JobArtifacts, spec: JobSpec, *, checkpoint_seconds: float, seconds_drained: float) -> tuple[TrainerJob, list[str]]:
    """The trainer's job, and what the owner ought to know of what was lost since an earlier attempt.

    Args:
        artifacts: The job's, to read from.
        spec: With all amendments, and with the rate that an earlier attempt has found.
        checkpoint_seconds: How long the trainer goes on between checkpoints.
        seconds_drained: How long the job took to leave earlier workers.

    Raises:
        ArtifactMissing, ArtifactDamaged: The dataset, or what the job needs of other jobs, cannot be had.
    """
    dataset_path = artifacts.dataset_path(spec.dataset_id)
    lost = artifacts.lost_snapshots() if isinstance(spec, TrainSpec) else []
    found = artifacts.checkpoints(num_snapshots=without_gap(artifacts.snapshots()))
    warnings = [*lost, *found.passed_over]
    if found.passed_over and not found.paths:
        warnings.append("no checkpoint is left that can be used: the run begins anew")
    paths = [str(path) for path in found.paths]
    inputs = artifacts.inputs(spec)
    failpoint("handover.read")
    job = TrainerJob(
        spec=spec,
        dataset_path=str(dataset_path),
        checkpoint_path=paths[0] if paths else None,
        older_checkpoints=paths[1:],
        checkpoint_seconds=checkpoint_seconds,
        files={name: str(path) for name, path in inputs.files.items()},
        documents=inputs.documents,
        seconds_drained=seconds_drained,
    )
    return job, warnings
