"""Files of a job that has not ended are lost or damaged: it takes up what is intact, and comes to the same bits."""

from pathlib import Path

import pytest

from clr.checkpoints import load_checkpoint
from clr.tensor_files import save_tensors
from tests.worker.training_jobs import snapshot_sha256s, tiny_config
from tests.worker.workshops import Workshop
from worker import quarantine
from worker.jobs import JobStatus
from worker.records import checkpoints_prefix, learning_rate_key, snapshot_prefix, store_file, write_document
from worker.supervisor import Outcome

RUN = tiny_config(cycles=4, epochs_per_cycle=8)


def interrupted(workshop: Workshop) -> str:
    """A job that was drained after its second snapshot."""
    job_id = workshop.submit(RUN)
    run = workshop.start(job_id)
    workshop.wait_for_snapshots(job_id, 2)
    workshop.is_draining = True
    assert run.result() == Outcome.RELEASED
    workshop.is_draining = False
    return job_id


def warnings(workshop: Workshop, job_id: str) -> list[str]:
    return [event.data["message"] for event in workshop.bench.store.events(job_id, limit=1000) if event.type == "warning"]


@pytest.mark.slow
def test_lost_snapshots_are_taken_again_to_the_same_bits(workshop: Workshop) -> None:
    undisturbed = workshop.submit(RUN)
    assert workshop.supervise(undisturbed) == Outcome.FINISHED
    job_id = interrupted(workshop)
    root = workshop.directory / "artifacts"
    (root / snapshot_prefix(job_id, 0) / "manifest.json").write_bytes(b"{}")
    (root / snapshot_prefix(job_id, 1) / "outputs.safetensors").unlink()
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert workshop.record(job_id).status == JobStatus.SUCCEEDED
    assert snapshot_sha256s(workshop.bench.store, job_id) == snapshot_sha256s(workshop.bench.store, undisturbed)
    for cycle in range(4):
        for entry in workshop.bench.store.snapshots(job_id)[cycle]["files"].values():
            assert workshop.bench.artifacts.stored_sha256(entry["key"]) == entry["sha256"]
    said = warnings(workshop, job_id)
    assert any(message.startswith("snapshot 1 is taken again: ") for message in said)
    assert said[-1] == "no checkpoint is left that can be used: the run begins anew"
    assert f"{snapshot_prefix(job_id, 0)}/manifest.json" in [note["key"] for note in quarantine.notes(workshop.bench.artifacts)]


def test_a_checkpoint_of_other_software_is_passed_over(workshop: Workshop, tmp_path: Path) -> None:
    job_id = interrupted(workshop)
    artifacts = workshop.bench.artifacts
    prefix = checkpoints_prefix(job_id)
    newest = sorted(artifacts.list_names(prefix), key=lambda name: name.partition("-")[::-2])[-1]
    mine = load_checkpoint(workshop.directory / "artifacts" / prefix / newest / "checkpoint.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_tensors(foreign, mine.tensors, {"format": 99, "step": mine.step, "state": mine.state, "caller_state": mine.caller_state})
    folder = f"{prefix}/{mine.step:010d}-{999999999999999:015d}"
    entry = store_file(artifacts, f"{folder}/checkpoint.safetensors", foreign)
    write_document(artifacts, f"{folder}/manifest.json", {"step": mine.step, "files": {"checkpoint": entry}})
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert workshop.record(job_id).status == JobStatus.SUCCEEDED
    (message,) = warnings(workshop, job_id)
    assert message.startswith(f"a checkpoint was passed over: {mine.step:010d}-999999999999999: ")
    assert "format must be 1, got 99" in message


def test_a_damaged_search_is_repeated(workshop: Workshop) -> None:
    job_id = workshop.submit(RUN)
    (workshop.directory / "artifacts" / learning_rate_key(job_id)).write_bytes(b"half")
    assert workshop.supervise(job_id) == Outcome.FINISHED
    assert workshop.record(job_id).status == JobStatus.SUCCEEDED


@pytest.mark.parametrize("harm", ["damage", "delete"])
def test_a_job_without_its_spec_fails_in_words(workshop: Workshop, harm: str) -> None:
    job_id = workshop.submit(RUN)
    path = workshop.directory / "artifacts" / "jobs" / job_id / "spec.json"
    path.write_bytes(path.read_bytes()[:-1]) if harm == "damage" else path.unlink()
    assert workshop.supervise(job_id) == Outcome.FINISHED
    error = workshop.record(job_id).error
    assert error["category"] == "data"
    assert "spec.json" in error["message"]
