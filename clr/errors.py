"""The exceptions that ``clr`` raises for things a user can put right; all are ``ValueError``.

- ``DatasetError``: data that cannot be used, or a split that it cannot give.
- ``NpyError``: bytes that are not an npy or npz file of the accepted kind.
- ``ModelError``: a network that does not fit the data.
- ``SnapshotError``, ``CheckpointError``: a file that is damaged or belongs to another run.
- ``EnsembleError``: snapshots that do not belong together; ``InputError``: rows that an ensemble cannot take.

``clr.config`` raises pydantic's own errors.
"""

import difflib
from collections.abc import Iterable


class ScheduleError(ValueError):
    """The schedule cannot be laid out over the steps it was given, or cannot be changed as asked."""


class RunLengthError(ScheduleError):
    """The run has no step, or too many."""


class DatasetError(ValueError):
    """The user's data is unusable.

    Attributes:
        pointer: JSON pointer of the request field at fault, such as ``#/file`` or ``#/target``; None where there is no one field.
    """

    def __init__(self, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class NpyError(ValueError):
    """The bytes are no npy or npz file, or one of a kind that is not accepted."""


class ModelError(ValueError):
    """The network does not fit the shape of the data."""


class SnapshotError(ValueError):
    """The snapshot file is damaged or does not fit its own architecture."""


class CheckpointError(ValueError):
    """The checkpoint is damaged, or belongs to another run."""


class RateNotFoundError(ValueError):
    """The range test of a run whose ``max_lr`` is "auto" has found no usable rate.

    Attributes:
        cause: Why.
        remedy: What to do; it names fields that a run has.
    """

    def __init__(self, cause: str, *, remedy: str = "give max_lr a number, for example 0.1") -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause = cause
        self.remedy = remedy


class DivergedError(ArithmeticError):
    """The loss or a weight is no finite number, and lower rates did not help."""


class EnsembleError(ValueError):
    """The members of an ensemble do not belong together."""


class InputError(ValueError):
    """Rows to predict have the wrong shape, type or values."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A question that names the option most like ``name``, or nothing where none is close."""
    matches = difflib.get_close_matches(name, list(options), n=1)
    return f" (did you mean {str(matches[0])!r}?)" if matches else ""
