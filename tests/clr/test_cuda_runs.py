"""Runs whose steps are CUDA graphs: to the bit the same each time, resumed or not, and never waiting. All need a CUDA device."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from clr.checkpoints import Checkpoint
from clr.training import Rollback, StepReport, train
from tests.clr.graph_runs import CHANGES, diverging, facts, resumable
from tests.clr.tiny import make_config, make_images

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device that computes the same bits each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clr.step_graph.suits_graph", lambda *_: False)


def on_device(changes: dict[str, Any], directory: Path, resume_from: Checkpoint | None = None) -> list[Any]:
    """All that a run on CUDA says; a capture that fails warns, and so fails the test."""
    return facts(train(make_config(**changes), make_images(), device="cuda", resume_from=resume_from), directory)


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graphed_run_repeats_and_resumes_to_the_same_bits(name: str, precision: str, tmp_path: Path) -> None:
    changes = CHANGES[name] | {"precision": precision}
    undisturbed = on_device(changes, tmp_path)
    assert undisturbed == on_device(changes, tmp_path)
    for index, event in enumerate(train(make_config(**changes), make_images(), device="cuda")):
        checkpoint = resumable(event)
        assert checkpoint.state["environment"]["steps"] == "graph"
        assert on_device(changes, tmp_path, checkpoint) == undisturbed[index + 1 :]


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("name", CHANGES)
def test_a_graphed_run_learns_as_one_kernel_by_kernel(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    changes = CHANGES[name] | {"precision": "fp32"}
    by_graph = on_device(changes, tmp_path)
    request.getfixturevalue("without_graphs")
    by_kernels = on_device(changes, tmp_path)
    assert [each[0] for each in by_graph] == [each[0] for each in by_kernels]
    losses = [[each[2] for each in run if len(each) == 4] for run in (by_graph, by_kernels)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.usefixtures("on_cuda")
def test_a_graphed_run_on_the_device_survives_rollbacks(tmp_path: Path) -> None:
    config, dataset = diverging()
    runs = [facts(train(config, dataset, device="cuda"), tmp_path) for _ in range(2)]
    assert any(isinstance(each, Rollback) for each in runs[0])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", CHANGES)
def test_no_step_waits_for_the_device(name: str) -> None:
    config = make_config(**CHANGES[name], schedule={"type": "warm_restarts", "cycles": 1, "epochs": 9})
    reports = (event for event in train(config, make_images(), device="cuda") if isinstance(event, StepReport))
    next(reports)  # the capture waits
    try:
        torch.cuda.set_sync_debug_mode("error")
        steps = [next(reports).step for _ in range(40)]  # eight epochs; after step 50 the run looks whether it has diverged
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(later == earlier + 1 for earlier, later in pairwise(steps))
