"""The landscape of one run's snapshots on the run's own data."""

from collections.abc import Callable, Sequence

from clr.datasets import Dataset
from clr.ensemble_sizes import MAX_VALUES
from clr.errors import EnsembleError
from clr.landscape import LandscapeReport, measure_landscape, sampled
from clr.landscape_config import LandscapeSettings
from clr.snapshots import Snapshot
from clr.splits import split_dataset


def run_landscape(
    snapshots: Sequence[Snapshot],
    dataset: Dataset,
    *,
    settings: LandscapeSettings,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> LandscapeReport:
    """Measures losses on the run's training rows, since minima are minima of the training loss, and diversity on its test rows.

    Args:
        snapshots: In the order of the run.
        dataset: What the run was trained on.
        settings: What to measure; of the rows only so many are read as it asks for.
        device: To compute on.
        on_progress: As in ``measure_landscape``.

    Raises:
        EnsembleError: No snapshots, or such of other data or of several architectures.
    """
    for snapshot in snapshots:
        if snapshot.dataset_sha256 != dataset.sha256:
            raise EnsembleError(
                f"the snapshot of cycle {snapshot.cycle} was trained on data with sha256 {snapshot.dataset_sha256}, got {dataset.sha256}: "
                "measure it on its own data"
            )
    if not snapshots:
        raise EnsembleError("a landscape needs at least one snapshot, got none: wait for the first cycle to end")
    split = split_dataset(dataset, snapshots[0].config)
    rows = split.train[sampled(len(split.train), settings, "run rows")]
    others = split.train[sampled(len(split.train), settings, "run rows for batch norm")]
    test_inputs, test_targets = dataset.inputs, dataset.targets
    if dataset.test_inputs is not None and dataset.test_targets is not None:
        test_inputs, test_targets = dataset.test_inputs, dataset.test_targets
    test = split.test[: max(1, MAX_VALUES // (len(snapshots) * snapshots[0].num_outputs))]
    return measure_landscape(
        snapshots,
        dataset.inputs[rows],
        dataset.targets[rows],
        dataset.inputs[others],
        held_out=(test_inputs[test], test_targets[test]),
        settings=settings,
        device=device,
        on_progress=on_progress,
    )
