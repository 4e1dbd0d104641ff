"""The ensemble: the mean prediction of snapshots, and how far its members agree.

Shapes: M members, B rows, C classes. The member axis comes first and is never folded into the batch.
"""

# ruff: noqa: N815  # fields carry their shapes

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clr.ensemble_forms import JointForms
from clr.errors import EnsembleError, InputError
from clr.inference import BATCH_ROWS, network_outputs, predictions
from clr.joint_form import Member
from clr.preprocessing import Preprocessing
from clr.snapshots import Snapshot, load_snapshot
from clr.tables import Column
from clr.targets import Task

__all__ = ["Ensemble", "EnsembleError", "EnsemblePrediction", "InputError", "RegressionPrediction"]

STACKED_VALUES = 1_000_000
"""Probabilities that are combined all at once, in float64."""

MODULE_BYTES = 4096
"""What a module takes beside its weights, measured as 1,300 to 3,300 bytes: of tiny networks it is nearly all."""


@dataclass(frozen=True, eq=False)
class EnsemblePrediction:
    """Classes with their probabilities and uncertainty; float32 but for the int64 labels, on the CPU.

    Attributes:
        probs_BC: Mean of the members' probabilities (1704.00109, section 3).
        labels_B: The most probable class; ties go to the lowest index.
        entropy_B: Of the mean, in nats: all uncertainty.
        mutual_information_B: Entropy of the mean minus mean entropy, >= 0: what the members disagree about.
        agreement_B: Share of members that choose the ensemble's class.
        member_probs_MBC: Each member's probabilities; None where nobody asked for them, since they take M times the memory.
    """

    probs_BC: Tensor
    labels_B: Tensor
    entropy_B: Tensor
    mutual_information_B: Tensor
    agreement_B: Tensor
    member_probs_MBC: Tensor | None

    def __len__(self) -> int:
        return len(self.probs_BC)

    def part(self, start: int, end: int) -> "EnsemblePrediction":
        """The rows from ``start`` to before ``end``; views, not copies."""
        members_MBC = self.member_probs_MBC
        return EnsemblePrediction(
            self.probs_BC[start:end],
            self.labels_B[start:end],
            self.entropy_B[start:end],
            self.mutual_information_B[start:end],
            self.agreement_B[start:end],
            None if members_MBC is None else members_MBC[:, start:end],
        )


