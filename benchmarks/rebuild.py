"""How long the jobs take to come back from the artifact store after Redis has lost everything.

The store is written by the program's own functions: half of the jobs have ended, a quarter was running with a checkpoint, a quarter
waits. Every one has two claims and a history of 100 rows, the first three quarters have five snapshots.
"""

import argparse
import tempfile
import time
from pathlib import Path

from clr.config import TrainingConfig
from worker import records
from worker.artifacts import ArtifactStore
from worker.ids import new_id, snapshot_id_of
from worker.job_specs import TrainSpec
from worker.job_store import JobStore
from worker.jobs import JobStatus, now_rfc3339
from worker.rebuild import rebuild
from worker.redis_connection import connect
from worker.results import result_document
from worker.valkey_server import ValkeyServer

CYCLES = 5
BOUND_SECONDS = 10.0
"""For 1,000 jobs (issue C, "Rebuild")."""


def write_job(artifacts: ArtifactStore, number: int) -> str:
    """Stores one job as its life would have left it; every fourth waits, every fourth was running."""
    spec = TrainSpec(
        id=new_id("job"),
        name=f"job {number}",
        dataset_id="ds_01M84K9HDDAJZAD5F3E26JSCXC",
        metadata={"number": str(number)},
        config=TrainingConfig(),
        created_at=now_rfc3339(),
        tenant=f"tenant-{number % 3}",
        num_steps=100,
        num_cycles=CYCLES,
        epochs=20.0,
        steps_per_epoch=5,
    )
    job_id = spec.id
    records.write_document(artifacts, records.spec_key(job_id), spec.model_dump(mode="json"))
    if number % 4 == 3:
        return job_id
    for attempt in (1, 2):
        claim = {"epoch": 1000 + attempt, "attempt": attempt, "owner": "worker", "at": now_rfc3339(), "started_at": now_rfc3339()}
        records.write_document(artifacts, records.attempt_key(job_id, 1000 + attempt), claim)
    manifests = []
    for cycle in range(CYCLES):
        metrics = {"validation": {"loss": 1.0 / (cycle + 1), "accuracy": 0.5}, "test": {}}
        manifest = {
            "id": snapshot_id_of(job_id, cycle),
            "job_id": job_id,
            "cycle": cycle,
            "step": 20 * (cycle + 1),
            "epoch": 4.0 * (cycle + 1),
            "learning_rate": 0.0,
            "is_minimum": True,
            "metrics": metrics,
            "ensemble": {"members": cycle + 1, "version": cycle + 1, "validation": metrics["validation"]},
            "files": {},
        }
        records.write_document(artifacts, f"{records.snapshot_prefix(job_id, cycle)}/{records.MANIFEST}", manifest)
        manifests.append(manifest)
    folder = records.checkpoint_prefix(job_id, 100, 1002)
    records.write_document(artifacts, f"{folder}/{records.MANIFEST}", {"step": 100, "seconds_run": 60.0, "files": {}})
    if number % 4 != 2:
        rows = [[step, step / 5, step // 20, 0.1, 1.0 / step] for step in range(1, 101)]
        result = result_document(
            JobStatus.SUCCEEDED,
            stop_reason=None,
            error=None,
            finished_at=now_rfc3339(),
            manifests=manifests,
            rows=rows,
            config=spec.config.model_dump(mode="json"),
            output={},
        )
        records.write_document(artifacts, records.result_key(job_id), result)
    return job_id


def main() -> None:
    """Writes a store, empties the database, and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    num_jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as directory, ValkeyServer(Path(directory) / "valkey") as server:
        artifacts = ArtifactStore.open(Path(directory) / "artifacts")
        job_ids = [write_job(artifacts, number) for number in range(num_jobs)]
        client = connect(server.url)
        client.flushall()
        store = JobStore(client)
        began_at = time.perf_counter()
        restored = rebuild(store, artifacts)
        seconds = time.perf_counter() - began_at
        counts = store.counts()
        assert restored == num_jobs, f"{restored} of {num_jobs} jobs came back"
        assert counts[JobStatus.SUCCEEDED] + counts[JobStatus.QUEUED] == num_jobs
        record = store.get(job_ids[0])
        assert record is not None
        assert record.snapshot_count == CYCLES
        print(
            f"{num_jobs} jobs with {CYCLES} snapshots each came back in {seconds:.2f} s: {1000 * seconds / num_jobs:.2f} s per 1,000 jobs"
        )
        if seconds > BOUND_SECONDS * num_jobs / 1000:
            raise SystemExit(f"that is more than {BOUND_SECONDS:g} s per 1,000 jobs")


if __name__ == "__main__":
    main()
