"""What the members of an ensemble say together: their mean, and how far they agree.

Shapes: M members, B rows, C classes. The member axis comes first and is never folded into the batch.
"""

# ruff: noqa: N815  # fields carry their shapes

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STACKED_VALUES = 1_000_000
"""Probabilities that are combined all at once, in float64."""


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


def joined(parts: Sequence[EnsemblePrediction]) -> EnsemblePrediction:
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
