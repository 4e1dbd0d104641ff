"""The table of a study in the trainer process, from files as runs leave them behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from clr import tensor_files
from clr.study_config import StudyConfig
from clr.study_outcomes import measure
from tests.clr.study_runs import made_up_outputs
from tests.worker.training_jobs import tiny_spec
from worker.artifacts import ArtifactMissing, ArtifactStore
from worker.job_inputs import job_inputs
from worker.job_specs import StudySpec
from worker.jobs import JobStatus, Phase
from worker.protocol import EXIT_DRAINED, Finished, FirstStep, Line, ResultStaged, Started, TrainerJob
from worker.records import MANIFEST, result_key, snapshot_prefix, store_file, write_document
from worker.results import result_document
from worker.study_job import StudyJob
from worker.study_runs import run_ids
from worker.trainer_dialogue import Requests

Json = dict[str, Any]

CONFIG = StudyConfig.model_validate({"seeds": [0, 1], "cycles": 2, "epochs": 2, "arms": ["snapshot_ensemble", "cosine"]})


class Runs:
    """The artifacts of a study's runs."""

    def __init__(self, artifacts: ArtifactStore, directory: Path) -> None:
        spec = tiny_spec(CONFIG)
        assert isinstance(spec, StudySpec)
        self.spec = spec
        self.ids = run_ids(spec)
        self.artifacts = artifacts
        self.directory = directory

    def leave(self, key: str, *seeds: int, search_epochs: float | None = None, **changes: Any) -> None:
        """Stores what a run leaves behind: a snapshot's outputs for each seed, and its result, with ``changes``."""
        job_id = self.ids[key]
        manifests = []
        for cycle, seed in enumerate(seeds):
            path = self.directory / f"{key}-{cycle}.safetensors"
            tensor_files.save_tensors(path, vars(made_up_outputs(seed)), {})
            prefix = snapshot_prefix(job_id, cycle)
            manifest = {"id": f"snap_{cycle}", "cycle": cycle, "metrics": {}, "ensemble": {}}
            manifest["files"] = {"outputs": store_file(self.artifacts, f"{prefix}/outputs.safetensors", path)}
            write_document(self.artifacts, f"{prefix}/{MANIFEST}", manifest)
            manifests.append(manifest)
        rate = None if search_epochs is None else {"max_lr": 0.1, "epochs": search_epochs, "result": {}}
        result = result_document(
            JobStatus.SUCCEEDED,
            stop_reason=None,
            error=None,
            finished_at=None,
            manifests=manifests,
            rows=[[20, 2.0, 0, 0.1, 1.5]],
            config=None,
            output={"learning_rate": rate},
        )
        write_document(self.artifacts, result_key(job_id), result | changes)

    def table(self, requests: Requests | None = None) -> tuple[int, list[Line]]:
        """The exit status of the trainer, and what it says."""
        inputs = job_inputs(self.artifacts, self.spec)
        job = TrainerJob(
            spec=self.spec,
            dataset_path="",
            checkpoint_path=None,
            checkpoint_seconds=30,
            files={name: str(path) for name, path in inputs.files.items()},
            documents=inputs.documents,
        )
        said: list[Line] = []
        return StudyJob(self.spec, job, "cpu", said.append, requests or Requests()).to_end(), said


def document(said: list[Line]) -> Json:
    (staged,) = [line for line in said if isinstance(line, ResultStaged)]
    found: Json = orjson.loads(staged.encode())["document"]
    return found


@pytest.fixture
def runs(artifacts: ArtifactStore, tmp_path: Path) -> Runs:
    return Runs(artifacts, tmp_path)


@pytest.fixture
def whole(runs: Runs) -> Runs:
    """Every run has come to its end."""
    for number, key in enumerate(runs.ids):
        seeds = (number, number + 10) if key.startswith("snapshot_ensemble") else (number,)
        runs.leave(key, *seeds)
    return runs


def arm(found: Json, name: str) -> Json:
    (row,) = [row for row in found["arms"] if row["arm"] == name]
    return dict(row)


def test_the_table_is_made_of_the_outputs_of_the_runs(whole: Runs) -> None:
    status, said = whole.table()
    assert status == 0
    assert [type(line) for line in said] == [Started, FirstStep, ResultStaged, Finished]
    assert isinstance(said[1], FirstStep)
    assert said[1].phase == Phase.MEASURING
    found = document(said)
    keys = list(whole.ids)
    seeds = keys.index("snapshot_ensemble-1")
    expected = measure([made_up_outputs(seeds), made_up_outputs(seeds + 10)]).metrics
    assert arm(found, "snapshot_ensemble")["metrics"]["nll"]["per_seed"][1] == expected["nll"]
    assert found["runs"] == [{"key": key, "job_id": whole.ids[key], "status": "succeeded"} for key in keys]
    assert arm(found, "cosine")["loss"]["rows"][0][:4] == [20, 2.0, 0.1, 1.5]


def test_range_tests_of_runs_count_as_budget(runs: Runs) -> None:
    for key in runs.ids:
        runs.leave(key, 0, search_epochs=1.5)
    assert arm(document(runs.table()[1]), "cosine")["budget_epochs"] == 3.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"status": "failed", "error": {"category": "diverged", "message": "the loss is no number", "suggestion": None}},
            "the loss is no number",
        ),
        ({"status": "cancelled"}, "it was cancelled before it had spent its budget"),
        ({"stop_reason": "stopped"}, "it was stopped before it had spent its budget"),
    ],
)
def test_a_run_that_has_not_spent_its_budget_is_not_compared(runs: Runs, changes: Json, reason: str) -> None:
    for key in runs.ids:
        runs.leave(key, 0, **(changes if key == "cosine-1" else {}))
    found = document(runs.table()[1])
    assert arm(found, "cosine")["failures"] == [{"run": "cosine-1", "reason": reason}]
    assert arm(found, "cosine")["num_members"] == [1, None]
    assert arm(found, "snapshot_ensemble")["failures"] == []


def test_a_worker_that_ends_gives_the_study_back(whole: Runs) -> None:
    status, said = whole.table(Requests(drain=True))
    assert status == EXIT_DRAINED
    assert [type(line) for line in said] == [Started, FirstStep]


def test_a_stopped_study_has_no_table(whole: Runs) -> None:
    status, said = whole.table(Requests(stop="now"))
    assert status == 0
    assert said[2:] == [Finished(stop_reason="stopped")]


def test_outputs_that_are_gone_are_named(whole: Runs, artifacts: ArtifactStore) -> None:
    delete: Callable[[str], None] = artifacts.delete
    delete(f"{snapshot_prefix(whole.ids['cosine-0'], 0)}/{MANIFEST}")
    with pytest.raises(ArtifactMissing, match=f"snapshot 0 of the run {whole.ids['cosine-0']} is gone"):
        whole.table()
