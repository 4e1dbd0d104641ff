"""What users ask of jobs that exist: to end, to pause and go on, to have more cycles, to be deleted."""

from typing import Any, cast

import orjson

from worker.job_errors import DatasetInUse, ExtendedMeanwhile, IdempotencyMismatch, InvalidState, JobMissing
from worker.job_queries import JobQueries
from worker.jobs import IDEMPOTENCY_SECONDS, Action, JobRecord, key_sha256
from worker.redis_connection import translated_errors

DELETED_DATASET_SECONDS = 86_400
"""How long a deleted dataset is refused to submissions that began before its deletion."""


class JobVerbs(JobQueries):
    """The part of the job store that carries out requests about jobs."""

    def request(self, job_id: str, action: Action) -> JobRecord:
        """Asks a job to end or to pause. One that waits does so at once; repeating what was asked or took effect changes nothing.

        A study pauses with its runs. A paused job that is stopped is queued, for a worker to end it with what there is. What pauses
        at once has its amendment still to be stored (``worker.amendments.file_amendments``).

        Raises:
            JobMissing: There is no such job.
            InvalidState: Its state doesn't allow it.
        """
        return self._changed(job_id, action, self._scripts.run("request", job_id, action))

    def resume(self, job_id: str) -> JobRecord:
        """Queues a paused job again; repeating it changes nothing. Its amendment is still to be stored, its message to be sent.

        Raises:
            JobMissing: There is no such job.
            InvalidState: It was not paused.
        """
        return self._changed(job_id, "resume", self._scripts.run("resume", job_id))

    def extend(
        self,
        job: JobRecord,
        cycles: int,
        *,
        config: dict[str, Any],
        progress: dict[str, Any],
        idempotency_key: str | None,
        body_sha256: str,
    ) -> bool:
        """Appends cycles to a training job; one that has succeeded is queued again. Its amendment is still to be stored.

        Args:
            job: The job as it was when ``config`` and ``progress`` were made for it.
            cycles: How many more.
            config: Replaces the record's config.
            progress: Replaces the record's progress.
            idempotency_key: The same key and body extend a job once within 24 hours.
            body_sha256: Hash of what was asked, job included.

        Returns:
            Whether an earlier request with the same key has done it.

        Raises:
            JobMissing: There is no such job.
            InvalidState: It neither runs nor has succeeded with all that was asked of it.
            IdempotencyMismatch: The key was used for something else.
            ExtendedMeanwhile: Another request was faster: ask again with what the job is now.
        """
        key = key_sha256(idempotency_key) if idempotency_key else ""
        amendment = {"kind": "extended", "cycles": cycles} | ({"key": key, "body": body_sha256} if key else {})
        documents = [orjson.dumps(document).decode() for document in (amendment, config, progress)]
        answer = self._scripts.run("extend", job.id, job.extensions, *documents, job.tenant, key, body_sha256, IDEMPOTENCY_SECONDS)
        if answer == "mismatch":
            raise IdempotencyMismatch(job.id)
        if answer == "changed":
            raise ExtendedMeanwhile(f"{job.id} was extended by another request: ask again")
        self._changed(job.id, "extend", answer)
        return bool(answer == "replayed")

    def amendments(self, job_id: str) -> list[str]:
        """What was changed about a job since it was accepted, as JSON (``worker.amendments``)."""
        return cast("list[str]", self._scripts.run("amendments", job_id))

    def unamended(self) -> list[str]:
        """Jobs of which it is not known that all their amendments are in the artifact store."""
        with translated_errors():
            return sorted(cast("set[str]", self._redis.smembers(f"{self._prefix}unamended")))

    def mark_amended(self, job_id: str, count: int) -> None:
        """Notes that the first ``count`` amendments of a job are in the artifact store."""
        self._scripts.run("mark_amended", job_id, count)

    def _changed(self, job_id: str, verb: str, answer: str) -> JobRecord:
        """The record after a request."""
        record = self.get(job_id)
        if answer == "missing" or record is None:
            raise JobMissing(f"there is no job {job_id}")
        if answer == "invalid":
            raise InvalidState(record, verb)
        return record

    def begin_delete(self, job_id: str) -> None:
        """Marks a job that has ended for deletion (see worker.deletion).

        Raises:
            JobMissing: There is no such job.
            InvalidState: It has not ended.
        """
        self._delete("begin_delete", job_id)

    def delete(self, job_id: str) -> None:
        """Forgets a job that has ended; its dataset is free of it. Its artifacts must be gone.

        Raises:
            JobMissing: There is no such job.
            InvalidState: It has not ended.
        """
        self._delete("delete", job_id)

    def _delete(self, script: str, job_id: str) -> None:
        answer = self._scripts.run(script, job_id)
        if answer == "missing":
            raise JobMissing(f"there is no job {job_id}")
        if answer == "invalid" and (record := self.get(job_id)):
            raise InvalidState(record, "delete")

    def delete_dataset_guard(self, dataset_id: str) -> None:
        """Refuses the dataset to later submissions, so that its files can be removed.

        Raises:
            DatasetInUse: Jobs use it.
        """
        job_ids = self._scripts.run("delete_dataset", dataset_id, DELETED_DATASET_SECONDS)
        if job_ids:
            raise DatasetInUse(dataset_id, sorted(job_ids))
