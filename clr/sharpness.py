"""How sharp a minimum is: the loss rise in a filter-normalised ball, and the largest eigenvalue of the Hessian.

The ball of radius r (1712.09913, section 4): every filter may move by r times its own norm. A filter is what makes one output of a
layer: a row of a linear layer's weights, an output channel of a convolution's. Biases and batch-norm parameters do not move.
Neither measure is a property of the function alone (1703.04933): see ``clr.rescaling``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clr.loss_surface import LossSurface, Weights
from clr.randomness import generator

QUOTIENT_TOLERANCE = 1e-3
"""Power iteration has converged once the Rayleigh quotient changes by no more than this share of itself …"""

RESIDUAL_TOLERANCE = 0.1
"""… and the residual is at most this share of it: without it, a quotient that pauses on its way up would pass."""


@dataclass(frozen=True)
class BallRises:
    """How far the loss rises in the ball; not finite where the loss itself is not.

    Attributes:
        mean: Over random directions, at the ball's edge; may be negative away from a minimum.
        largest_sampled: Over the same directions.
        worst: The most that gradient ascent found in the ball; never below ``largest_sampled`` or 0.
    """

    mean: float
    largest_sampled: float
    worst: float


@dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue that power iteration found.

    Attributes:
        value: The Rayleigh quotient of the last vector; for a symmetric matrix its error is of second order in the vector's.
        residual: |Hv - value v| for the unit vector v: a true eigenvalue is at most so far away.
        iterations: Products with the matrix.
        is_converged: Whether the quotient and the residual met the tolerances.
    """

    value: float
    residual: float
    iterations: int
    is_converged: bool


@dataclass(frozen=True)
class Sharpness:
    """One snapshot's loss on the rows, its rises in the ball, and its Hessian's largest eigenvalue."""

    loss: float
    rises: BallRises
    eigenvalue: Eigenvalue


def ball_rises(surface: LossSurface, *, radius: float, num_directions: int, ascent_steps: int, seed: int) -> BallRises:
    """Mean rise over random filter-normalised directions, and the worst by projected gradient ascent from the worst of them.

    The directions are a function of the seed, the same for each network of one architecture, so that two can be compared.
    """
    weights = surface.weights
    centre = surface.loss(weights)
    if not math.isfinite(centre):
        return BallRises(math.nan, math.nan, math.nan)
    rises, start, largest = [], None, -math.inf
    for index in range(num_directions):
        step = _scaled(random_direction(weights, generator(seed, "landscape direction", index)), radius)
        rises.append(_rise(surface.loss(_moved(weights, step)), centre))
        if start is None or rises[-1] > largest:
            start, largest = step, rises[-1]
    assert start is not None
    worst = max(0.0, largest)  # the centre belongs to the ball
    for _ in range(ascent_steps):
        start = _ascend(surface, start, radius)
        worst = max(worst, _rise(surface.loss(_moved(weights, start)), centre))
    return BallRises(sum(rises) / num_directions, largest, worst)


def random_direction(weights: Weights, draws: torch.Generator) -> Weights:
    """A Gaussian direction, each filter scaled to the norm of the filter it moves (1712.09913, section 4)."""
    return {
        name: _with_norms(torch.randn(weight.shape, generator=draws).to(weight), filter_norms(weight))
        for name, weight in weights.items()
        if weight.ndim > 1
    }


def filter_norms(weight: Tensor) -> Tensor:
    """The Euclidean norm of each filter, shaped to multiply ``weight``."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms.view(-1, *[1] * (weight.ndim - 1))


def hessian_eigenvalue(surface: LossSurface, *, max_iterations: int, seed: int) -> Eigenvalue:
    """The largest eigenvalue of the loss' Hessian over all parameters, batch-norm statistics fixed."""
    draws = generator(seed, "landscape eigenvector")
    start = {name: torch.randn(weight.shape, generator=draws).to(weight) for name, weight in surface.weights.items()}
    return largest_eigenvalue(surface.hessian_product, start, max_iterations=max_iterations)


def largest_eigenvalue(product: Callable[[Weights], Weights], start: Weights, *, max_iterations: int) -> Eigenvalue:
    """The largest (not the largest absolute) eigenvalue of a symmetric matrix, by power iteration.

    Power iteration finds the eigenvalue largest in size. Where that is negative, it goes on with the matrix plus its absolute
    value times the identity, whose eigenvalue largest in size belongs to the largest of the matrix.

    Args:
        product: The matrix times a vector.
        start: Any vector that is not orthogonal to the eigenvector.
        max_iterations: Products to spend, at least 2.
    """
    found = _power_iteration(product, start, 0.0, max_iterations)
    if found.value >= 0 or not found.is_converged:
        return found
    shifted = _power_iteration(product, start, -found.value, max(1, max_iterations - found.iterations))
    return replace(shifted, iterations=found.iterations + shifted.iterations)


def _power_iteration(product: Callable[[Weights], Weights], start: Weights, shift: float, max_iterations: int) -> Eigenvalue:
    """The eigenvalue of the matrix that is the largest in size after adding ``shift`` to all."""
    vector, previous, quotient, residual = _scaled(start, 1 / _norm(start)), math.inf, math.nan, math.nan
    for iteration in range(1, max_iterations + 1):
        image = product(vector)
        quotient = _dot(vector, image)
        residual = _norm(_moved(image, _scaled(vector, -quotient)))
        if not math.isfinite(residual):
            return Eigenvalue(math.nan, math.nan, iteration, is_converged=False)
        size = abs(quotient) + shift
        following = _moved(image, _scaled(vector, shift))
        length = _norm(following)
        is_null = length == 0  # only for a vector in the null space of the shifted matrix, and a random one is there only if all are
        if is_null or (abs(quotient - previous) <= QUOTIENT_TOLERANCE * size and residual <= RESIDUAL_TOLERANCE * size):
            return Eigenvalue(quotient, residual, iteration, is_converged=True)
        previous, vector = quotient, _scaled(following, 1 / length)
    return Eigenvalue(quotient, residual, max_iterations, is_converged=False)


def _ascend(surface: LossSurface, step: Weights, radius: float) -> Weights:
    """One step of length ``radius`` in each filter along its gradient, projected back onto the ball."""
    gradient = surface.gradient(_moved(surface.weights, step))
    ascended = {}
    for name, moved in step.items():
        limits = radius * filter_norms(surface.weights[name])
        target = moved + _with_norms(gradient[name], limits)
        ascended[name] = _with_norms(target, torch.minimum(limits, filter_norms(target)))
    return ascended


def _with_norms(direction: Tensor, norms: Tensor) -> Tensor:
    """Each filter of ``direction`` scaled to its norm; zero stays zero."""
    own = filter_norms(direction)
    return direction * torch.where(own > 0, norms / own, torch.zeros_like(own))


def _rise(loss: float, centre: float) -> float:
    """A loss that overflowed counts as an infinite rise."""
    return math.inf if math.isnan(loss) else loss - centre


def _moved(weights: Weights, step: Weights) -> Weights:
    return {name: tensor + step[name] if name in step else tensor for name, tensor in weights.items()}


def _scaled(weights: Weights, factor: float) -> Weights:
    return {name: tensor * factor for name, tensor in weights.items()}


def _dot(first: Weights, second: Weights) -> float:
    return torch.stack([(tensor * second[name]).sum() for name, tensor in first.items()]).sum().item()


def _norm(weights: Weights) -> float:
    return math.sqrt(_dot(weights, weights))
