"""The rows that a run does not train on: what each member says about them, and which members to average.

Shapes: M members, N rows, C classes; values of a regression have no class axis.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clr.cycle_rule import choose_members
from clr.datasets import Dataset
from clr.ensemble_forms import JointForms
from clr.inference import batch_rows, batches, network_outputs, predictions
from clr.metrics import classification_metrics, regression_metrics
from clr.preprocessing import Preprocessing
from clr.snapshots import Metrics, Outputs
from clr.splits import Split
from clr.targets import Task


@dataclass(frozen=True)
class EnsembleMetrics:
    """The mean prediction of the members that the ensemble takes, measured on the held-out rows.

    Attributes:
        num_members: All members so far; in a run that chooses its own cycles the last ones, as many as are best on validation.
        reason: Why so many; empty where it is simply all of them.
    """

    num_members: int
    validation: Metrics
    test: Metrics
    reason: str = ""


class HeldOut:
    """Validation and test rows, and what the members so far predict for them.

    Args:
        chooses_members: Whether the ensemble takes the last members that are best on validation, and so must remember each.
    """

    def __init__(self, dataset: Dataset, split: Split, preprocessing: Preprocessing, inputs: Tensor, *, chooses_members: bool) -> None:
        device = inputs.device
        test_inputs, test_targets = inputs, dataset.targets
        if dataset.test_inputs is not None and dataset.test_targets is not None:
            test_inputs, test_targets = dataset.test_inputs.to(device), dataset.test_targets
        self._task, self._input_shape = dataset.task, dataset.input_shape
        self._preprocessing = preprocessing
        self._chooses_members = chooses_members
        self._parts = {
            "validation": (inputs, split.validation.to(device), dataset.targets[split.validation]),
            "test": (test_inputs, split.test.to(device), test_targets[split.test]),
        }
        width = (dataset.num_outputs,) if dataset.task is Task.CLASSIFICATION else ()
        self._sums = {part: torch.zeros(len(rows), *width, dtype=torch.float64) for part, (_, rows, _) in self._parts.items()}
        self._members_MN: dict[str, list[Tensor]] = {part: [] for part in self._parts}
        self._num_members = 0

    def add_member(self, model: nn.Module) -> tuple[dict[str, Metrics], Outputs, EnsembleMetrics]:
        """Takes a network, in evaluation mode, into the ensemble; returns its metrics, its outputs, and the ensemble's metrics."""
        outputs, metrics = {}, {}
        forms = JointForms(
            [(model, self._preprocessing)],
            lambda inputs: network_outputs(model, self._preprocessing, inputs)[None],
            input_shape=self._input_shape,
            is_classification=self._task is Task.CLASSIFICATION,
        )
        for part, (inputs, rows, targets) in self._parts.items():
            raw = _outputs(model, forms, self._preprocessing, inputs, rows)
            predicted = predictions(raw.double(), self._task, self._preprocessing)
            self._sums[part] += predicted
            if self._chooses_members:
                self._members_MN[part].append(predicted)
            outputs[part] = raw if self._task is Task.CLASSIFICATION else predicted.float()
            metrics[part] = measure(predicted, targets, self._task)
        self._num_members += 1
        held_out = Outputs(outputs["validation"], self._parts["validation"][2], outputs["test"], self._parts["test"][2])
        return metrics, held_out, self._best_of_last() if self._chooses_members else self._all()

    def tensors(self) -> dict[str, Tensor]:
        """What ``restore`` needs."""
        members = {f"member.{part}.{j}": each for part, several in self._members_MN.items() for j, each in enumerate(several)}
        return {f"sum.{part}": total for part, total in self._sums.items()} | members

    def restore(self, tensors: Mapping[str, Tensor], num_members: int) -> None:
        """Takes up what a checkpoint has.

        Raises:
            KeyError, RuntimeError: Tensors are missing, or have another shape.
        """
        for part, total in self._sums.items():
            total.copy_(tensors[f"sum.{part}"])
            if self._chooses_members:
                self._members_MN[part] = [tensors[f"member.{part}.{j}"] for j in range(num_members)]
        self._num_members = num_members

    def _all(self) -> EnsembleMetrics:
        means = {part: measure(total / self._num_members, self._parts[part][2], self._task) for part, total in self._sums.items()}
        return EnsembleMetrics(self._num_members, means["validation"], means["test"])

    def _best_of_last(self) -> EnsembleMetrics:
        """The mean over the last members, as many as do best on the validation rows."""
        curve = [self._last("validation", count) for count in range(1, self._num_members + 1)]
        choice = choose_members([each["loss"] for each in curve], [error_of(each) for each in curve])
        return EnsembleMetrics(choice.num_members, curve[choice.num_members - 1], self._last("test", choice.num_members), choice.reason)

    def _last(self, part: str, count: int) -> Metrics:
        mean = torch.stack(self._members_MN[part][-count:]).mean(0)
        return measure(mean, self._parts[part][2], self._task)


@torch.inference_mode()
def _outputs(model: nn.Module, forms: JointForms, preprocessing: Preprocessing, inputs: Tensor, rows: Tensor) -> Tensor:
    """As ``network_outputs``, by a form of the network that is faster where there is one."""
    parts = []
    for some in batches(rows, batch_rows(model, preprocessing.mean.device)):
        chosen = inputs.index_select(0, some)
        form = forms.form_for(len(chosen))
        parts.append(network_outputs(model, preprocessing, chosen) if form is None else form(chosen)[0])
    return torch.cat(parts)


def measure(predicted: Tensor, targets: Tensor, task: Task) -> Metrics:
    """The metrics of probabilities, or of values in the target's unit."""
    return classification_metrics(predicted, targets) if task is Task.CLASSIFICATION else regression_metrics(predicted, targets)


def error_of(metrics: Metrics) -> float:
    """Share of wrong classes, or the root of the mean squared error."""
    return 1 - metrics["accuracy"] if "accuracy" in metrics else metrics["rmse"]
