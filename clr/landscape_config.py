"""What a measurement of the landscape is asked for, and what it costs. This module doesn't import torch."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from clr.strict_model import Float, Int, StrictModel

HESSIAN_PASSES = 13.0
"""What a product with the Hessian costs on a row, in forward passes (measured on small_cnn)."""

GRADIENT_PASSES = 3.0
"""What a gradient costs on a row, in forward passes; so does a step of training."""


MAX_PASSES = 20_000
"""For each row, of each snapshot: as much as a training of some 7000 epochs."""


class LandscapeSettings(StrictModel):
    """What to measure around the snapshots of a run, and how much of it."""

    max_rows: Int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Training rows to measure losses on, and as many for batch-norm statistics; sampled, the same ones each time.",
    )
    radius: Annotated[float, Field(strict=True, gt=0, le=10)] = Field(
        0.05, description="Of the ball, as a share of each filter's norm; at 0.1 the worst rise is many times the loss of guessing."
    )
    num_directions: Int = Field(10, ge=1, le=10_000, description="Random directions for the mean rise of the loss.")
    ascent_steps: Int = Field(8, ge=0, le=10_000, description="Gradient steps towards the worst rise.")
    num_hessian_rows: Int = Field(256, ge=1, le=1_000_000, description="Rows for the Hessian's largest eigenvalue, the first of max_rows.")
    max_iterations: Int = Field(30, ge=2, le=10_000, description="Most products with the Hessian for each snapshot.")
    alpha: Annotated[float, Field(strict=True, gt=0, le=1e6)] = Field(
        4.0, description="What the rescaling check divides weights by (1703.04933); a power of two keeps rounding out of it."
    )
    num_lambdas: Int = Field(11, ge=3, le=10_001, description="Points on the line between two snapshots, both ends included.")
    max_pairs: Int = Field(
        28,
        ge=0,
        le=1_000_000,
        description="Up to so many, all pairs of snapshots are measured (28: eight of them); else neighbours, and the first with the last.",
    )
    relative_threshold: Float = Field(
        0.1, ge=0, description="Two snapshots share a basin if the barrier between them is at most this share of their mean loss …"
    )
    absolute_threshold: Float = Field(
        0.02,
        ge=0,
        description="… or of the loss of a constant prediction, which counts where a network fits its rows so well that any share of its "
        "loss is nothing: at 0.02 a barrier costs at most 2 % of all that there is to learn.",
    )
    seed: Int = Field(0, ge=0, lt=2**63, description="Fixes the sample of rows and the random directions.")

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        passes = self.num_directions + self.ascent_steps * (GRADIENT_PASSES + 1) + self.max_iterations * HESSIAN_PASSES + self.num_lambdas
        if passes > MAX_PASSES:
            raise ValueError(
                f"num_directions + {GRADIENT_PASSES + 1:g} * ascent_steps + {HESSIAN_PASSES:g} * max_iterations + num_lambdas, what each "
                f"row costs in forward passes, must be at most {MAX_PASSES}, got {passes:g}: lower one of them"
            )
        return self


def num_pairs(num_snapshots: int, settings: LandscapeSettings) -> int:
    """Lines that are measured between so many snapshots."""
    every = num_snapshots * (num_snapshots - 1) // 2
    return every if every <= settings.max_pairs else min(every, num_snapshots)


def most_passes(settings: LandscapeSettings, *, num_snapshots: int, num_rows: int) -> float:
    """The most that a measurement computes, in forward passes of one row.

    The eigenvalues take less where they converge early, the lines half without batch norm, whose statistics take another pass.

    Args:
        settings: What to measure.
        num_snapshots: Of the run.
        num_rows: Its training rows.
    """
    rows = min(num_rows, settings.max_rows)
    hessian_rows = min(rows, settings.num_hessian_rows)
    rises = rows * (1 + settings.num_directions + settings.ascent_steps * (GRADIENT_PASSES + 1))
    eigenvalue = hessian_rows * settings.max_iterations * HESSIAN_PASSES
    points = num_pairs(num_snapshots, settings) * (settings.num_lambdas - 2) + num_snapshots
    return (num_snapshots + 1) * (rises + eigenvalue) + 2 * rows * points  # one more: the rescaled snapshot


def most_epochs(settings: LandscapeSettings, *, num_snapshots: int, num_rows: int) -> float:
    """The same in passes of training over all rows."""
    return most_passes(settings, num_snapshots=num_snapshots, num_rows=num_rows) / (GRADIENT_PASSES * num_rows)
