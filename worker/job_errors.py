"""What the job store refuses, and why."""

from worker.jobs import JobRecord, allowed_actions
from worker.redis_connection import JobStoreError


class JobMissing(JobStoreError):
    """There is no job of this id."""


class InvalidState(JobStoreError):
    """The job's state doesn't allow this; ``allowed`` says what it allows."""

    def __init__(self, record: JobRecord, action: str) -> None:
        self.record = record
        self.allowed = allowed_actions(record)
        super().__init__(f"{action} is not possible for {record.id}, which is {record.status}: it allows {', '.join(self.allowed)}")


class IdempotencyMismatch(JobStoreError):
    """The idempotency key was used before, with another body; ``job_id`` is what it made then."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"this Idempotency-Key made {job_id} from another body: use a new key for a new job")


class DatasetGone(JobStoreError):
    """The dataset was deleted while the job was being submitted."""


class StudyOver(JobStoreError):
    """The study of a run has ended, or has got all its runs."""


class RunGoesOn(InvalidState):
    """A study that was cancelled has runs that have not ended yet."""

    def __init__(self, record: JobRecord, run_id: str) -> None:
        super().__init__(record, "delete")
        self.args = (f"{record.id} cannot be deleted yet, since its run {run_id} is still ending: ask again in a moment",)


class RunInUse(JobStoreError):
    """A study has the run, in its table or soon; ``job_ids`` is that study."""

    def __init__(self, job_id: str, study_id: str, *, has_ended: bool) -> None:
        self.job_ids = [study_id]
        remedy = "whose result names it" if has_ended else "which has not ended"
        super().__init__(
            f"{job_id} is a run of the study {study_id}, {remedy}: delete the study, once it has ended, and its runs go with it"
        )


class DatasetInUse(JobStoreError):
    """Jobs use the dataset; ``job_ids`` are theirs."""

    def __init__(self, dataset_id: str, job_ids: list[str]) -> None:
        self.job_ids = job_ids
        jobs = f"{len(job_ids)} {'job' if len(job_ids) == 1 else 'jobs'}"
        super().__init__(
            f"{dataset_id} is used by {jobs} ({', '.join(job_ids[:3])}{', …' if len(job_ids) > 3 else ''}): delete those first"
        )


class ExtendedMeanwhile(JobStoreError):
    """A job was extended by another request while this one was being prepared."""
