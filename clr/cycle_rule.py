"""What ``cycles: "auto"`` decides: whether restarts will pay, from what the run has shown so far. This module doesn't import torch.

A run with automatic cycles starts as the single cosine over its whole length. After the steps of ``look_steps`` it measures itself
and asks ``decide``; the first answer that is not None holds. A plan of one cycle leaves the run as it is, bit for bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOOK_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the run after which it is measured, ascending; at the last one ``decide`` must answer."""

SAMPLE_ROWS = 2000
"""Training rows that a look measures at most; the validation rows are measured whole."""


@dataclass(frozen=True)
class Look:
    """The network after ``step`` completed steps, in evaluation mode.

    Attributes:
        step: Completed steps.
        rate_share: The learning rate of the last step as a share of ``max_lr``.
        train_loss: On the sample of training rows: negative log-likelihood, or mean squared error of the standardised target.
        validation_loss: The same on the validation rows.
        train_error: Share of wrong classes, or the root of the mean squared error of the standardised target.
        validation_error: The same on the validation rows.
    """

    step: int
    rate_share: float
    train_loss: float
    validation_loss: float
    train_error: float
    validation_error: float


@dataclass(frozen=True)
class Evidence:
    """All that a decision may rest on.

    Attributes:
        num_steps: T, the length of the run as it is planned now.
        steps_per_epoch: Optimizer steps in one pass over the training rows.
        num_train_rows: Rows that are trained on.
        num_validation_rows: Rows of the validation set.
        looks: What was measured so far, oldest first; never empty.
        is_last: Whether this is the last look, so that an answer is due.
    """

    num_steps: int
    steps_per_epoch: int
    num_train_rows: int
    num_validation_rows: int
    looks: tuple[Look, ...]
    is_last: bool


@dataclass(frozen=True)
class CyclePlan:
    """The cycles of the whole run.

    Attributes:
        cycle_ends: Exclusive ends, the first one after the last look's step, the last one ``num_steps``; ``(num_steps,)`` is the
            single cosine.
        peaks: The rate at which each cycle starts as a share of ``max_lr``; the first is 1.
        reason: Why, in words, with the figures it rests on.
    """

    cycle_ends: tuple[int, ...]
    peaks: tuple[float, ...]
    reason: str


@dataclass(frozen=True)
class MemberChoice:
    """How many of the last members the ensemble takes, and why."""

    num_members: int
    reason: str


def look_steps(num_steps: int) -> tuple[int, ...]:
    """The completed steps after which a run of ``num_steps`` is measured; for a very short run some coincide."""
    return tuple(max(1, math.floor(share * num_steps)) for share in LOOK_SHARES)


MEMORISED = 1.75
"""A validation loss this many times the training loss says that the network has begun to learn rows by heart."""

FINISH_SHARE = 0.1
"""Of the run: the rest of the first annealing, once it is known that restarts will pay."""

MAX_RESTARTS = 4
"""So that there are five members, the middle of the paper's 4 to 8 (1704.00109, section 4)."""

LEAST_CYCLE_STEPS = 10
"""Of a cycle after a restart, beside one epoch; shorter ones end above the minimum."""


def decide(evidence: Evidence) -> CyclePlan | None:
    """The cycles of the run, or None to look again later; never None at the last look.

    The run stays the single cosine until a look finds a validation loss above 1.75 times the training loss. Then the first annealing
    is completed within a tenth of the run, and four equal cycles from ``max_lr`` share the rest. ``docs/decisions/auto-cycles.md`` has
    the measurements behind this.
    """
    look, num_steps = evidence.looks[-1], evidence.num_steps
    losses = f"after step {look.step} the training loss is {look.train_loss:.3g}, the validation loss {look.validation_loss:.3g}"
    if not look.validation_loss > MEMORISED * look.train_loss:
        if not evidence.is_last:
            return None
        return CyclePlan((num_steps,), (1.0,), f"{losses}: the network still learns from every pass, so a restart would cost more")
    first = look.step + math.ceil(FINISH_SHARE * num_steps)
    restarts = min(MAX_RESTARTS, (num_steps - first) // max(evidence.steps_per_epoch, LEAST_CYCLE_STEPS))
    if restarts < 1:
        return CyclePlan((num_steps,), (1.0,), f"{losses}, but the run is too short for a restart of an epoch")
    ends = (first, *(first + (num_steps - first) * (j + 1) // restarts for j in range(restarts)))
    return CyclePlan(ends, (1.0,) * len(ends), f"{losses}: the network fits rows that it has seen, so averaging over restarts pays")


def choose_members(losses: Sequence[float], errors: Sequence[float]) -> MemberChoice:
    """How many of the last members to average, by validation.

    Args:
        losses: Validation loss of the mean over the last 1, 2, … members.
        errors: Validation error of the same.
    """
    chosen = min(range(len(losses)), key=lambda index: (losses[index], errors[index]))
    if len(losses) == 1:
        return MemberChoice(1, "the run has one member")
    return MemberChoice(
        chosen + 1, f"the last {chosen + 1} of {len(losses)} members have the lowest validation loss together, {losses[chosen]:.4g}"
    )
