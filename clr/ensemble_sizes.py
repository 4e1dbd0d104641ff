"""What averaging more or fewer members of one run gives, and how the members differ, from the outputs that the run kept.

Nothing here needs a network: a run's ``Outputs`` are what its members said of the held-out rows. Everything in float64.
Shapes: M members, B rows, C classes. The member axis comes first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from clr.diversity import Diversity, classification_diversity, regression_diversity
from clr.errors import EnsembleError
from clr.finite import finite_document
from clr.metrics import classification_metrics, regression_metrics
from clr.snapshots import Outputs
from clr.targets import Task

MAX_VALUES = 20_000_000
"""Probabilities that the diversity is measured on; beyond, the first rows stand for all, which takes 160 MB at a time."""

MAX_MEMBERS = 100
"""Members whose matrices a document holds: the last ones, which an ensemble averages. A thousand would be 40 MB of JSON."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class EnsembleSizes:
    """Metrics of the mean prediction against its number of members.

    Attributes:
        last: Of the last m members, for m = 1 … M: what 1704.00109 (section 4.3) averages.
        first: Of the first m members: the ensemble as it grows in training.
    """

    last: tuple[Metrics, ...]
    first: tuple[Metrics, ...]


def ensemble_sizes(outputs: Sequence[Tensor], targets: Tensor, task: Task) -> EnsembleSizes:
    """The metrics of every ensemble of neighbours that holds the last or the first member.

    Args:
        outputs: Of each member: (B, C) logits, or (B,) values in the target's unit.
        targets: Theirs: class indices, or values.
        task: Which of the two.

    Raises:
        EnsembleError: No members.
    """
    _require_members(outputs)
    return EnsembleSizes(last=_growing(reversed(outputs), targets, task), first=_growing(outputs, targets, task))


def run_diversity(outputs: Sequence[Outputs], task: Task) -> Diversity:
    """How the members of one run differ on its test rows.

    Raises:
        EnsembleError: No members.
    """
    _require_members(outputs)
    targets = outputs[0].test_targets
    num_rows = max(1, min(len(targets), MAX_VALUES // max(1, len(outputs) * outputs[0].test_logits[:1].numel())))
    members = torch.stack([_predictions(each.test_logits[:num_rows], task) for each in outputs])
    measure = classification_diversity if task is Task.CLASSIFICATION else regression_diversity
    return measure(members, targets[:num_rows])


def members_document(outputs: Sequence[Outputs], task: Task) -> dict[str, Any]:
    """``diversity`` and ``ensemble_sizes`` of a run, as its result holds them; numbers that are not finite become null.

    ``diversity`` has besides which ``members`` its matrices are of, in the order of the run from 0.

    Raises:
        EnsembleError: No members.
    """
    sizes = {
        "validation": ensemble_sizes([each.validation_logits for each in outputs], outputs[0].validation_targets, task),
        "test": ensemble_sizes([each.test_logits for each in outputs], outputs[0].test_targets, task),
    }
    members = list(range(len(outputs)))[-MAX_MEMBERS:]
    diversity = asdict(run_diversity(outputs[-MAX_MEMBERS:], task)) | {"members": members}
    document = {"diversity": diversity, "ensemble_sizes": {part: asdict(each) for part, each in sizes.items()}}
    plain: dict[str, Any] = finite_document(document)
    return plain


def _require_members(outputs: Sequence[object]) -> None:
    if not outputs:
        raise EnsembleError("an ensemble needs at least one snapshot, got none: wait for the first cycle to end")


def _growing(outputs: Iterable[Tensor], targets: Tensor, task: Task) -> tuple[Metrics, ...]:
    """The metrics of the mean of the first one, two, … of ``outputs``."""
    total, found = torch.zeros((), dtype=torch.float64), []
    for count, output in enumerate(outputs, start=1):
        total = total + _predictions(output, task)
        measure = classification_metrics if task is Task.CLASSIFICATION else regression_metrics
        found.append(measure(total / count, targets))
    return tuple(found)


def _predictions(outputs: Tensor, task: Task) -> Tensor:
    """Probabilities, or values in the target's unit."""
    return outputs.double().softmax(1) if task is Task.CLASSIFICATION else outputs.double()
