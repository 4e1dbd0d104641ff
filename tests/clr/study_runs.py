"""Outcomes of study runs that are made up, or trained within a second."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clr.datasets import Dataset
from clr.held_out import EnsembleMetrics
from clr.history import History
from clr.snapshots import Outputs
from clr.studies import StudyRun
from clr.study_outcomes import RunOutcome
from clr.training import CycleEnd, StepReport, run_plan, train

LABELS = torch.arange(60) % 3


def made_up_outputs(seed: int, *, noise: float = 1.5, labels: Tensor = LABELS) -> Outputs:
    """Logits that lean towards the right class; each seed errs elsewhere."""
    draws = torch.Generator().manual_seed(seed)
    logits = [2 * torch.eye(3)[labels] + noise * torch.randn(len(labels), 3, generator=draws) for _ in range(2)]
    return Outputs(logits[0], labels, logits[1], labels.clone())


def made_up_run(*seeds: int, losses: Sequence[float | None] = (2.0, 1.0), search_epochs: float = 0.0) -> RunOutcome:
    """A run with a snapshot for each seed; ten steps for each loss, five in an epoch."""
    rows: list[list[float | None]] = [[10 * (i + 1), 2.0 * (i + 1), 0, 0.1 / (i + 1), loss] for i, loss in enumerate(losses)]
    return RunOutcome([made_up_outputs(seed) for seed in seeds], rows, 10 * len(losses), search_epochs, 5)


def trained_run(run: StudyRun, dataset: Dataset) -> tuple[RunOutcome, list[EnsembleMetrics]]:
    """What a run really leaves behind, and the metrics that it measured of its own ensembles."""
    plan = run_plan(run.config, dataset)
    history = History(plan.schedule.num_steps)
    outputs, ensembles = [], []
    for event in train(run.config, dataset):
        if isinstance(event, StepReport):
            history.record(event)
        elif isinstance(event, CycleEnd):
            assert event.snapshot.outputs is not None
            outputs.append(event.snapshot.outputs)
            ensembles.append(event.ensemble)
    return RunOutcome(outputs, history.rows, plan.schedule.num_steps, 0, plan.steps_per_epoch), ensembles