@dataclass(frozen=True, eq=False)
class RegressionPrediction:
    """Values with the spread of the members, float32, in the target's unit.

    Attributes:
        value_B: Mean of the members.
        std_B: Their population standard deviation; 0 for one member.
        member_values_MB: Each member's values.
    """

    value_B: Tensor
    std_B: Tensor
    member_values_MB: Tensor

    def __len__(self) -> int:
        return len(self.value_B)

    def part(self, start: int, end: int) -> "RegressionPrediction":
        """The rows from ``start`` to before ``end``; views, not copies."""
        return RegressionPrediction(self.value_B[start:end], self.std_B[start:end], self.member_values_MB[:, start:end])


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

    def predict(self, inputs: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Mean probabilities (B, C), or mean values (B,) in the target's unit; float32 on the CPU.

        Raises:
            InputError: Rows of another shape, not numbers, or not finite.
        """
        rows = self.checked(inputs)
        if self.task is Task.REGRESSION:
            return combine_values(self._member_predictions(rows)).value_B
        means = [mean_probabilities(self._batch_predictions(batch)) for batch in _batches(rows)]
        return means[0] if len(means) == 1 else torch.cat(means)

    def member_probabilities(self, inputs: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Each member's probabilities (M, B, C), float32 on the CPU. Raises ``InputError`` as ``predict``."""
        self._require(Task.CLASSIFICATION)
        return self._member_predictions(self.checked(inputs))

    def member_values(self, inputs: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Each member's values (M, B), float32 on the CPU. Raises ``InputError`` as ``predict``."""
        self._require(Task.REGRESSION)
        return self._member_predictions(self.checked(inputs))

    def predict_with_uncertainty(
        self, inputs: np.ndarray[Any, Any] | Tensor, *, with_members: bool = False
    ) -> EnsemblePrediction | RegressionPrediction:
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
        return _joined([combine_probabilities(self._batch_predictions(batch), with_members=with_members) for batch in _batches(rows)])

    def _member_outputs(self, rows: Tensor) -> Tensor:
        """Raw outputs (M, B, C), one member after the other."""
        return torch.stack([network_outputs(network, preprocessing, rows) for network, preprocessing in self._members])

    def _member_predictions(self, rows: Tensor) -> Tensor:
        """Probabilities (M, B, C) or values (M, B)."""
        batches = [self._batch_predictions(batch) for batch in _batches(rows)]
        return torch.cat([each if isinstance(each, Tensor) else torch.stack(list(each)) for each in batches], dim=1)

    @torch.inference_mode()
    def _batch_predictions(self, rows: Tensor) -> Tensor | Iterator[Tensor]:
        """The same for at most ``BATCH_ROWS`` rows, or of one member after the other."""
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

    def checked(self, inputs: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """The rows as uint8 or finite float32. Raises ``InputError`` as ``predict``."""
        if tuple(inputs.shape[1:]) != self.input_shape or inputs.ndim == 0 or len(inputs) == 0:
            expected = f"(rows, {', '.join(str(size) for size in self.input_shape)})"
            raise InputError(f"inputs must have the shape {expected} with at least one row, got {tuple(inputs.shape)}: reshape them")
        rows: Tensor = _as_tensor(inputs) if isinstance(inputs, np.ndarray) else inputs
        if rows.dtype == torch.uint8:
            return rows
        rows = rows.float()
        finite = np.isfinite(rows.detach().cpu().numpy())  # a tenth of the time that torch takes for a row
        if not finite.all():
            row = int(finite.reshape(len(rows), -1).all(1).argmin())
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


def _batches(rows: Tensor) -> Sequence[Tensor]:
    return (rows,) if len(rows) <= BATCH_ROWS else torch.split(rows, BATCH_ROWS)


def _as_tensor(inputs: np.ndarray[Any, Any]) -> Tensor:
    """Numbers as uint8 or float32, in memory of the tensor's own where torch needs that."""
    if inputs.dtype.kind not in "biuf":
        raise InputError(f"inputs must hold numbers, got {inputs.dtype}: convert them with .astype('float32')")
    if inputs.dtype.kind == "f" and inputs.dtype.itemsize > np.dtype(np.float32).itemsize:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            inputs = inputs.astype(np.float32)
    elif inputs.dtype != np.uint8:
        inputs = inputs.astype(np.float32, copy=False)
    return torch.from_numpy(inputs if inputs.flags.carray else inputs.copy())


def mean_probabilities(member_probs: Tensor | Iterable[Tensor]) -> Tensor:
    """``combine_probabilities``' mean (B, C) bit for bit, without the time that the uncertainty takes."""
    if isinstance(member_probs, Tensor) and member_probs.numel() <= STACKED_VALUES:
        return member_probs.double().mean(0).float()
    sum_BC, num_members = torch.zeros((), dtype=torch.float64), 0
    for probs_BC in member_probs:
        sum_BC, num_members = sum_BC + probs_BC.double(), num_members + 1
    return (sum_BC / num_members).float()


def combine_probabilities(member_probs: Tensor | Iterable[Tensor], *, with_members: bool = False) -> EnsemblePrediction:
    """The mean of the members' probabilities, with its uncertainty measured in float64.

    Args:
        member_probs: (M, B, C), or (B, C) of each member, taken one after the other where all together would take too much memory.
        with_members: Whether to keep them.
    """
    if isinstance(member_probs, Tensor) and member_probs.numel() <= STACKED_VALUES:
        return _combine_stacked(member_probs, with_members=with_members)
    sum_BC = entropies_B = torch.zeros((), dtype=torch.float64)
    choices: list[Tensor] = []
    kept: list[Tensor] = []
    for probs_BC in member_probs:
        members_BC = probs_BC.double()
        sum_BC, entropies_B = sum_BC + members_BC, entropies_B + _entropy(members_BC)
        choices.append(probs_BC.argmax(1))
        if with_members:
            kept.append(probs_BC)
    mean_BC = sum_BC / len(choices)
    entropy_B = _entropy(mean_BC)
    mutual_information_B = (entropy_B - entropies_B / len(choices)).clamp_min(0)  # rounding may leave -1e-17
    labels_B = mean_BC.float().argmax(1)  # as shown: what is equal in float32 goes to the lowest index
    agreement_B = (torch.stack(choices) == labels_B).double().mean(0)
    return EnsemblePrediction(
        mean_BC.float(),
        labels_B,
        entropy_B.float(),
        mutual_information_B.float(),
        agreement_B.float(),
        torch.stack(kept) if with_members else None,
    )


def _combine_stacked(probs_MBC: Tensor, *, with_members: bool) -> EnsemblePrediction:
    """The same for all members at once, in few operations: of small batches these are the larger part."""
    members_MBC = probs_MBC.double()
    mean_BC = members_MBC.mean(0)
    entropies_B = _entropy(torch.cat((mean_BC[None], members_MBC)))
    entropy_B = entropies_B[0]
    mean_float_BC = mean_BC.float()
    labels_B = mean_float_BC.argmax(1)
    measures = torch.stack((entropy_B, (entropy_B - entropies_B[1:].mean(0)).clamp_min_(0))).float()
    agreement_B = (probs_MBC.argmax(2) == labels_B).float().mean(0)
    return EnsemblePrediction(mean_float_BC, labels_B, measures[0], measures[1], agreement_B, probs_MBC if with_members else None)


def _joined(parts: Sequence[EnsemblePrediction]) -> EnsemblePrediction:
    """The predictions of consecutive rows as one."""
    if len(parts) == 1:
        return parts[0]
    members = [part.member_probs_MBC for part in parts if part.member_probs_MBC is not None]
    return EnsemblePrediction(
        torch.cat([part.probs_BC for part in parts]),
        torch.cat([part.labels_B for part in parts]),
        torch.cat([part.entropy_B for part in parts]),
        torch.cat([part.mutual_information_B for part in parts]),
        torch.cat([part.agreement_B for part in parts]),
        torch.cat(members, dim=1) if members else None,
    )


def combine_values(member_values_MB: Tensor) -> RegressionPrediction:
    """The mean of the members' values, with their spread."""
    return RegressionPrediction(member_values_MB.mean(0), member_values_MB.std(0, correction=0), member_values_MB)


def _entropy(probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis; 0 ln 0 is 0."""
    entropy: Tensor = torch.special.entr(probs).sum(-1)
    return entropy
