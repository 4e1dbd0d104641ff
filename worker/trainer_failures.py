"""What a run's exception means for its owner: a category, a message and a suggestion. Part of the trainer process, so it imports torch."""

import errno

import torch

from clr.errors import DatasetError, DivergedError, EnsembleError, ModelError, RateNotFoundError, SnapshotError
from clr.range_test import RangeTestError
from clr.schedules import ScheduleError
from worker.pacing import BudgetError
from worker.protocol import Failed

_SIGNS_OF_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "unable to mmap", "Cannot allocate memory")
"""Torch has no type of its own for main memory."""


def failure_of(error: Exception) -> Failed | None:
    """Puts an exception into the category that tells the user what to do; None: the machine failed, and another attempt may do better."""
    match error:
        case DivergedError():
            return Failed(category="diverged", message=str(error), suggestion="lower max_lr, for example to a tenth")
        case DatasetError():
            return Failed(category="data", message=str(error), suggestion="correct the data and upload them as a new dataset")
        case SnapshotError() | EnsembleError():
            return Failed(category="data", message=str(error), suggestion="train again: the job's snapshots cannot be used")
        case ModelError() | ScheduleError() | RangeTestError():
            return Failed(category="user", message=str(error), suggestion="change the configuration as the message says")
        case BudgetError():
            return Failed(category="user", message=str(error), suggestion="raise budget.minutes, or take a smaller network")
        case RateNotFoundError():
            return Failed(category="user", message=error.cause, suggestion=error.remedy)
        case MemoryError() | torch.OutOfMemoryError() | OSError(errno=errno.ENOMEM):
            return _out_of_memory(error)
        case RuntimeError() if any(sign in str(error) for sign in _SIGNS_OF_MEMORY):
            return _out_of_memory(error)
        case OSError(errno=errno.EFBIG):
            return Failed(
                category="disk_full", message=str(error), suggestion="raise SNAPCYCLE_TRAINER_FILE_BYTES, or take a smaller network"
            )
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Failed(
                category="disk_full", message=str(error), suggestion="make room in the worker's scratch directory and submit again"
            )
        case OSError():
            return None
        case _:
            return Failed(
                category="internal",
                message=f"{type(error).__name__}: {error}",
                suggestion="this is a defect: report it with the traceback from the worker's log",
            )


def _out_of_memory(error: Exception) -> Failed:
    return Failed(category="out_of_memory", message=str(error), suggestion="lower batch_size, or take a smaller network")
