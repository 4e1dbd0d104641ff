"""What a study's runs have left behind, and how good the ensembles are that its arms make of it.

Everything is measured on the test rows, in float64; validation rows serve the temperatures alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from clr.calibration import fit_temperature, log_loss, pool, temper
from clr.cycle_rule import MemberChoice, choose_members
from clr.ensemble_sizes import ensemble_sizes
from clr.history import Row
from clr.metrics import accuracy, brier_score, expected_calibration_error, mae, negative_log_likelihood, rmse
from clr.snapshots import Outputs
from clr.studies import Members
from clr.targets import Task

CLASSIFICATION_METRICS = ("error", "nll", "ece", "brier", "calibrated_nll", "temperature")
REGRESSION_METRICS = ("rmse", "mae")


@dataclass(frozen=True, eq=False)
class RunOutcome:
    """A run that came to its end.

    Attributes:
        outputs: Of its snapshots on the held-out rows, in the order of the run.
        rows: Its history, rows of ``clr.history.COLUMNS``.
        num_steps: Optimizer steps of its training.
        search_epochs: What the range test has cost that it began with, in passes over the training rows.
        steps_per_epoch: Optimizer steps in one such pass.
    """

    outputs: Sequence[Outputs]
    rows: Sequence[Row]
    num_steps: int
    search_epochs: float
    steps_per_epoch: int

    @property
    def epochs(self) -> float:
        """What the run has cost."""
        return self.num_steps / self.steps_per_epoch + self.search_epochs

    def members(self, which: Members) -> Sequence[Outputs]:
        """The outputs that an arm averages."""
        match which:
            case Members.ALL:
                return self.outputs
            case Members.LAST:
                return self.outputs[-1:]
            case Members.CHOSEN:
                return self.outputs[-self._chosen().num_members :]

    def _chosen(self) -> MemberChoice:
        """How many of the last members the run's own ensemble takes, by validation rows alone."""
        first = self.outputs[0]
        task = Task.REGRESSION if first.validation_targets.is_floating_point() else Task.CLASSIFICATION
        sizes = ensemble_sizes([each.validation_logits for each in self.outputs], first.validation_targets, task).last
        errors = [size["rmse"] if task is Task.REGRESSION else 1 - size["accuracy"] for size in sizes]
        return choose_members([size["loss"] for size in sizes], errors)


@dataclass(frozen=True)
class FailedRun:
    """A run that did not come to its end, so that nothing can be compared with it; ``reason`` says why."""

    reason: str


Outcomes = Mapping[str, RunOutcome | FailedRun]


@dataclass(frozen=True)
class Measured:
    """One ensemble, and whether its temperature ended at a bound of the search."""

    metrics: Mapping[str, float]
    num_members: int
    is_temperature_at_bound: bool = False


def measure(outputs: Sequence[Outputs]) -> Measured:
    """The mean prediction of members whose held-out rows are the same."""
    first = outputs[0]
    for other in outputs[1:]:
        assert torch.equal(other.validation_targets, first.validation_targets), "the runs of a study share one split"
        assert torch.equal(other.test_targets, first.test_targets), "the runs of a study share one split"
    targets_B = first.test_targets
    if targets_B.is_floating_point():
        values_B = torch.stack([each.test_logits.double() for each in outputs]).mean(0)
        return Measured({"rmse": rmse(values_B, targets_B), "mae": mae(values_B, targets_B)}, len(outputs))
    temperature = fit_temperature(pool([each.validation_logits for each in outputs]), first.validation_targets)
    probs_BC = torch.stack([each.test_logits.double().softmax(1) for each in outputs]).mean(0)
    log_probs_BC = pool([each.test_logits for each in outputs])
    metrics = {
        "error": 1 - accuracy(probs_BC, targets_B),
        "nll": negative_log_likelihood(probs_BC, targets_B),
        "ece": expected_calibration_error(probs_BC, targets_B),
        "brier": brier_score(probs_BC, targets_B),
        "calibrated_nll": log_loss(temper(log_probs_BC, temperature.value), targets_B),
        "temperature": temperature.value,
    }
    return Measured(metrics, len(outputs), temperature.is_at_bound)


def measure_runs(outcomes: Outcomes, keys: Sequence[str], members: Members) -> Measured | None:
    """The ensemble that an arm makes of some runs; None where one of them failed."""
    outputs: list[Outputs] = []
    for key in keys:
        outcome = outcomes[key]
        if isinstance(outcome, FailedRun):
            return None
        outputs += outcome.members(members)
    return measure(outputs)
