"""The landscape around the snapshots of a run: how sharp their minima are, which share a basin, how different they are.

What it costs is in ``clr.landscape_config.most_passes``.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from clr.basins import BasinMap, Line, PointLoss, chosen_pairs, interpolate, map_basins, point_loss
from clr.diversity import Diversity, classification_diversity, regression_diversity
from clr.errors import EnsembleError, InputError
from clr.finite import finite_document
from clr.inference import network_outputs, predictions
from clr.landscape_config import LandscapeSettings
from clr.loss_surface import LossSurface, Rows
from clr.randomness import generator
from clr.rescaling import RescalingCheck, check_rescaling
from clr.sharpness import Sharpness, ball_rises, hessian_eigenvalue
from clr.snapshots import Snapshot
from clr.targets import Task

Result = TypeVar("Result")


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
        document = asdict(self) | {"settings": self.settings.model_dump()}
        for line, entry in zip(self.basins.lines, document["basins"]["lines"], strict=True):
            entry |= {"barrier": line.barrier, "is_one_basin": line.is_one_basin}
        plain: dict[str, Any] = finite_document(document)
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
    train_sample = train_inputs[sampled(len(train_inputs), chosen, "landscape training rows")]
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
    chosen = sampled(len(rows), settings, "landscape rows")
    return Rows(rows.inputs[chosen], rows.targets[chosen], rows.task, rows.target_unit)


def sampled(num_rows: int, settings: LandscapeSettings, purpose: str) -> Tensor:
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
