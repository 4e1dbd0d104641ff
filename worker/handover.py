"""What a trainer is given to do a job: its spec, and local, verified files of all that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.attempt_documents import without_gap
from worker.failpoints import failpoint
from worker.job_artifacts import JobArtifacts
from worker.job_specs import JobSpec, TrainSpec
from worker.protocol import TrainerJob


@dataclass(frozen=True)
class Legacy:
    """What earlier attempts have left for the next one.

    Attributes:
        checkpoints: Local files, the newest first.
        warnings: What the owner ought to know of what was lost.
    """

    checkpoints: Sequence[Path]
    warnings: Sequence[str]


def legacy(artifacts: JobArtifacts, spec: JobSpec) -> Legacy:
    """Looks through what is there; what is damaged is set aside, and told by this call alone."""
    lost = artifacts.lost_snapshots() if isinstance(spec, TrainSpec) else []
    found = artifacts.checkpoints(num_snapshots=without_gap(artifacts.snapshots()))
    warnings = [*lost, *found.passed_over]
    if found.passed_over and not found.paths:
        warnings.append("no checkpoint is left that can be used: the run begins anew")
    return Legacy(found.paths, warnings)


def trainer_job(
    artifacts: JobArtifacts,
    spec: JobSpec,
    *,
    dataset_path: Path,
    checkpoints: Sequence[Path],
    checkpoint_seconds: float,
    seconds_drained: float,
) -> TrainerJob:
    """The trainer's job.

    Args:
        artifacts: The job's, to read from.
        spec: With all amendments, and with the rate that an earlier attempt has found.
        dataset_path: The verified dataset.
        checkpoints: Those of ``legacy``.
        checkpoint_seconds: How long the trainer goes on between checkpoints.
        seconds_drained: How long the job ran in attempts that were asked to leave.

    Raises:
        ArtifactMissing, ArtifactDamaged: What the job needs of other jobs cannot be had.
    """
    paths = [str(path) for path in checkpoints]
    inputs = artifacts.inputs(spec)
    failpoint("handover.read")
    return TrainerJob(
        spec=spec,
        dataset_path=str(dataset_path),
        checkpoint_path=paths[0] if paths else None,
        older_checkpoints=paths[1:],
        checkpoint_seconds=checkpoint_seconds,
        files={name: str(path) for name, path in inputs.files.items()},
        documents=inputs.documents,
        seconds_drained=seconds_drained,
    )
