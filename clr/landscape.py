"""The landscape around the snapshots of a run: how sharp their minima are, which share a basin, how different they are.

Cost, with M snapshots, P pairs and N rows, in passes over the N rows: M (1 + ``num_directions`` + about 4 ``ascent_steps``) for the
rises, P (``num_lambdas`` - 2) + M for the lines (twice that with batch norm), and about 13 per product with the Hessian on
``num_hessian_rows`` rows, M times up to ``max_iterations``; the rescaling check measures one more snapshot.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from clr.basins import BasinMap, Line, PointLoss, chosen_pairs, interpolate, map_basins, point_loss
from clr.diversity import Diversity, classification_diversity, regression_diversity
from clr.errors import EnsembleError, InputError
from clr.inference import network_outputs, predictions
from clr.loss_surface import LossSurface, Rows
from clr.randomness import generator
from clr.rescaling import RescalingCheck, check_rescaling
from clr.sharpness import Sharpness, ball_rises, hessian_eigenvalue
from clr.snapshots import Snapshot
from clr.targets import Task

Result = TypeVar("Result")


class LandscapeError(ValueError):
    """A setting of the measurement is out of its bounds."""


@dataclass(frozen=True)
class LandscapeSettings:
    """What to measure, and how much of it.

    Attributes:
        max_rows: Rows to measure on, and training rows for batch-norm statistics; more are sampled, the same ones each time.
        radius: Of the ball, as a share of each filter's norm (0.05: at 0.1 the worst rise is many times the loss of guessing).
        num_directions: Random directions for the mean rise.
        ascent_steps: Gradient steps towards the worst rise.
        num_hessian_rows: Rows for the Hessian's eigenvalue, the first of those above.
        max_iterations: Products with the Hessian per snapshot, at least 2.
        alpha: What the rescaling check divides weights by; a power of two keeps rounding out of it.
        num_lambdas: Points on a line, both ends included.
        max_pairs: Up to so many, all pairs are measured (28: eight snapshots); beyond, neighbours and the first with the last.
        relative_threshold: Two snapshots share a basin if the barrier is at most this share of their mean loss …
        absolute_threshold: … or of the loss of a constant prediction. The second counts where a network fits its rows so well that
            any share of its loss is nothing: at 0.02 a barrier costs at most 2 % of all that there is to learn.
        seed: Of the sample and the random directions.
    """

    max_rows: int = 2048
    radius: float = 0.05
    num_directions: int = 10
    ascent_steps: int = 8
    num_hessian_rows: int = 512
    max_iterations: int = 50
    alpha: float = 4.0
    num_lambdas: int = 11
    max_pairs: int = 28
    relative_threshold: float = 0.1
    absolute_threshold: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be measured.

        Raises:
            LandscapeError: A setting below its least value.
        """
        least = {"max_rows": 1, "num_directions": 1, "ascent_steps": 0, "num_hessian_rows": 1, "max_iterations": 2, "num_lambdas": 3}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise LandscapeError(f"{name} must be at least {bound}, got {getattr(self, name)}: raise it")
        for name in ("radius", "alpha"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise LandscapeError(f"{name} must be finite and above 0, got {getattr(self, name)}: take the default")
        for name in ("max_pairs", "relative_threshold", "absolute_threshold"):
            if not getattr(self, name) >= 0:
                raise LandscapeError(f"{name} must be at least 0, got {getattr(self, name)}: take the default")


@dataclass(frozen=True)
class SnapshotSharpness:
    """One snapshot's place in the run, and its sharpness."""

    cycle: int
    step: int
    is_minimum: bool
    sharpness: Sharpness


@dataclass(frozen=True)
class LandscapeReport:
    """All that was measured. Losses are cross-entropies in nats, or squared errors in units of the first snapshot's target variance.

    Attributes:
        settings: What was asked for.
        num_rows: Rows the losses were measured on.
        num_hessian_rows: Rows the eigenvalues were measured on.
        snapshots: The sharpness of each, with the batch-norm statistics it was saved with.
        rescaling: The check on the last snapshot; None where its network has nothing to rescale.
        rescaling_note: Its verdict, or why there is none.
        basins: Barriers between the snapshots, with batch-norm statistics estimated anew.
        diversity: On the held-out rows if they were given, else on the same rows as the losses.
        is_diversity_held_out: Which of the two.
    """

    settings: LandscapeSettings
    num_rows: int
    num_hessian_rows: int
    snapshots: tuple[SnapshotSharpness, ...]
    rescaling: RescalingCheck | None
    rescaling_note: str
    basins: BasinMap
    diversity: Diversity
    is_diversity_held_out: bool

    def to_document(self) -> dict[str, Any]:
        """The report as JSON-able values; numbers that are not finite become null."""
        document = asdict(self)
        for line, entry in zip(self.basins.lines, document["basins"]["lines"], strict=True):
            entry |= {"barrier": line.barrier, "is_one_basin": line.is_one_basin}
        plain: dict[str, Any] = _plain(document)
        return plain


def measure_landscape(
    snapshots: Sequence[Snapshot],
    inputs: Tensor,
    targets: Tensor,
    train_inputs: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    settings: LandscapeSettings | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> LandscapeReport:
    """Measures sharpness, basins and diversity of snapshots of one architecture.

    Args:
        snapshots: In the order of the run.
        inputs: Rows to measure losses on, as the data set holds them; training rows, for minima are minima of the training loss.
        targets: Theirs: class indices, or values in their own unit.
        train_inputs: Training rows to estimate batch-norm statistics on.
        held_out: Inputs and targets for the diversity; all rows are used. None: ``inputs`` and ``targets``.
        settings: None: the defaults.
        device: To compute on. The result is the same on each but for rounding.
        on_progress: Called with parts done and parts in all after each part; an exception from it ends the measurement.

    Raises:
        EnsembleError: No snapshots, or such that differ in architecture, task, classes or the shape of a row.
        InputError: Rows and targets that do not fit each other or the snapshots.
    """
    chosen, target = settings or LandscapeSettings(), torch.device(device)
    _check(snapshots, inputs, targets, train_inputs, held_out)
    rows = _sample(Rows(inputs, targets, snapshots[0].task, snapshots[0].preprocessing.target_std), chosen)
    train_sample = train_inputs[_sampled(len(train_inputs), chosen, "landscape training rows")]
    constant_loss, pairs = rows.constant_loss(), chosen_pairs(len(snapshots), chosen.max_pairs)
    ticks = _Ticks(len(snapshots) * 2 + len(pairs) + 1, on_progress)

    def sharpness(snapshot: Snapshot) -> Sharpness:
        return _sharpness(snapshot, rows, chosen, target)

    def point(snapshot: Snapshot) -> PointLoss:
        return point_loss(snapshot, rows, train_sample, target)

    measured = [ticks.after(sharpness(snapshot)) for snapshot in snapshots]
    check = ticks.after(check_rescaling(snapshots[-1], rows.inputs, measured[-1], sharpness, alpha=chosen.alpha, device=target))
    ends = [ticks.after(point(snapshot)) for snapshot in snapshots]
    lines = [ticks.after(_line(snapshots, ends, pair, point, settings=chosen, constant_loss=constant_loss)) for pair in pairs]
    return LandscapeReport(
        settings=chosen,
        num_rows=len(rows),
        num_hessian_rows=min(len(rows), chosen.num_hessian_rows),
        snapshots=tuple(SnapshotSharpness(s.cycle, s.step, s.is_minimum, one) for s, one in zip(snapshots, measured, strict=True)),
        rescaling=check,
        rescaling_note=check.verdict if check else "no verdict: the network has no two layers between which weights can be rescaled",
        basins=map_basins(ends, lines, constant_loss),
        diversity=_diversity(snapshots, *(held_out or (rows.inputs, rows.targets)), target),
        is_diversity_held_out=held_out is not None,
    )


@dataclass
class _Ticks:
    """Counts the parts of a measurement and tells the caller."""

    total: int
    on_progress: Callable[[int, int], None] | None
    done: int = 0

    def after(self, result: Result) -> Result:
        """Counts the part that ``result`` was, and hands it on."""
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)
        return result


def _sharpness(snapshot: Snapshot, rows: Rows, settings: LandscapeSettings, device: torch.device) -> Sharpness:
    surface = LossSurface(snapshot, rows, device)
    rises = ball_rises(
        surface, radius=settings.radius, num_directions=settings.num_directions, ascent_steps=settings.ascent_steps, seed=settings.seed
    )
    few = LossSurface(snapshot, rows.first(settings.num_hessian_rows), device)
    eigenvalue = hessian_eigenvalue(few, max_iterations=settings.max_iterations, seed=settings.seed)
    return Sharpness(surface.loss(surface.weights), rises, eigenvalue)


def _line(
    snapshots: Sequence[Snapshot],
    ends: Sequence[PointLoss],
    pair: tuple[int, int],
    measure: Callable[[Snapshot], PointLoss],
    *,
    settings: LandscapeSettings,
    constant_loss: float,
) -> Line:
    """The line between two snapshots whose own losses are known."""
    first, second = pair
    lambdas = tuple(index / (settings.num_lambdas - 1) for index in range(settings.num_lambdas))
    inner = [measure(interpolate(snapshots[first], snapshots[second], position)) for position in lambdas[1:-1]]
    mean_loss = (ends[first].loss + ends[second].loss) / 2
    threshold = max(settings.relative_threshold * mean_loss, settings.absolute_threshold * constant_loss)
    return Line(first, second, lambdas, (ends[first], *inner, ends[second]), threshold)


def _diversity(snapshots: Sequence[Snapshot], inputs: Tensor, targets: Tensor, device: torch.device) -> Diversity:
    members = []
    for snapshot in snapshots:
        preprocessing = snapshot.preprocessing.to(device)
        outputs = network_outputs(snapshot.build_network(device), preprocessing, inputs)
        members.append(predictions(outputs.double(), snapshot.task, preprocessing))
    measure = classification_diversity if snapshots[0].task is Task.CLASSIFICATION else regression_diversity
    return measure(torch.stack(members), targets.cpu())


def _sample(rows: Rows, settings: LandscapeSettings) -> Rows:
    chosen = _sampled(len(rows), settings, "landscape rows")
    return Rows(rows.inputs[chosen], rows.targets[chosen], rows.task, rows.target_unit)


def _sampled(num_rows: int, settings: LandscapeSettings, purpose: str) -> Tensor:
    """Up to ``max_rows`` rows in random order, so that the first of them are a sample too."""
    return torch.randperm(num_rows, generator=generator(settings.seed, purpose))[: settings.max_rows]


def _check(
    snapshots: Sequence[Snapshot], inputs: Tensor, targets: Tensor, train_inputs: Tensor, held_out: tuple[Tensor, Tensor] | None
) -> None:
    """Snapshots must be of one architecture, rows must fit them and their targets."""
    if not snapshots:
        raise EnsembleError("a landscape needs at least one snapshot, got none: wait for the first cycle to end")
    first = snapshots[0]
    for snapshot in snapshots[1:]:
        for name, one, other in (
            ("network", first.config.model, snapshot.config.model),
            *((name, getattr(first, name), getattr(snapshot, name)) for name in ("task", "input_shape", "class_names", "columns")),
        ):
            if one != other:
                raise EnsembleError(f"snapshots must agree in {name}, got {one!s:.200} and {other!s:.200}: measure those of one run")
    for name, rows in (("inputs", inputs), ("train_inputs", train_inputs), *([("held-out inputs", held_out[0])] if held_out else [])):
        if len(rows) == 0 or tuple(rows.shape[1:]) != first.input_shape:
            expected = f"(rows, {', '.join(str(size) for size in first.input_shape)})"
            raise InputError(f"{name} must have the shape {expected} with at least one row, got {tuple(rows.shape)}: reshape them")
    for name, rows, values in (("inputs", inputs, targets), *([("held-out inputs", *held_out)] if held_out else [])):
        if tuple(values.shape) != (len(rows),):
            raise InputError(
                f"{name} must have one target each, got {len(rows)} rows and targets of shape {tuple(values.shape)}: pair them"
            )


def _plain(value: object) -> Any:
    """The same with lists for tuples, and None for numbers that JSON does not have."""
    match value:
        case dict():
            return {key: _plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case float() if not math.isfinite(value):
            return None
    return value
