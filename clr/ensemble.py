"""The ensemble: snapshots of one task that predict together.

Shapes: M members, B rows, C classes. The member axis comes first and is never folded into the batch.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clr.combination import (
    EnsemblePrediction,
    RegressionPrediction,
    combine_probabilities,
    combine_values,
    joined,
    mean_probabilities,
)
from clr.ensemble_forms import JointForms
from clr.errors import EnsembleError, InputError
from clr.inference import batch_rows, batches, network_outputs, predictions
from clr.joint_form import Member
from clr.preprocessing import Preprocessing
from clr.snapshots import Snapshot, load_snapshot
from clr.tables import Column
from clr.targets import Task

Array = np.ndarray[Any, Any]

__all__ = ["Ensemble", "EnsembleError", "EnsemblePrediction", "InputError", "RegressionPrediction"]

SUMMED_VALUES = 10_000
"""Numbers up to which a product of vectors stays on one thread."""

MODULE_BYTES = 4096
"""What a module takes beside its weights, measured as 1,300 to 3,300 bytes: of tiny networks it is nearly all."""


class Ensemble:
    """Snapshots of one task, ready to predict. Safe to call from several threads: nothing changes after construction."""

    def __init__(self, snapshots: Sequence[Snapshot], *, device: str = "cpu") -> None:
        """Puts copies of the weights on ``device``.

        Raises:
            EnsembleError: No snapshots, or such that differ in task, classes, columns or the shape of a row.
        """
        if not snapshots:
            raise EnsembleError("an ensemble needs at least one snapshot, got none: wait for the first cycle to end")
        first = snapshots[0]
        for snapshot in snapshots[1:]:
            for name in ("task", "input_shape", "class_names", "columns"):
                if getattr(snapshot, name) != getattr(first, name):
                    raise EnsembleError(
                        f"members must agree in {name}, got {getattr(first, name)!s:.200} and {getattr(snapshot, name)!s:.200}: "
                        "combine snapshots of one dataset"
                    )
        target = torch.device(device)
        self.task: Task = first.task
        self.input_shape: tuple[int, ...] = first.input_shape
        self.class_names: tuple[str, ...] = first.class_names
        self.columns: tuple[Column, ...] = first.columns
        self._device = target
        self._members = _with_shared_preprocessing([(each.build_network(target), each.preprocessing.to(target)) for each in snapshots])
        self._joint = JointForms(
            self._members, self._member_outputs, input_shape=self.input_shape, is_classification=self.task is Task.CLASSIFICATION
        )
        self._batch_rows = min(batch_rows(network, target) for network, _ in self._members)
        num_modules = sum(1 for network, _ in self._members for _ in network.modules())
        weight_bytes = sum(snapshot.size_bytes for snapshot in snapshots)
        self.size_bytes: int = (1 + self._joint.num_copies) * weight_bytes + MODULE_BYTES * num_modules
        """Memory that it takes, for those who keep ensembles within a bound."""

    @classmethod
    def load(cls, paths: Sequence[Path | str], *, device: str = "cpu") -> "Ensemble":
        """The ensemble of the snapshots in the files ``paths``.

        Raises:
            SnapshotError: A file is damaged.
            EnsembleError: The snapshots do not belong together.
        """
        return cls([load_snapshot(path) for path in paths], device=device)

    @property
    def num_members(self) -> int:
        """M."""
        return len(self._members)

    def predict(self, inputs: Array | Tensor) -> Tensor:
        """Mean probabilities (B, C), or mean values (B,) in the target's unit; float32 on the CPU.

        Raises:
            InputError: Rows of another shape, not numbers, or not finite.
        """
        rows = self.checked(inputs)
        if self.task is Task.REGRESSION:
            return combine_values(self._member_predictions(rows)).value_B
        means = [mean_probabilities(self._batch_predictions(batch)) for batch in batches(rows, self._batch_rows)]
        return means[0] if len(means) == 1 else torch.cat(means)

    def member_probabilities(self, inputs: Array | Tensor) -> Tensor:
        """Each member's probabilities (M, B, C), float32 on the CPU. Raises ``InputError`` as ``predict``."""
        self._require(Task.CLASSIFICATION)
        return self._member_predictions(self.checked(inputs))

    def member_values(self, inputs: Array | Tensor) -> Tensor:
        """Each member's values (M, B), float32 on the CPU. Raises ``InputError`` as ``predict``."""
        self._require(Task.REGRESSION)
        return self._member_predictions(self.checked(inputs))

    def predict_with_uncertainty(self, inputs: Array | Tensor, *, with_members: bool = False) -> EnsemblePrediction | RegressionPrediction:
        """The mean with its uncertainty. Raises ``InputError`` as ``predict``.

        Args:
            inputs: Rows as the training data holds them.
            with_members: Whether to keep each member's probabilities. The values of a regression, one a row, are always kept.
        """
        return self.predict_checked(self.checked(inputs), with_members=with_members)

    def predict_checked(self, rows: Tensor, *, with_members: bool = False) -> EnsemblePrediction | RegressionPrediction:
        """As ``predict_with_uncertainty``, for rows that ``checked`` has passed."""
        if self.task is Task.REGRESSION:
            return combine_values(self._member_predictions(rows))
        # In batches, so that the members' float64 probabilities of all rows are never in memory together.
        each_batch = (self._batch_predictions(batch) for batch in batches(rows, self._batch_rows))
        return joined([combine_probabilities(member_probs, with_members=with_members) for member_probs in each_batch])

    def _member_outputs(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C), one member after the other."""
        return torch.stack([network_outputs(network, preprocessing, rows) for network, preprocessing in self._members])

    def _member_predictions(self, rows: Tensor) -> Tensor:
        """Probabilities (M, B, C) or values (M, B)."""
        of_batches = [self._batch_predictions(batch) for batch in batches(rows, self._batch_rows)]
        return torch.cat([each if isinstance(each, Tensor) else torch.stack(list(each)) for each in of_batches], dim=1)

    @torch.inference_mode()
    def _batch_predictions(self, rows: Tensor) -> Tensor | Iterator[Tensor]:
        """The same for the rows of one batch, or of one member after the other."""
        form = self._joint.form_for(len(rows))
        if form is None:
            return self._each_member(rows)
        outputs_MBC = form(rows)
        if self.task is Task.CLASSIFICATION:
            return outputs_MBC.softmax(2)
        each = zip(outputs_MBC, self._members, strict=True)
        return torch.stack([predictions(outputs_BC, self.task, preprocessing) for outputs_BC, (_, preprocessing) in each])

    @torch.inference_mode()
    def _each_member(self, rows: Tensor) -> Iterator[Tensor]:
        """As ``network_outputs`` of one member after the other; rows are prepared once for all that take them alike."""
        on_device, prepared, prepared_by = rows.to(self._device), rows, None
        for network, preprocessing in self._members:
            if preprocessing is not prepared_by:
                prepared, prepared_by = preprocessing(on_device), preprocessing
            yield predictions(network(prepared).float().cpu(), self.task, preprocessing)

    def checked(self, inputs: Array | Tensor) -> Tensor:
        """The rows as uint8 or finite float32. Raises ``InputError`` as ``predict``."""
        if inputs.shape[1:] != self.input_shape or inputs.ndim == 0 or len(inputs) == 0:
            expected = f"(rows, {', '.join(str(size) for size in self.input_shape)})"
            raise InputError(f"inputs must have the shape {expected} with at least one row, got {tuple(inputs.shape)}: reshape them")
        if isinstance(inputs, np.ndarray):
            array = _as_numbers(inputs)
            rows = torch.from_numpy(array if array.flags.carray else array.copy())
        elif inputs.dtype == torch.uint8:
            return inputs
        else:
            rows = inputs.float()
            array = rows.detach().cpu().numpy()
        if array.dtype != np.uint8 and not _is_finite(array):
            row = int(np.isfinite(array).reshape(len(array), -1).all(1).argmin())
            raise InputError(f"inputs must be finite numbers within float32, got NaN, infinity or larger in row {row}: leave the row out")
        return rows

    def _require(self, task: Task) -> None:
        if self.task is not task:
            raise EnsembleError(f"this needs an ensemble for {task.value}, got one for {self.task.value}: use predict")


def _with_shared_preprocessing(members: Sequence[Member]) -> list[Member]:
    """The same members; those that prepare rows alike share one object for it."""
    kept: list[Preprocessing] = []
    shared: list[Member] = []
    for network, preprocessing in members:
        same = next((each for each in kept if each.is_equal(preprocessing)), preprocessing)
        if same is preprocessing:
            kept.append(same)
        shared.append((network, same))
    return shared


def _as_numbers(inputs: Array) -> Array:
    """Numbers as uint8 or float32."""
    if inputs.dtype.kind not in "biuf":
        raise InputError(f"inputs must hold numbers, got {inputs.dtype}: convert them with .astype('float32')")
    if inputs.dtype.kind == "f" and inputs.dtype.itemsize > np.dtype(np.float32).itemsize:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            return inputs.astype(np.float32)
    return inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32, copy=False)


def _is_finite(array: Array) -> bool:
    """Whether all of it is. Of few numbers the sum of squares tells it soonest, unless it is too large itself."""
    return (array.size <= SUMMED_VALUES and math.isfinite(np.vdot(array, array))) or bool(np.isfinite(array).all())
