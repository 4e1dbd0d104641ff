"""What a job's trainer needs of other jobs, as local, verified files and as documents."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from worker.artifacts import ArtifactStore
from worker.job_specs import EvaluateSpec, JobSpec, RangeTestSpec, StudySpec, TrainSpec
from worker.member_files import OUTPUTS, WEIGHTS, chosen_members, own_members
from worker.study_inputs import study_inputs

Json = dict[str, Any]


@dataclass(frozen=True)
class JobInputs:
    """Files and documents by names that the kind of job gives them."""

    files: Mapping[str, Path] = field(default_factory=dict)
    documents: Mapping[str, Json] = field(default_factory=dict)


def job_inputs(artifacts: ArtifactStore, spec: JobSpec) -> JobInputs:
    """What the job needs besides its dataset and its own checkpoint.

    Raises:
        ArtifactMissing, ArtifactDamaged: It cannot be had; the job fails with this message.
    """
    match spec:
        case TrainSpec():
            return JobInputs(own_members(artifacts, spec.id, [OUTPUTS, WEIGHTS] if spec.landscape else [OUTPUTS]))
        case RangeTestSpec():
            return JobInputs()
        case EvaluateSpec():
            return JobInputs(chosen_members(artifacts, spec.config.job_id, spec.cycles, [WEIGHTS]))
        case StudySpec():
            return JobInputs(*study_inputs(artifacts, spec))
        case unknown:
            assert_never(unknown)
