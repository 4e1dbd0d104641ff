"""What a supervisor owes to the stores: actions in the order in which they came due. This module doesn't import torch."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from worker.artifacts import ArtifactDamaged, ArtifactMissing, StoreFull
from worker.job_artifacts import StagedFileDamaged
from worker.jobs import ErrorCategory


class FailJob(Protocol):
    """Has the job fail with a category, a message and a suggestion."""

    def __call__(self, category: ErrorCategory, message: str, suggestion: str) -> None: ...


class Debts:
    """Actions that can be repeated; one that fails for want of a store stays owed, and all after it.

    Args:
        fail: Called where an action shows that the job cannot go on.
        first: What is owed from the beginning.
    """

    def __init__(self, fail: FailJob, *first: Callable[[], None]) -> None:
        self._fail = fail
        self._owed = deque(first)

    def owe(self, action: Callable[[], None]) -> None:
        """Adds an action after all others."""
        self._owed.append(action)

    def clear(self) -> None:
        """Forgets all."""
        self._owed.clear()

    def pay(self) -> None:
        """Carries out what is owed, in order.

        Raises:
            StoreUnavailable, ArtifactUnavailable: A store is away; what was not done stays owed.
            FencedError: The job is no longer ours.
            StagedFileDamaged: A file of the trainer is not what it wrote; another attempt may do better, elsewhere.
        """
        while self._owed:
            try:
                self._owed[0]()
            except StoreFull as error:
                self._fail(ErrorCategory.DISK_FULL, str(error), "make room in the artifact store and submit the job again")
            except StagedFileDamaged:
                raise
            except (ArtifactMissing, ArtifactDamaged) as error:
                self._fail(ErrorCategory.DATA, str(error), "upload the dataset again and submit a new job")
            self._owed.popleft()
