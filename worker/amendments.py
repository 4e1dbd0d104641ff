"""What was asked of a job after it was accepted, and lasts: that it is paused, goes on, or has more cycles.

The job store decides and keeps the list; the artifact store gets every entry as an object of its own, so that a rebuilt database has
them too. A spec never changes: what runs is the spec with its amendments.
"""

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from clr.extension import extended
from clr.schedules import build_schedule
from clr.strict_model import StrictModel
from worker import records
from worker.artifacts import AlreadyExists, ArtifactStore
from worker.failpoints import failpoint
from worker.job_specs import JobSpec, TrainSpec

if TYPE_CHECKING:
    from worker.job_store import JobStore


class AmendmentKind(StrEnum):
    """What an amendment says."""

    PAUSED = "paused"
    """The job rests until it is resumed."""
    RESUMED = "resumed"
    """It goes on."""
    EXTENDED = "extended"
    """It has more cycles."""


class Amendment(StrictModel):
    """One change of a job: its number from 1, when it was made (ms since 1970), and for an extension what was asked, and how."""

    n: int
    kind: AmendmentKind
    at: int
    cycles: int = 0
    key: str | None = None
    body: str | None = None


def file_amendments(store: "JobStore", artifacts: ArtifactStore, job_id: str) -> list[Amendment]:
    """Stores what the job store knows of a job's amendments, and returns them.

    Raises:
        ArtifactUnavailable, StoreFull: Not all of them are stored.
    """
    amendments = list_amendments(store, job_id)
    if amendments:
        failpoint("amendment.recorded")
    stored = artifacts.list_names(records.amendments_prefix(job_id)) if amendments else ()
    for amendment in amendments:
        if f"{amendment.n}.json" not in stored:
            with suppress(AlreadyExists):  # someone else stores the same one at this moment
                records.create_document(artifacts, _key(job_id, amendment.n), amendment.model_dump(mode="json", exclude_none=True))
    if amendments:
        failpoint("amendment.stored")
    store.mark_amended(job_id, len(amendments))
    return amendments


def list_amendments(store: "JobStore", job_id: str) -> list[Amendment]:
    """A job's amendments, in their order."""
    return [Amendment.model_validate_json(document) for document in store.amendments(job_id)]


def read_amendments(artifacts: ArtifactStore, job_id: str, numbers: Sequence[int]) -> list[Amendment]:
    """The stored amendments of these numbers.

    Raises:
        ArtifactDamaged: One is not what was stored.
    """
    documents = (records.read_document(artifacts, _key(job_id, number)) for number in sorted(numbers))
    return [Amendment.model_validate(document) for document in documents if document is not None]


def amended(spec: JobSpec, amendments: Sequence[Amendment]) -> JobSpec:
    """What runs: the spec with the cycles that were appended."""
    for amendment in amendments:
        if amendment.kind is AmendmentKind.EXTENDED:
            assert isinstance(spec, TrainSpec), "only training jobs are extended"
            spec = with_cycles(spec, amendment.cycles)
    return spec


def with_cycles(spec: TrainSpec, cycles: int) -> TrainSpec:
    """The spec of the same job with more cycles.

    Raises:
        ExtensionError: It cannot have them.
    """
    config = extended(spec.config, cycles, steps_per_epoch=spec.steps_per_epoch)
    schedule = build_schedule(config.schedule, steps_per_epoch=spec.steps_per_epoch)
    length = {"num_steps": schedule.num_steps, "num_cycles": schedule.num_cycles, "epochs": schedule.num_steps / spec.steps_per_epoch}
    return spec.model_copy(update={"config": config, **length})


def num_extensions(amendments: Sequence[Amendment]) -> int:
    """How many times a job was extended; its result counts them, so that one from before an extension is told from a later one."""
    return sum(amendment.kind is AmendmentKind.EXTENDED for amendment in amendments)


def is_paused(amendments: Sequence[Amendment]) -> bool:
    """Whether a job that has not ended is to rest."""
    return next((each.kind is AmendmentKind.PAUSED for each in reversed(amendments) if each.kind is not AmendmentKind.EXTENDED), False)


def _key(job_id: str, number: int) -> str:
    return f"{records.amendments_prefix(job_id)}/{number}.json"
