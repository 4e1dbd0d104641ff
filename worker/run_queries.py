"""The runs of studies as the job store sees them: where they stand, how far they are, which ones nobody needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from worker.jobs import JobStatus
from worker.redis_connection import Scripts


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    status: JobStatus
    step: int
    fraction: float


class RunQueries:
    """The part of the job store that studies use."""

    _scripts: Scripts

    def standing(self, job_ids: Sequence[str]) -> list[Standing | None]:
        """Where jobs stand; None for those that don't exist.

        Raises:
            StoreUnavailable: One doesn't exist, and the database is not complete.
        """
        flat = cast(list[str], self._scripts.run("standing", *job_ids))
        return [_standing(status, progress) if status else None for status, progress in zip(flat[::2], flat[1::2], strict=True)]

    def note_runs(self, study_id: str, progress: dict[str, Any], event: dict[str, Any]) -> bool:
        """Notes how far the runs of a waiting study are, with an event where that is news; False where it doesn't wait."""
        return bool(self._scripts.run("note_runs", study_id, orjson.dumps(progress).decode(), orjson.dumps(event).decode()))

    def stray_runs(self) -> list[str]:
        """Runs that go on although their study has ended, or is gone."""
        return sorted(cast(list[str], self._scripts.run("stray_runs")))


def _standing(status: str, progress: str) -> Standing:
    document = orjson.loads(progress)
    return Standing(JobStatus(status), document["step"] or 0, document["fraction"])
